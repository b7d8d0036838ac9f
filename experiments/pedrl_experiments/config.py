"""What a comparison is: one frozen record, from a TOML preset, command-line flags and `--set`."""

import dataclasses
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from pedrl_agents.algorithm import Algorithm
from pedrl_agents.knobs import span_of
from pedrl_agents.learner import LearnerConfig
from pedrl_agents.registry import method_class, methods
from pedrl_agents.views import DEFAULT_CONTEXT, Context, PromptFormat
from pedrl_agents.vllm_engine import VllmSettings
from pedrl_env.records import Split
from pedrl_experiments.sets import Value, split_set
from pedrl_sandbox.errors import PedrlError, unknown_name

Backend = Literal["torch", "vllm"]
GATES = ("oracle-sft", "reference-sft")


@dataclass(frozen=True, slots=True)
class CompareConfig:
    """Everything that decides the result of a comparison.

    Attributes:
        suite, dials: the tasks, by registry name.
        base: an added model, a folder or a hub id; empty means the one shipped with the suite.
        prompt_format: ``plain``, ``completion``, ``chat``, or ``auto``: see `views.View`.
        methods: what is compared; `settings` holds each method's knobs, learner's included.
        seeds: runs per method, seeded 0 .. seeds - 1.
        budget: rollouts per run that are charged: teacher's, discarded and probe ones included.
        tasks_per_step: tasks of one step; each costs the method's group size.
        eval_split: held-out tasks; ``validation`` for choosing settings, ``test`` to report.
        eval_points: evaluations between the base's and the final one.
        eval_tasks, eval_samples: size of those evaluations.
        final_tasks, final_samples: size of the final one; never charged to the budget.
        max_new_tokens: longest answer.
        temperature: the policy is softmax(logits / temperature): sampling, gaps and losses alike.
            Below 1 for models too small to write a program at 1.
        rows_per_batch: rollouts sampled side by side, while those before them are verified.
        threads: of torch in each run. Another number rounds otherwise: the same gives the same
            curve bit by bit. One is best where models are tiny and runs are many.
        backend: what samples: ``torch`` or ``vllm``, which `vllm` holds the settings of.
        context: privileged fields that a teacher sees.
        sandbox: backend that runs submissions.
        gates: also run both SFT controls once, to print whether the setting can tell methods apart.
    """

    suite: str = "lexicon"
    dials: Mapping[str, Value] = field(default_factory=dict)
    base: str = ""
    prompt_format: PromptFormat = "auto"
    methods: tuple[str, ...] = ("pedagogical", "grpo", "opsd")
    settings: Mapping[str, Mapping[str, Value]] = field(default_factory=dict)
    seeds: int = 3
    budget: int = 5120
    tasks_per_step: int = 16
    eval_split: Split = "test"
    eval_points: int = 8
    eval_tasks: int = 128
    eval_samples: int = 1
    final_tasks: int = 256
    final_samples: int = 2
    max_new_tokens: int = 32
    temperature: float = 1.0
    rows_per_batch: int = 4096
    threads: int = 1
    backend: Backend = "torch"
    vllm: Mapping[str, Value] = field(default_factory=dict)
    context: tuple[str, ...] = DEFAULT_CONTEXT
    sandbox: str = "zygote"
    gates: bool = True

    def __post_init__(self) -> None:
        _check_types(self)
        if self.eval_split not in get_args(Split):
            raise unknown_name("split", self.eval_split, get_args(Split))
        for name in self.context:
            if name not in get_args(Context):
                raise unknown_name("privileged context", name, get_args(Context))
        if self.prompt_format not in get_args(PromptFormat):
            raise unknown_name("prompt format", self.prompt_format, get_args(PromptFormat))
        if self.backend not in get_args(Backend):
            raise unknown_name("backend", self.backend, get_args(Backend))
        build_vllm(self.vllm)
        if not (type(self.temperature) in (int, float) and 0 < self.temperature < math.inf):
            raise PedrlError(f"temperature must be a number above 0, not {self.temperature!r}")
        if not self.methods:
            raise PedrlError("no methods: name at least one with --methods")
        for method in self.methods:
            if self.methods.count(method) > 1:
                raise PedrlError(f"method {method!r} is named twice: a method is compared once")
        for method in (*self.methods, *self.settings):
            build_method(method, self.knobs(method))
        for method in self.planned:
            size = self.tasks_per_step * build_method(method, self.knobs(method))[0].group_size
            if self.budget < size:
                raise PedrlError(
                    f"budget {self.budget} is less than one step of {method}: {size} rollouts"
                )

    @property
    def gate_methods(self) -> tuple[str, ...]:
        """The controls that are run once beside the methods."""
        return tuple(g for g in GATES if self.gates and g not in self.methods)

    @property
    def planned(self) -> tuple[str, ...]:
        """Every method that will be run, gates included."""
        return (*self.methods, *self.gate_methods)

    def knobs(self, method: str) -> Mapping[str, Value]:
        """Return the settings of one method."""
        return self.settings.get(method, {})

    def to_json(self) -> dict[str, Any]:
        """Return plain data that `from_json` takes back."""
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        plain["methods"], plain["context"] = list(self.methods), list(self.context)
        plain["dials"], plain["vllm"] = dict(self.dials), dict(self.vllm)
        plain["settings"] = {m: dict(s) for m, s in self.settings.items()}
        return plain

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> "CompareConfig":
        """Build a config from plain data, refusing keys that do not exist."""
        known = [f.name for f in dataclasses.fields(cls)]
        for key in plain:
            if key not in known:
                raise unknown_name("setting", key, known)
        values = dict(plain)
        for name in ("methods", "context"):
            if isinstance(values.get(name), list):
                values[name] = tuple(values[name])
        return cls(**values)


def _check_types(config: CompareConfig) -> None:
    """Refuse fields that a preset filled with something else than they hold."""
    for name in ("dials", "settings", "vllm"):
        if not isinstance(getattr(config, name), Mapping):
            raise PedrlError(f"{name} must be a table, not {getattr(config, name)!r}")
    for method, knobs in config.settings.items():
        if not isinstance(knobs, Mapping):
            raise PedrlError(f"settings.{method} must be a table, not {knobs!r}")
    for name in ("methods", "context"):
        value = getattr(config, name)
        if not isinstance(value, tuple) or not all(isinstance(v, str) for v in value):
            raise PedrlError(f"{name} must be a list of names, not {value!r}")
    for item in dataclasses.fields(config):
        value, kind = getattr(config, item.name), type(item.default)
        if kind in (str, bool) and type(value) is not kind:
            raise PedrlError(f"{item.name} must be {kind.__name__}, not {value!r}")
        least = 0 if item.name == "eval_points" else 1
        if kind is int and (type(value) is not int or value < least):
            raise PedrlError(
                f"{item.name} must be a whole number of at least {least}, not {value!r}"
            )


def build_vllm(settings: Mapping[str, Value]) -> VllmSettings:
    """Build vLLM's settings from a table.

    Raises:
        PedrlError: for one that does not exist or whose value does not fit.
    """
    built = VllmSettings()
    for key, value in settings.items():
        built = replace_field(built, key, value, f"vllm.{key}")
    return built


def vllm_url(config: CompareConfig) -> str:
    """Return where the vLLM server is that samples; empty if none does."""
    return build_vllm(config.vllm).url if config.backend == "vllm" else ""


def build_method(name: str, knobs: Mapping[str, Value]) -> tuple[Algorithm, LearnerConfig]:
    """Build an algorithm and its learner's config from flat knobs.

    A nested field is written with a dot, ``divergence.beta``. Fields of `LearnerConfig` and of the
    algorithm share one name space.

    Raises:
        PedrlError: for a knob that does not exist or whose value has the wrong type.
    """
    algorithm_class = method_class(name)
    learner_fields = {f.name for f in dataclasses.fields(LearnerConfig)}
    algorithm: Any = algorithm_class()
    learner = LearnerConfig()
    shared = learner_fields & {f.name for f in dataclasses.fields(algorithm)}
    if shared:
        raise PedrlError(
            f"method {name!r} has a field that the learner has too ({min(shared)}): rename it, so "
            "that a knob means one thing"
        )
    for key, value in knobs.items():
        head = key.partition(".")[0]
        names = [f.name for f in dataclasses.fields(algorithm)]
        if head in learner_fields:
            learner = _replace_part(learner, key, value, name)
        elif head in names:
            algorithm = _replace_part(algorithm, key, value, name)
        else:
            raise unknown_name(f"knob of {name}", key, [*names, *learner_fields])
    if not 0 < learner.learning_rate < math.inf:
        raise PedrlError(
            f"{name}.learning_rate must be greater than 0 and finite, not {learner.learning_rate}"
        )
    return algorithm, learner


def _replace_part(record: Any, key: str, value: Any, method: str) -> Any:
    """Return a record with one field replaced, or with a dot one field of a part of it."""
    head, _, tail = key.partition(".")
    if not tail:
        return replace_field(record, head, value, f"{method}.{key}")
    part = getattr(record, head)
    if not dataclasses.is_dataclass(part):
        raise PedrlError(f"{method}.{head} has no parts: write {method}.{head}=VALUE")
    inner = replace_field(part, tail, value, f"{method}.{key}")
    return dataclasses.replace(record, **{head: inner})


def replace_field(record: Any, name: str, value: Any, label: str) -> Any:
    """Return a record with one field replaced, after checking name and type.

    Raises:
        PedrlError: naming `label`, if there is no such field or the value does not fit it.
    """
    hints = get_type_hints(type(record))
    names = [f.name for f in dataclasses.fields(record)]
    if name not in names:
        raise unknown_name("knob", label, [label.rpartition(name)[0] + n for n in names])
    kind = hints[name]
    choices = get_args(kind)
    if choices and all(isinstance(c, str) for c in choices):
        if value not in choices:
            raise unknown_name(f"value for {label}", str(value), choices)
    elif kind is float and type(value) in (int, float) and value == value:  # NaN is no setting
        value = float(value)
    elif kind in (bool, int, str) and type(value) is not kind:
        raise PedrlError(f"{label} must be {kind.__name__}, not {value!r}")
    elif kind not in (bool, int, float, str):
        parts = [f.name for f in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else []
        hint = f": set one of its parts ({', '.join(parts)})" if parts else " as a knob"
        raise PedrlError(f"{label} cannot be set directly{hint}")
    elif kind is float:
        raise PedrlError(f"{label} must be a number, not {value!r}")
    span = span_of(type(record), name)
    if span is not None and value not in span:
        raise PedrlError(f"{label} must be {span}, not {value!r}")
    return dataclasses.replace(record, **{name: value})


def preset_names() -> list[str]:
    """Return the presets that ship with the package."""
    folder = files("pedrl_experiments") / "configs"
    return sorted(p.name.removesuffix(".toml") for p in folder.iterdir() if p.name.endswith("toml"))


def load_preset(name: str) -> dict[str, Any]:
    """Read a preset by name, or a TOML file by path, as plain data for `from_json`.

    Raises:
        PedrlError: if there is no such preset or file, or it is not TOML.
    """
    if name.endswith(".toml"):
        path = Path(name)
        if not path.is_file():
            raise PedrlError(f"no preset file at {path}")
        text = path.read_text()
    else:
        if name not in preset_names():
            raise unknown_name("preset", name, preset_names())
        text = (files("pedrl_experiments") / "configs" / f"{name}.toml").read_text()
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PedrlError(f"preset {name} is not valid TOML: {error}") from error


def apply_sets(plain: dict[str, Any], sets: Sequence[str]) -> dict[str, Any]:
    """Apply ``key=value`` strings: ``coined=1`` is a dial, ``grpo.learning_rate=3e-4`` a knob.

    ``vllm.cache_gib=4`` is a setting of vLLM.

    Raises:
        PedrlError: if a string has no ``=`` or names an unknown method.
    """
    dials = dict(plain.get("dials", {}))
    settings = {m: dict(s) for m, s in plain.get("settings", {}).items()}
    vllm = dict(plain.get("vllm", {}))
    for item in sets:
        key, value = split_set(item)
        head, dot, tail = key.partition(".")
        if not dot:
            dials[key] = value
        elif head in methods():
            settings.setdefault(head, {})[tail] = value
        elif head == "vllm":
            vllm[tail] = value
        else:
            raise unknown_name("method in --set", head, methods())
    return {**plain, "dials": dials, "settings": settings, "vllm": vllm}

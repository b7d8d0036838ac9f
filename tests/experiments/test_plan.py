"""`pedrl plan`: what is counted is what models really hold; presets for GPUs fit where they say."""

import json
import re
import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from pedrl_agents.learner import Learner
from pedrl_agents.torch_policy import Sampling, TorchPolicy, load_policy
from pedrl_agents.vllm_engine import GIB
from pedrl_env.records import Role, Signal
from pedrl_experiments import cli
from pedrl_experiments.config import CompareConfig, build_method, load_preset
from pedrl_experiments.loop import RunKey, run_one
from pedrl_experiments.plan_command import GPUS
from pedrl_experiments.plan_memory import (
    LOGITS_COPIES,
    TRAINED_TEACHERS,
    Use,
    activations,
    build,
    held,
    layer_of,
    parameters,
    peak,
)
from pedrl_experiments.plan_shapes import SHAPES
from pedrl_experiments.store import read_rows
from tests.small_models import KINDS, small_model

FACTOR = 1.7  # the estimate over what is taken; never below it
PUBLISHED = {  # as the cards of these models say
    "Qwen/Qwen2.5-Coder-0.5B-Instruct": 494_032_768,
    "Qwen/Qwen2.5-Coder-1.5B-Instruct": 1_543_714_304,
    "meta-llama/Llama-3.2-3B-Instruct": 3_212_749_824,
    "Qwen/Qwen3-4B": 4_022_468_096,
    "smollm2": 134_515_008,
}
ARCHITECTURES = {
    "qwen2.5-coder-0.5b-mbpp": "qwen2",
    "qwen2.5-coder-1.5b-livecode": "qwen2",
    "llama-3.2-3b": "llama",
    "qwen3-4b": "qwen3",
}
GPU_PRESETS = tuple(ARCHITECTURES)


@pytest.fixture(scope="module", params=KINDS)
def small(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of two layers with a small tokenizer."""
    return small_model(request.param, tmp_path_factory.mktemp("small") / request.param)


@pytest.fixture(scope="module", params=KINDS)
def deep(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of six layers: of the last one, less is kept than of others."""
    return small_model(request.param, tmp_path_factory.mktemp("deep") / request.param, layers=6)


def signals(role: Role, sequences: int, prompt: int, answer: int, vocabulary: int) -> list[Signal]:
    """Sequences that share no prompt, so that nothing is computed once for several."""
    rng = np.random.default_rng(0)

    def draw(n: int) -> tuple[int, ...]:
        return tuple(rng.integers(5, vocabulary, n).tolist())

    ones = np.ones(answer)
    return [
        Signal(role, draw(prompt), draw(answer), advantages=ones, old_logprobs=-ones)
        for _ in range(sequences)
    ]


def learner_of(small: Path, method: str, **knobs: Any) -> tuple[TorchPolicy, Learner]:
    algorithm, config = build_method(method, knobs)
    policy = load_policy(small, Sampling(), algorithm.storage, lora=config.lora)
    return policy, Learner(policy, config, algorithm.policy_loss, algorithm.divergence)


def test_shapes_are_those_of_the_models() -> None:
    assert {name: parameters(build(shape)) for name, shape in SHAPES.items()} == PUBLISHED


@pytest.mark.parametrize(
    ("method", "knobs"),
    [
        ("pedagogical", {"storage": "separate"}),
        ("pedagogical", {"storage": "lora", "lora.rank": 4}),
        ("pedagogical", {"storage": "lora", "lora.targets": "q_proj,down_proj"}),
        ("grpo", {"policy_loss.kl": 0.1}),
        ("grpo", {"storage": "lora"}),
        ("opsd", {"storage": "separate"}),
        ("sdpo", {"storage": "ema"}),
    ],
)
def test_weights_gradients_and_moments_are_exact(
    small: Path, method: str, knobs: dict[str, Any]
) -> None:
    policy, learner = learner_of(small, method, **knobs)
    vocabulary = policy.models["student"].config.vocab_size
    mine = signals("student", 2, 5, 4, vocabulary)
    if method in TRAINED_TEACHERS:
        mine += signals("teacher", 2, 5, 4, vocabulary)
    learner.step(mine)
    models = [*policy.models.values(), *([learner.reference] if learner.reference else [])]
    weights = {id(w): w for m in models for w in m.parameters()}.values()
    states = [s for o in learner.optimizers.values() for s in o.state.values()]
    moments = [t for state in states for name, t in state.items() if name != "step"]

    def bytes_of(tensors: Any) -> int:
        return sum(t.numel() * t.element_size() for t in tensors)

    plain = json.loads((small / "config.json").read_text())
    algorithm, config = build_method(method, knobs)
    uses = {u.what.split(":")[0]: u.bytes for u in held(build(plain), method, algorithm, config)}
    assert uses["weights"] + uses.get("their base", 0) == bytes_of(weights)
    assert uses["gradients"] == bytes_of(w.grad for w in weights if w.grad is not None)
    assert uses["AdamW's moments"] == bytes_of(moments)


def test_the_methods_that_train_a_teacher_are_named() -> None:
    folder = Path(sys.modules["pedrl_agents"].__path__[0]) / "algorithms"
    trains = {
        p.stem.replace("_", "-")
        for p in folder.glob("*.py")
        if 'reinforce("teacher"' in p.read_text()
    }
    assert trains == set(TRAINED_TEACHERS)


class Live(TorchDispatchMode):
    """Counts the bytes of tensors that exist, from when it is entered."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.sizes: dict[int, int] = {}
        self.now = self.most = 0

    def _note(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self.sizes:
            self.sizes[key] = storage.nbytes()
            self.now += storage.nbytes()
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self._gone, key)
        return tensor

    def _gone(self, key: int) -> None:
        self.now -= self.sizes.pop(key, 0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tree_map_only(torch.Tensor, self._note, out)
        return out


@pytest.mark.parametrize(
    ("storage", "precision", "lengths"),
    [
        ("shared", "fp32", (8, 100, 28)),
        ("shared", "fp32", (2, 40, 400)),
        ("shared", "bf16", (8, 100, 28)),
        ("lora", "bf16", (2, 40, 400)),
    ],
)
def test_activations_are_within_a_factor(
    deep: Path, precision: str, storage: str, lengths: tuple[int, int, int]
) -> None:
    policy, learner = learner_of(deep, "grpo", precision=precision, storage=storage)
    model = policy.models["student"]
    sequences, prompt, answer = lengths
    mine = signals("student", sequences, prompt, answer, model.config.vocab_size)
    learner.step(mine)
    model.zero_grad(set_to_none=True)
    trained = sum(w.numel() * 4 for w in model.parameters() if w.requires_grad)
    with Live() as live:
        learner.step(mine)
    layer = layer_of(build(json.loads((deep / "config.json").read_text())))
    tokens = sequences * (prompt + answer)
    estimate = activations(layer, tokens, prompt + answer, precision)
    logits = (
        LOGITS_COPIES
        * 4
        * min(learner.config.logits_per_chunk, sequences * answer * layer.vocabulary)
    )
    halves = 2 * parameters(model) if precision == "bf16" else 0
    assert 1.0 <= (estimate + logits + halves + trained) / live.most <= FACTOR


def test_uses_of_different_phases_do_not_add_up() -> None:
    uses = [
        Use("a", 8, "always", True),
        Use("b", 1, "always"),
        Use("c", 5, "learning"),
        Use("d", 2, "learning"),
        Use("e", 6, "sampling"),
    ]
    assert peak(uses) == 9 + 7
    assert peak(uses, 4) == 2 + 1 + 7


def run_plan(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["pedrl", "plan", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    captured = capfd.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, captured.out, captured.err


@pytest.mark.parametrize("name", GPU_PRESETS)
def test_presets_fit_where_they_say(
    name: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    text = Path(cli.__file__).with_name("configs").joinpath(f"{name}.toml").read_text()
    head = " ".join(re.findall(r"^#(.*)$", text, re.MULTILINE))
    command = re.search(rf"pedrl plan ({re.escape(name)} --gpu ([\w-]+)[^`]*)`", head)
    assert command is not None
    size = re.search(r"one GPU of (\d+) GiB", head)
    assert size is not None
    assert int(size[1]) == GPUS[command[2]]
    assert "never run at this size by us" in head
    code, stdout, _ = run_plan([*command[1].split(), "--json"], monkeypatch, capfd)
    found = json.loads(stdout)
    assert code == 0
    assert all(method["fits"] for method in found["methods"].values())
    assert max(method["gib"] for method in found["methods"].values()) > 0.4 * found["gpu_gib"]


def test_several_gpus_share_out_weights_and_get_a_launch_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    everything = ["qwen3-4b", "--gpu", "H200"]
    everything += ["--set", "pedagogical.storage=separate", "grpo.storage=shared"]
    code, stdout, _ = run_plan([*everything, "--json"], monkeypatch, capfd)
    alone = json.loads(stdout)["methods"]
    assert code == 1
    enough = alone["pedagogical"]["sharded_over"]
    words = [*everything, "--gpus", str(enough)]
    code, stdout, _ = run_plan([*words, "--json"], monkeypatch, capfd)
    together = json.loads(stdout)
    assert code == 0
    launch = f"accelerate launch --use_fsdp --fsdp_version 2 --num_processes {enough} "
    assert together["command"].startswith(launch)
    for method, found in together["methods"].items():
        assert found["gib"] < alone[method]["gib"]
        uses = {use["what"]: use["bytes"] for use in found["uses"]}
        (moments,) = (u["bytes"] for u in alone[method]["uses"] if u["what"] == "AdamW's moments")
        assert uses[f"AdamW's moments, 1/{enough}"] == moments // enough
        assert uses["weights that work, gathered"] == 4 * together["parameters"]


def test_what_a_server_holds_is_not_counted(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def uses(*words: str) -> dict[str, int]:
        _, stdout, _ = run_plan(["llama-3.2-3b", "--json", *words], monkeypatch, capfd)
        found = json.loads(stdout)["methods"]["grpo"]["uses"]
        return {use["what"]: use["bytes"] for use in found if use["what"].startswith("vLLM's")}

    assert uses()["vLLM's own, a guess"] == 2 * GIB
    assert uses("--set", "vllm.url=http://gpu1:8000") == {
        "vLLM's, at http://gpu1:8000: elsewhere": 0
    }


def test_what_does_not_fit_is_told_with_what_to_change(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    name = "qwen2.5-coder-0.5b-mbpp"
    code, stdout, _ = run_plan([name, "--gpu", "L4", "--json"], monkeypatch, capfd)
    found = json.loads(stdout)["methods"]["pedagogical"]
    assert code == 1
    assert not found["fits"]
    change, gib = found["change"]
    assert change.startswith("--set pedagogical.")
    code, stdout, _ = run_plan([name, "--gpu", "L4", *change.split(), "--json"], monkeypatch, capfd)
    again = json.loads(stdout)["methods"]["pedagogical"]
    assert (again["fits"], again["gib"]) == (True, pytest.approx(gib))
    code, stdout, _ = run_plan([name, "--gpu", "L4"], monkeypatch, capfd)
    assert code == 1
    assert "pedagogical: does not fit on L4 (24 GiB); with --set pedagogical." in stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["llama-3.2-3b", "--gpu", "H10"], "unknown GPU 'H10': did you mean 'H100'"),
        (["lama-3.2-3b"], "unknown preset 'lama-3.2-3b': did you mean 'llama-3.2-3b'"),
        (["llama-3.2-3b", "--prompt-tokens", "0"], "prompts have at least 1 token"),
    ],
)
def test_wrong_plans(
    words: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    code, stdout, stderr = run_plan(words, monkeypatch, capfd)
    assert message in stderr
    assert (code, stdout, stderr.count("\n")) == (2, "", 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", GPU_PRESETS)
@pytest.mark.parametrize("method", ["pedagogical", "grpo"])
def test_two_steps_on_a_small_model_of_the_same_architecture(
    name: str, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that the preset sets but sizes, and the sampler: vLLM has tests of its own."""
    preset = load_preset(name)
    assert SHAPES[preset["base"]]["model_type"] == ARCHITECTURES[name]
    base = small_model(ARCHITECTURES[name], tmp_path / "base")
    # Nothing that such a model says is right: without these, there would be nothing to learn.
    more = {"pedagogical": ("reward", "additive"), "grpo": ("policy_loss.kl", 0.01)}[method]
    knobs = {**preset["settings"][method], "group_size": 2, more[0]: more[1]}
    settings = preset["settings"] | {method: knobs}
    small = {
        "base": str(base),
        "methods": [method],
        "settings": settings,
        "seeds": 1,
        "budget": 8,
        "tasks_per_step": 2,
        "eval_points": 0,
        "eval_tasks": 2,
        "final_tasks": 2,
        "final_samples": 1,
        "max_new_tokens": 8,
        "backend": "torch",
        "vllm": {},
    }
    if preset["suite"] == "hf":
        monkeypatch.chdir(tmp_path)
        _write_problems(tmp_path / "livecode")
    else:
        small |= {"suite": "starter"}  # the files of others are not always there
    config = CompareConfig.from_json(preset | small)
    run_one(config, RunKey(method, 0), tmp_path / "run", lambda *_: None)
    rollouts = read_rows([tmp_path / "run"], "trajectories")
    assert len(rollouts) == 8
    assert {r["step"] for r in rollouts} == {0, 1}
    assert all(r["status"] in ("failed", "malformed", "timeout", "passed") for r in rollouts)
    learner = {"pedagogical": "teacher", "grpo": "student"}[method]
    losses = [r for r in read_rows([tmp_path / "run"], "metrics") if r["name"] == f"loss/{learner}"]
    assert [r["step"] for r in losses] == [1, 2]
    assert (tmp_path / "run" / "final" / "model.safetensors").is_file()


def _write_problems(folder: Path) -> None:
    folder.mkdir()
    for split in ("train", "test"):
        rows = [
            {
                "id": f"{split}-{n}",
                "question": f"Read two numbers and print their sum plus {n}.",
                "tests": {"inputs": ["1 2\n", "3 4\n"], "outputs": [f"{3 + n}\n", f"{7 + n}\n"]},
            }
            for n in range(4)
        ]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(lines)

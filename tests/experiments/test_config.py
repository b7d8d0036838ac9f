"""Configs: every knob can be set by name, and every mistake is named."""

import dataclasses
import math
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from pedrl_agents.algorithm import Algorithm
from pedrl_agents.learner import LearnerConfig
from pedrl_agents.registry import METHODS, method_class
from pedrl_experiments.config import (
    CompareConfig,
    apply_sets,
    build_method,
    load_preset,
    preset_names,
)
from pedrl_experiments.sets import parse_value
from pedrl_sandbox.errors import PedrlError

# A pair of floats; no method of ours asks for another.
NOT_KNOBS = {"betas"}


def other_value(kind: Any, default: Any) -> Any:
    """Some valid value that is not the default."""
    if get_args(kind):
        return next(c for c in get_args(kind) if c != default)
    return {bool: not default, int: 3, float: 0.123, str: "x"}[kind]


def leaf_knobs(record: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Every settable field with a value that differs from its default."""
    knobs = []
    hints = get_type_hints(type(record))
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if dataclasses.is_dataclass(value):
            knobs += leaf_knobs(value, f"{prefix}{field.name}.")
        elif field.name not in NOT_KNOBS:
            knobs.append((prefix + field.name, other_value(hints[field.name], value)))
    return knobs


def read(record: Any, path: str) -> Any:
    for name in path.split("."):
        record = getattr(record, name)
    return record


@pytest.mark.parametrize("name", METHODS)
def test_every_knob_reaches_its_field_and_no_other(name: str) -> None:
    algorithm_class: Any = method_class(name)
    default: Algorithm = algorithm_class()
    for path, value in leaf_knobs(default):
        algorithm, learner = build_method(name, {path: value})
        assert read(algorithm, path) == value, path
        assert learner == LearnerConfig(), path
    for path, value in leaf_knobs(LearnerConfig()):
        algorithm, learner = build_method(name, {path: value})
        assert read(learner, path) == value, path
        assert algorithm == default, path


@pytest.mark.parametrize("name", METHODS)
def test_no_knob_means_two_things(name: str) -> None:
    own = {f.name for f in dataclasses.fields(method_class(name))}  # type: ignore[arg-type]
    assert own.isdisjoint(f.name for f in dataclasses.fields(LearnerConfig))


def test_teacher_only_steps_are_those_of_the_method() -> None:
    algorithm, learner = build_method("pedagogical", {"warmup": 5})
    assert algorithm.warmup == 5  # type: ignore[attr-defined]
    assert learner == LearnerConfig()


@pytest.mark.parametrize(
    ("method", "knobs", "message"),
    [
        ("pedagogicl", {}, "unknown method 'pedagogicl': did you mean 'pedagogical'"),
        ("grpo", {"learning_rte": 1e-3}, "did you mean 'learning_rate'"),
        ("pedagogical", {"kapa": 1.0}, "did you mean 'kappa'"),
        ("opsd", {"divergence.betta": 1.0}, "did you mean 'opsd.divergence.beta'"),
        ("grpo", {"advantage": "grp"}, "did you mean 'group'"),
        ("pedagogical", {"reward": 1}, "unknown value for pedagogical.reward '1'"),
        ("grpo", {"group_size": 2.5}, "group_size must be int, not 2.5"),
        ("grpo", {"group_size": True}, "group_size must be int, not True"),
        ("grpo", {"group_size": 0}, "grpo.group_size must be at least 1"),
        ("grpo", {"learning_rate": "fast"}, "grpo.learning_rate must be a number"),
        ("grpo", {"learning_rate": True}, "grpo.learning_rate must be a number"),
        ("grpo", {"learning_rate": -1e-3}, "grpo.learning_rate must be at least 0"),
        ("grpo", {"learning_rate": 0.0}, "grpo.learning_rate must be greater than 0"),
        ("grpo", {"learning_rate": math.nan}, "grpo.learning_rate must be a number"),
        ("grpo", {"learning_rate": math.inf}, "grpo.learning_rate must be greater than 0"),
        ("pedagogical", {"train_teacher": 1}, "train_teacher must be bool"),
        ("opsd", {"divergence": 0.5}, r"set one of its parts \(beta, top_k, entry_clip, weight\)"),
        ("opsd", {"divergence.beta": 1.5}, "opsd.divergence.beta must be 0 to 1, not 1.5"),
        ("pedagogical", {"replay": -1}, "pedagogical.replay must be at least 0, not -1"),
        ("pedagogical", {"meter": "gp"}, "did you mean 'gap'"),
        ("jolt", {"group_size": 1}, "jolt.group_size must be at least 2, not 1"),
        ("grpo", {"betas": 0.9}, "grpo.betas cannot be set directly as a knob"),
        ("grpo", {"advantage.x": 1}, "has no parts"),
    ],
)
def test_wrong_knobs_are_named(method: str, knobs: dict[str, Any], message: str) -> None:
    with pytest.raises(PedrlError, match=message) as caught:
        build_method(method, knobs)
    assert "\n" not in str(caught.value)


def test_whole_numbers_are_fine_for_real_knobs_and_inf_for_sharpness() -> None:
    algorithm, _ = build_method("pedagogical", {"beta": math.inf, "lam": 2})
    assert (algorithm.beta, algorithm.lam) == (math.inf, 2.0)  # type: ignore[attr-defined]
    assert type(algorithm.lam) is float  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ({"budget": 0}, "budget must be a whole number of at least 1, not 0"),
        ({"budget": 127}, "budget 127 is less than one step of pedagogical: 128 rollouts"),
        ({"budget": 1e4}, "budget must be a whole number"),
        ({"seeds": 0}, "seeds must be"),
        ({"seeds": True}, "seeds must be"),
        ({"final_tasks": 0}, "final_tasks must be"),
        ({"max_new_tokens": 0}, "max_new_tokens must be"),
        ({"eval_points": -1}, "eval_points must be a whole number of at least 0"),
        ({"methods": []}, "no methods"),
        ({"methods": "grpo"}, "methods must be a list of names"),
        ({"methods": ["grpo", "grpo"]}, "'grpo' is named twice"),
        ({"methods": ["grop"]}, "did you mean 'grpo'"),
        ({"settings": {"grop": {}}}, "did you mean 'grpo'"),
        ({"settings": {"grpo": 3}}, "settings.grpo must be a table"),
        ({"dials": 3}, "dials must be a table"),
        ({"suite": 3}, "suite must be str"),
        ({"gates": 1}, "gates must be bool"),
        ({"eval_split": "tst"}, "did you mean 'test'"),
        ({"context": ["solutions"]}, "did you mean 'solution'"),
        ({"bugdet": 1}, "unknown setting 'bugdet': did you mean 'budget'"),
        (
            {"methods": ["grpo"], "settings": {"grpo": {"group_size": 1}}, "budget": 16},
            "budget 16 is less than one step of oracle-sft: 128",
        ),
    ],
)
def test_wrong_comparisons_are_named(plain: dict[str, Any], message: str) -> None:
    with pytest.raises(PedrlError, match=message):
        CompareConfig.from_json(plain)


def test_config_survives_json() -> None:
    import json

    config = CompareConfig(
        dials={"coined": 1},
        methods=("grpo",),
        settings={"grpo": {"learning_rate": 3e-4}, "pedagogical": {"beta": math.inf}},
        context=("notes",),
    )
    assert CompareConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_gates_are_the_controls_that_are_not_compared_anyway() -> None:
    assert CompareConfig().gate_methods == ("oracle-sft", "reference-sft")
    assert CompareConfig(gates=False).gate_methods == ()
    both = CompareConfig(methods=("grpo", "oracle-sft"))
    assert both.planned == ("grpo", "oracle-sft", "reference-sft")


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_a_comparison(name: str) -> None:
    plain = load_preset(name)
    grid = plain.pop("grid", {})
    config = CompareConfig.from_json(plain)
    for method, lists in grid.items():
        for knob, values in lists.items():
            for value in values:
                build_method(method, {**config.knobs(method), knob: value})


def test_presets_by_path_and_their_mistakes(tmp_path: Path) -> None:
    good = tmp_path / "mine.toml"
    good.write_text("budget = 256\n[dials]\ncoined = 1\n")
    assert load_preset(str(good)) == {"budget": 256, "dials": {"coined": 1}}
    bad = tmp_path / "bad.toml"
    bad.write_text("budget = = 3")
    with pytest.raises(PedrlError, match="not valid TOML"):
        load_preset(str(bad))
    with pytest.raises(PedrlError, match="no preset file at"):
        load_preset(str(tmp_path / "none.toml"))
    with pytest.raises(PedrlError, match="did you mean 'quick'"):
        load_preset("quik")


@pytest.mark.parametrize(
    ("text", "value"),
    [("true", True), ("false", False), ("3", 3), ("3e-4", 3e-4), ("inf", math.inf), ("a", "a")],
)
def test_values_are_read_as_what_they_look_like(text: str, value: Any) -> None:
    found = parse_value(text)
    assert (found, type(found)) == (value, type(value))


def test_sets_are_dials_or_knobs_and_add_to_a_preset() -> None:
    plain = {"dials": {"coined": 2, "length": 3}, "settings": {"grpo": {"group_size": 4}}}
    done = apply_sets(plain, ["coined=1", "grpo.learning_rate=3e-4", "opsd.divergence.beta=1"])
    assert done["dials"] == {"coined": 1, "length": 3}
    assert done["settings"] == {
        "grpo": {"group_size": 4, "learning_rate": 3e-4},
        "opsd": {"divergence.beta": 1},
    }
    assert plain["dials"] == {"coined": 2, "length": 3}  # the preset itself is left alone


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("coined", "--set 'coined': write key=value"),
        ("=3", "--set '=3': write key=value"),
        ("gpro.learning_rate=1", "did you mean 'grpo'"),
    ],
)
def test_wrong_sets_are_named(item: str, message: str) -> None:
    with pytest.raises(PedrlError, match=message):
        apply_sets({}, [item])

"""`pedrl methods`: complete, with ranges that hold, and near matches for what is misspelt."""

import dataclasses
import io
import json
import math

import pytest
from rich.console import Console

from pedrl_agents.knobs import Span, knobs_of, span_of
from pedrl_agents.registry import METHODS
from pedrl_experiments.config import build_method
from pedrl_experiments.methods_command import knobs, show
from pedrl_sandbox.errors import PedrlError


def shown(*names: str, as_json: bool = False) -> str:
    page = io.StringIO()
    show(names, as_json, Console(file=page, width=400))
    return page.getvalue()


def test_every_method_is_listed_with_source_samples_and_privilege() -> None:
    text = shown()
    for name, method in METHODS.items():
        (row,) = (line for line in text.splitlines() if line.startswith(f"│ {name} "))
        for fact in (method.summary, method.source, method.samples, method.privileged):
            assert fact != ""
            assert fact in row


@pytest.mark.parametrize("name", METHODS)
def test_every_knob_is_described_and_its_default_is_in_its_range(name: str) -> None:
    listed = knobs(name)
    assert [k.name for k in listed].count("group_size") == 1
    for knob in listed:
        assert knob.about != ""
        assert knob.values != "any"
        algorithm, _ = build_method(name, {knob.name: knob.default})
        assert algorithm == build_method(name, {})[0]


def test_ranges_are_those_that_are_checked() -> None:
    (beta,) = (k for k in knobs("opsd") if k.name == "divergence.beta")
    assert (beta.default, beta.values) == (0.0, "0 to 1")
    (reverse,) = (k for k in knobs("sdft") if k.name == "divergence.beta")
    assert reverse.default == 1.0  # of the method, not of the class that its divergence is of
    with pytest.raises(PedrlError, match="must be 0 to 1, not 2"):
        build_method("opsd", {"divergence.beta": 2})
    (low,) = (k for k in knobs("learner") if k.name == "lr_warmup")
    assert low.values == "at least 0"
    with pytest.raises(PedrlError, match="must be at least 0, not -1"):
        build_method("opsd", {"lr_warmup": -1})


def test_named_methods_show_their_knobs_and_the_learners() -> None:
    text = shown("pedagogical", "hdpo")
    for word in ("entropy-gap", "privileged", "least_g", "teacher_learning_rate", "ema_decay"):
        assert word in text
    assert "beta_teacher" not in text


def test_json_holds_the_same() -> None:
    plain = json.loads(shown(as_json=True))
    assert list(plain["methods"]) == list(METHODS)
    one = json.loads(shown("grpo", as_json=True))
    assert list(one["methods"]) == ["grpo"]
    facts = one["methods"]["grpo"]
    assert facts["knobs"] == [dataclasses.asdict(k) for k in knobs("grpo")]
    assert facts["samples"] == "student"
    assert plain["methods"]["grpo"] == facts


@pytest.mark.parametrize("as_json", [False, True])
def test_a_misspelt_method_has_near_matches(as_json: bool) -> None:
    with pytest.raises(PedrlError, match="unknown method 'sdop': did you mean 'sdpo'"):
        shown("sdop", as_json=as_json)


def test_a_knob_without_words_is_an_error() -> None:
    @dataclasses.dataclass
    class Bare:
        """A config.

        Attributes:
            told: is described.
        """

        told: int = 1
        silent: int = 2

    with pytest.raises(LookupError, match="Bare does not say what silent is"):
        knobs_of(Bare())


def test_spans() -> None:
    span = Span(0.0, 1.0)
    assert 0.0 in span
    assert 1.0 in span
    assert 1.1 not in span
    assert math.nan not in span
    assert span_of(type(build_method("grpo", {})[0]), "advantage") is None

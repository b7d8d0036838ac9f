"""Meters and gates: closed forms, limits, and what must hold of any rollout."""

import math
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pedrl_agents.losses import token_statistics
from pedrl_agents.signals import GATES, METERS, Gate, Meter
from pedrl_env.records import TokenScores
from pedrl_tasks.lexicon import Lexicon
from tests.tiny import tiny_policy

LN = math.log
# All of these say how far a rollout is from what the student would have written.
DISTANCES: tuple[Meter, ...] = ("gap", "surprisal", "entropy-gap", "mean", "max")


def scores(*distributions: list[float], actions: list[int] | None = None) -> TokenScores:
    """What a student with these next-token distributions makes of the actions (the first ones)."""
    logits = torch.tensor(distributions, dtype=torch.float64).log()
    chosen = torch.tensor(actions or [0] * len(distributions))
    return TokenScores(*token_statistics(logits, chosen).numpy().T)


FLAT = [0.1] * 10
LEAP = [0.01, 0.91, *[0.01] * 8]
SURE = [0.91, *[0.01] * 9]


def test_every_meter_by_hand() -> None:
    told = scores([0.25, 0.5, 0.25])  # d = ln 2, -log pi = ln 4, H = 1.5 ln 2, rank 2
    expected = {
        "gap": 1 / 2,
        "mean": 1 / 2,
        "max": 1 / 2,
        "surprisal": 1 / 4,
        "entropy-gap": 2**-2.5,
        "rank-ratio": math.exp(-2 / LN(4)),
    }
    assert expected.keys() == METERS.keys()
    for name, value in expected.items():
        assert METERS[name](told, 1.0, 5.0) == pytest.approx(value), name  # type: ignore[index]
        squared = METERS[name](told, 2.0, 5.0)  # type: ignore[index]
        assert squared == pytest.approx(value**2), name


def test_mean_and_max_are_the_limits_of_the_gap_whatever_beta_is() -> None:
    told = scores(SURE, LEAP, [0.25, 0.5, 0.25, *[0.0] * 7])
    for name, beta in (("mean", 0.0), ("max", math.inf)):
        assert METERS[name](told, 0.7, 5.0) == METERS["gap"](told, 0.7, beta)  # type: ignore[index]


def test_a_leap_where_the_student_is_unsure_passes_the_gap_and_no_other_meter() -> None:
    """Failure (d) of the method: in a flat distribution every token is close to the likeliest."""
    flat, step = scores(SURE, FLAT), scores(SURE, SURE)
    assert METERS["gap"](flat, 1.0, 5.0) == 1.0  # as good as a plain step
    for name in ("surprisal", "entropy-gap"):
        assert METERS[name](flat, 1.0, 5.0) < 0.3 * METERS[name](step, 1.0, 5.0)


def test_rank_ratio_wants_what_informs() -> None:
    """2601.14249: likely and surprising is best, unlikely worst, nothing new is no lesson."""
    informs, leaps, known = scores(FLAT), scores(LEAP), scores([1.0 - 1e-12, 1e-12])
    rank = METERS["rank-ratio"]
    assert rank(informs, 1.0, 5.0) > rank(leaps, 1.0, 5.0)
    assert rank(known, 1.0, 5.0) == pytest.approx(0.0, abs=1e-12)
    certain = scores([1.0])
    assert rank(certain, 1.0, 5.0) == 0.0


@st.composite
def read(draw: st.DrawFn) -> TokenScores:
    """Any rollout of up to six tokens over a vocabulary of five."""
    rows = draw(
        st.lists(st.lists(st.floats(-8, 8), min_size=5, max_size=5), min_size=1, max_size=6)
    )
    actions = draw(st.lists(st.integers(0, 4), min_size=len(rows), max_size=len(rows)))
    logits = torch.tensor(rows, dtype=torch.float64)
    return TokenScores(*token_statistics(logits, torch.tensor(actions)).numpy().T)


@pytest.mark.parametrize("name", get_args(Meter))
@given(told=read(), lam=st.floats(0, 3), beta=st.sampled_from([0.0, 1.0, 5.0, math.inf]))
def test_every_meter_lies_between_nothing_and_one(
    name: Meter, told: TokenScores, lam: float, beta: float
) -> None:
    assert 0.0 <= METERS[name](told, lam, beta) <= 1.0


@pytest.mark.parametrize("name", DISTANCES)
@given(told=read(), more=st.floats(0.1, 5), data=st.data())
def test_more_surprise_at_any_token_is_never_better(
    name: Meter, told: TokenScores, more: float, data: st.DataObject
) -> None:
    where = data.draw(st.integers(0, len(told.gaps) - 1))
    bump = np.zeros_like(told.gaps)
    bump[where] = more
    worse = TokenScores(told.logprobs - bump, told.gaps + bump, told.entropies, told.ranks)
    assert METERS[name](worse, 1.0, 5.0) <= METERS[name](told, 1.0, 5.0) * (1 + 1e-9)


@pytest.mark.parametrize("name", ["gap", "mean", "max"])
@given(told=read())
def test_only_the_students_own_argmax_is_perfect(name: Meter, told: TokenScores) -> None:
    perfect = METERS[name](told, 1.0, 5.0) == 1.0
    assert perfect == bool((told.gaps < 1e-16).all()) or told.gaps.max() < 1e-12


def test_padding_changes_no_reading(tiny_base: Path) -> None:
    """A rollout read alone and beside a longer one is the same rollout."""
    policy = tiny_policy(tiny_base)
    task = Lexicon(coined=2).tasks("train")[0]
    view = policy.prompt_ids(task, "student")
    short, long = policy.encode("    x = x + 1\n"), policy.encode("    x = x + 1\n" * 4)
    (alone,) = policy.score("student", [(view, short)])
    beside, _ = policy.score("student", [(view, short), (policy.prompt_ids(task, "teacher"), long)])
    for name, meter in METERS.items():
        assert meter(beside, 1.0, 5.0) == pytest.approx(meter(alone, 1.0, 5.0), rel=1e-4), name


def test_learnability_has_the_gradient_that_its_formula_says() -> None:
    """d log G / d d_t = -lam * softmax(beta d)_t, by gradcheck in float64."""
    lam, beta = 0.7, 5.0

    def log_g(logits: Tensor) -> Tensor:
        logp = torch.log_softmax(logits, -1)
        gaps = logp.amax(-1) - logp[:, 0]
        return -lam / beta * (torch.logsumexp(beta * gaps, 0) - LN(len(gaps)))

    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(6, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(log_g, (logits,))
    told = TokenScores(
        *token_statistics(logits.detach(), torch.zeros(6, dtype=torch.long)).numpy().T
    )
    value = METERS["gap"](told, lam, beta)
    assert value == pytest.approx(math.exp(log_g(logits).item()), rel=1e-12)


def test_every_gate_by_hand() -> None:
    logprobs = np.array([-5.0, -3.0, -2.9, 0.0])
    expected: dict[Gate, list[float]] = {
        "sigmoid": [1 / (1 + math.exp(-2 * (lp + 3))) for lp in logprobs],
        "hard": [0.0, 1.0, 1.0, 1.0],
        "none": [1.0, 1.0, 1.0, 1.0],
    }
    assert expected.keys() == GATES.keys()
    for name, weights in expected.items():
        assert GATES[name](logprobs, 2.0, -3.0) == pytest.approx(weights)


@given(st.lists(st.floats(-50, 0), min_size=1, max_size=8), st.floats(0, 10), st.floats(-10, 0))
def test_gates_open_with_likelihood(values: list[float], kappa: float, gamma: float) -> None:
    logprobs = np.sort(np.array(values))
    for gate in GATES.values():
        weights = gate(logprobs, kappa, gamma)
        assert ((weights >= 0) & (weights <= 1)).all()
        assert (np.diff(weights) >= -1e-12).all()


def test_the_sigmoid_becomes_the_hard_gate() -> None:
    logprobs = np.array([-4.0, -2.5, -1.0])
    assert GATES["sigmoid"](logprobs, 1e6, -3.0) == pytest.approx(
        GATES["hard"](logprobs, 1.0, -3.0)
    )

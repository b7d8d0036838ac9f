"""The arithmetic of credit assignment, against numbers worked out by hand."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pedrl_agents.signals import (
    backfill,
    copy_rate,
    group_advantages,
    judged,
    learnability,
    surprisal_gate,
)
from pedrl_env.records import Group, Status, Trajectory, Turn, Verdict
from tests.tiny import make_task

LN = math.log
gap_lists = st.lists(st.floats(0, 50), min_size=1, max_size=20)


@pytest.mark.parametrize(
    ("gaps", "lam", "beta", "expected"),
    [
        # One token: the soft maximum of one value is that value.
        ([LN(4)], 1.0, 5.0, 1 / 4),
        ([LN(4)], 2.0, 5.0, 1 / 16),
        # mean(e^0, e^ln3) = 2 -> G = 1/2; beta = 1.
        ([0.0, LN(3)], 1.0, 1.0, 1 / 2),
        # mean(1, 1, 1, 5) = 2 and lam / beta = 3.
        ([0.0, 0.0, 0.0, LN(5)], 3.0, 1.0, 1 / 8),
        # beta = 2: mean(e^0, e^(2 ln 3)) = (1 + 9) / 2 = 5 -> 5^(-1/2).
        ([0.0, LN(3)], 1.0, 2.0, 5**-0.5),
        ([0.0, LN(3)], 0.5, 2.0, 5**-0.25),
        # The limits: mean gap and largest gap.
        ([1.0, 2.0, 6.0], 1.0, 0.0, math.exp(-3)),
        ([1.0, 2.0, 6.0], 0.5, math.inf, math.exp(-3)),
        ([0.0, 0.0], 1.0, 5.0, 1.0),
        ([7.0], 0.0, 5.0, 1.0),
    ],
)
def test_learnability_by_hand(gaps: list[float], lam: float, beta: float, expected: float) -> None:
    assert learnability(np.array(gaps), lam, beta) == pytest.approx(expected, rel=1e-12)


@given(gap_lists)
def test_learnability_tends_to_its_limits(gaps: list[float]) -> None:
    values = np.array(gaps)
    small, large = learnability(values, 1.0, 1e-7), learnability(values, 1.0, 1e5)
    assert small == pytest.approx(learnability(values, 1.0, 0.0), rel=1e-3)
    assert large == pytest.approx(learnability(values, 1.0, math.inf), rel=1e-3)


@given(gap_lists, st.floats(0, 3), st.floats(0, 20))
def test_learnability_lies_between_its_limits(gaps: list[float], lam: float, beta: float) -> None:
    values = np.array(gaps)
    value = learnability(values, lam, beta)
    assert 0 < value <= 1
    low, high = learnability(values, lam, math.inf), learnability(values, lam, 0.0)
    assert low * (1 - 1e-9) <= value <= high * (1 + 1e-9)


@given(gap_lists, st.floats(0.01, 3), st.floats(0, 20), st.data())
def test_a_larger_gap_is_never_more_learnable(
    gaps: list[float], lam: float, beta: float, data: st.DataObject
) -> None:
    where = data.draw(st.integers(0, len(gaps) - 1))
    more = list(gaps)
    more[where] += data.draw(st.floats(0.1, 10))
    before = learnability(np.array(gaps), lam, beta)
    assert learnability(np.array(more), lam, beta) <= before * (1 + 1e-9)


@pytest.mark.parametrize("beta", [5e-324, 1e-183, 1e-16, 1e-12, 1e-8])
def test_a_tiny_beta_is_the_mean_gap(beta: float) -> None:
    """Where log mean exp is all rounding, a larger gap could once be the more learnable one."""
    gaps = np.array([1.5, 0.0, 1.0, 1.0])
    assert learnability(gaps, 1.0, beta) == pytest.approx(math.exp(-gaps.mean()), rel=1e-8)


@given(gap_lists, st.sampled_from([0.0, 0.5, 5.0, math.inf]))
def test_only_the_students_own_argmax_is_perfectly_learnable(
    gaps: list[float], beta: float
) -> None:
    assert learnability(np.zeros(len(gaps)), 1.0, beta) == 1.0
    gaps[0] = max(gaps[0], 0.01)
    assert learnability(np.array(gaps), 1.0, beta) < 1.0


def test_huge_gaps_do_not_overflow() -> None:
    with np.errstate(all="raise", under="ignore"):
        # log mean exp(1e6 * d) = 1e9 - ln 2, divided by 1e6.
        value = learnability(np.array([0.0, 1000.0]), 0.01, 1e6)
    assert value == pytest.approx(math.exp(-10), rel=1e-6)


def test_gate_by_hand() -> None:
    # sigmoid(2 * (logprob + 3)): at the threshold 1/2; one nat above, 1 / (1 + e^-2).
    gate = surprisal_gate(np.array([-3.0, -2.0, -4.0, 0.0]), 2.0, -3.0)
    expected = [1 / 2, 1 / (1 + math.exp(-2)), 1 / (1 + math.exp(2)), 1 / (1 + math.exp(-6))]
    assert gate == pytest.approx(expected, rel=1e-12)


def test_gate_is_a_number_that_no_gradient_can_flow_through() -> None:
    gate = surprisal_gate(np.array([-1.0]), 2.0, -3.0)
    assert type(gate) is np.ndarray
    assert gate.dtype == np.float64


def test_gate_of_hopeless_tokens_vanishes_without_overflow() -> None:
    with np.errstate(over="raise", invalid="raise"):
        gate = surprisal_gate(np.array([-1e5, -800.0]), 4.0, -3.0)
    assert gate == pytest.approx([0.0, 0.0], abs=1e-300)


def test_group_advantages_by_hand() -> None:
    # Group 1: mean 1/4, Bessel std 1/2. Group 2: mean 1/2, Bessel std sqrt(1/2).
    rewards = [[1.0, 0.0, 0.0, 0.0], [1.0, 0.0]]
    first, second = group_advantages(rewards, "group")
    assert first == pytest.approx([0.75 / 0.5001, *[-0.25 / 0.5001] * 3], rel=1e-12)
    assert second == pytest.approx([0.5 / (0.5**0.5 + 1e-4), -0.5 / (0.5**0.5 + 1e-4)], rel=1e-12)


def test_advantages_without_std_are_centred_rewards() -> None:
    first, second = group_advantages([[1.0, 0.0, 0.0, 0.0], [0.3, 0.1]], "none")
    assert first == pytest.approx([0.75, -0.25, -0.25, -0.25])
    assert second == pytest.approx([0.1, -0.1])


def test_batch_std_is_that_of_all_centred_rewards() -> None:
    # Centred: .75, -.25, -.25, -.25, .5, -.5; sum of squares .75 + .5 = 1.25 over n - 1 = 5.
    first, second = group_advantages([[1.0, 0.0, 0.0, 0.0], [1.0, 0.0]], "batch")
    scale = 0.25**0.5 + 1e-4
    assert first == pytest.approx([0.75 / scale, *[-0.25 / scale] * 3], rel=1e-12)
    assert second == pytest.approx([0.5 / scale, -0.5 / scale], rel=1e-12)


def test_batch_std_does_not_blow_up_a_tiny_difference() -> None:
    rewards = [[1.0, 0.0, 1.0, 0.0], [0.010, 0.011, 0.010, 0.010]]
    by_group, by_batch = (group_advantages(rewards, n)[1] for n in ("group", "batch"))
    assert np.abs(by_group).max() > 1.2
    assert np.abs(by_batch).max() < 0.01


@pytest.mark.parametrize("normalisation", ["group", "batch", "none"])
def test_nothing_to_compare_means_exactly_no_advantage(normalisation: str) -> None:
    groups = [[0.7], [], [0.1] * 7, [1.0, 0.0]]
    single, empty, equal, _ = group_advantages(groups, normalisation)  # type: ignore[arg-type]
    assert single.tolist() == [0.0]
    assert empty.tolist() == []
    assert equal.tolist() == [0.0] * 7  # 0.1 * 7 has a mean that rounds away from 0.1


@pytest.mark.parametrize("normalisation", ["group", "batch", "none"])
@settings(max_examples=50)
@given(groups=st.lists(st.lists(st.floats(0, 1), max_size=6), max_size=5))
def test_advantages_are_finite_and_sum_to_zero_in_every_group(
    normalisation: str, groups: list[list[float]]
) -> None:
    advantages = group_advantages(groups, normalisation)  # type: ignore[arg-type]
    assert [len(a) for a in advantages] == [len(g) for g in groups]
    for group in advantages:
        assert np.isfinite(group).all()
        assert group.sum() == pytest.approx(0.0, abs=1e-6)


def trajectory(status: Status) -> Trajectory:
    turn = Turn((1, 2), (3,), (-1.0,), "eos")
    verdict = Verdict(status, float(status == "passed"), 0, 1)
    return Trajectory("hand/t", 0, "student", 0, (turn,), "", verdict, 0, False)


def test_judged_drops_only_what_has_no_verdict() -> None:
    statuses: Sequence[Status] = (
        "passed", "infra_error", "failed", "timeout", "unjudged", "oom", "malformed", "infra_error",
    )  # fmt: skip
    task = make_task("t", "p")
    group = Group(task, "student", tuple(trajectory(s) for s in statuses))
    kept = judged(group)
    assert [t.verdict.status for t in kept.trajectories] == [
        "passed", "failed", "timeout", "oom", "malformed",
    ]  # fmt: skip
    assert (kept.task, kept.role) == (task, "student")


def test_copy_rate_by_hand() -> None:
    # 2-grams of the action: 12, 23, 34, 45; the reference holds 12, 23.
    assert copy_rate([1, 2, 3, 4, 5], [9, 1, 2, 3, 9], n=2) == 0.5
    assert copy_rate([1, 2, 3, 4], [0, 1, 2, 3, 4, 0]) == 1.0
    assert copy_rate([1, 2, 3, 4], [4, 3, 2, 1]) == 0.0
    assert copy_rate([1, 2, 3], [1, 2, 3]) == 0.0  # too short to hold a 4-gram
    assert copy_rate([], []) == 0.0


def test_backfill_by_hand() -> None:
    reference = list(range(100, 110))
    derived = list(range(24))
    pasted = [*derived, *reference[:8]]  # 32 tokens: the window is 4
    gaps = np.zeros(32)
    gaps[22] = 3.0  # beside the paste
    gaps[2] = 1.0  # far from it
    assert backfill(gaps, pasted, reference) == pytest.approx(0.75)
    gaps[19] = 4.0  # one token before the window
    assert backfill(gaps, pasted, reference) == pytest.approx(3 / 8)
    gaps[20] = 8.0  # its first token
    assert backfill(gaps, pasted, reference) == pytest.approx(11 / 16)
    assert backfill(np.ones(24), derived, reference) is None  # nothing pasted
    assert backfill(np.zeros(32), pasted, reference) is None  # nothing surprised
    twice = [*reference[:4], *range(50), *reference[4:8]]  # only the last paste counts
    gaps = np.zeros(58)
    gaps[0] = gaps[-1] = 1.0
    assert backfill(gaps, twice, reference) == 0.5
    long = [*range(100, 104), *range(1000, 1400), *reference[:4]]  # the window is 25 and no more
    gaps = np.zeros(408)
    gaps[404 - 25] = gaps[404 - 26] = 1.0
    assert backfill(gaps, long, reference) == 0.5

"""The arithmetic of credit assignment: learnability, gates, advantages. Pure numpy, no policy.

Formulas as in Chakraborty et al., *Pedagogical RL*, 2026 ("blog"), and DeepSeekMath (2402.03300).
A *meter* reads how a student scores a rollout into G; all but `rank_ratio` differ from the
published one in what counts as the surprise of a token alone.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
from scipy.special import expit

from pedrl_env.records import FloatArray, Group, Role, Signal, TokenScores, Turn

Normalisation = Literal["group", "batch", "none"]
Meter = Literal["gap", "surprisal", "entropy-gap", "rank-ratio", "mean", "max"]
Gate = Literal["sigmoid", "hard", "none"]
STD_EPS = 1e-4
MAX_RANK = 100
BACKFILL_WINDOW = 25


def learnability(gaps: FloatArray, lam: float, beta: float) -> float:
    """Return G = exp(-(lam / beta) * log mean_t exp(beta * d_t)), in (0, 1].

    The soft maximum of the surprise gaps: beta -> 0 gives the mean gap, beta -> inf the largest
    one, so a single leap is not averaged away. G = 1 iff every token is the student's argmax.

    Args:
        gaps: (T,) d_t >= 0 in nats, T >= 1.
        lam: weight of surprise, >= 0.
        beta: sharpness; 0 and ``inf`` are taken as the limits.

    Source: blog, eq. for G.
    """
    top = float(gaps.max())
    if beta < 1e-300:  # below, the products of beta are no longer normal numbers
        soft_max = float(gaps.mean())
    elif np.isinf(beta):
        soft_max = top
    else:
        # Relative to the largest gap nothing overflows; expm1 and log1p keep what beta is small in.
        soft_max = top + float(np.log1p(np.expm1(beta * (gaps - top)).mean())) / beta
    return float(np.exp(-lam * soft_max))


def gap(scores: TokenScores, lam: float, beta: float) -> float:
    """Read the surprise gaps: the published meter. Source: blog."""
    return learnability(scores.gaps, lam, beta)


def mean_gap(scores: TokenScores, lam: float, beta: float) -> float:
    """Read the mean gap, whatever beta is: the limit beta -> 0."""
    return learnability(scores.gaps, lam, 0.0)


def max_gap(scores: TokenScores, lam: float, beta: float) -> float:
    """Read the largest gap, whatever beta is: the limit beta -> inf."""
    return learnability(scores.gaps, lam, np.inf)


def absolute_surprisal(scores: TokenScores, lam: float, beta: float) -> float:
    """Read -log pi_S itself: a guess among ten even chances costs log 10 and not nothing.

    With beta 0 and lam 1, R * G is correctness times likelihood per token. G = 1 only where the
    student is certain, so a natural choice among synonyms is charged as well.
    """
    return learnability(-scores.logprobs, lam, beta)


def entropy_gap(scores: TokenScores, lam: float, beta: float) -> float:
    """Read d_t + H_t, the gap and the student's entropy at that token.

    Ours: where the student is unsure of everything any token has a small gap, and a leap would
    pass for a step. The entropy puts back what a flat distribution takes off the gap.
    """
    return learnability(scores.gaps + scores.entropies, lam, beta)


def rank_ratio(scores: TokenScores, lam: float, beta: float) -> float:
    """Read exp(-lam * RSR), RSR = sum of ranks (capped at 100) / sum of surprisals.

    The rank-surprisal ratio is lowest for tokens that rank high and are still improbable: those
    that inform. Unlike the other meters it gives a rollout that holds nothing new G = 0.

    Source: 2601.14249; its use as a meter is ours.
    """
    surprisal = float(-scores.logprobs.sum())
    if surprisal <= 0:
        return 0.0
    return float(np.exp(-lam * np.minimum(scores.ranks, MAX_RANK).sum() / surprisal))


METERS: Mapping[Meter, Callable[[TokenScores, float, float], float]] = {
    "gap": gap,
    "surprisal": absolute_surprisal,
    "entropy-gap": entropy_gap,
    "rank-ratio": rank_ratio,
    "mean": mean_gap,
    "max": max_gap,
}


def surprisal_gate(logprobs: FloatArray, kappa: float, gamma: float) -> FloatArray:
    """Return w_t = sigmoid(kappa * (log pi_S(tau_t) - gamma)), shape (T,). Source: blog."""
    return np.asarray(expit(kappa * (logprobs - gamma)), dtype=np.float64)


def hard_gate(logprobs: FloatArray, kappa: float, gamma: float) -> FloatArray:
    """Return 1 where log pi_S >= gamma and 0 elsewhere: the sigmoid's limit kappa -> inf."""
    return (logprobs >= gamma).astype(np.float64)


def open_gate(logprobs: FloatArray, kappa: float, gamma: float) -> FloatArray:
    """Return ones: plain imitation."""
    return np.ones_like(logprobs)


GATES: Mapping[Gate, Callable[[FloatArray, float, float], FloatArray]] = {
    "sigmoid": surprisal_gate,
    "hard": hard_gate,
    "none": open_gate,
}


def group_advantages(
    rewards_GS: Sequence[Sequence[float]], normalisation: Normalisation
) -> list[FloatArray]:
    """Return reward minus group mean, divided by the group's std, the batch's, or nothing.

    The std is Bessel-corrected with 1e-4 added (as TRL). A group of one, or with equal rewards,
    gets exactly zero. The batch std is that of the centred rewards over all groups: unlike the
    group's it cannot blow up a tiny difference between two continuous rewards.

    Args:
        rewards_GS: rewards of each group; groups may differ in size. Rollouts lost to
            infrastructure must have been left out by the caller.
        normalisation: what to divide by.
    """
    centred = []
    for rewards in rewards_GS:
        r = np.asarray(rewards, dtype=np.float64)
        equal = len(r) < 2 or np.ptp(r) == 0  # exactly zero, whatever the mean rounds to
        centred.append(np.zeros_like(r) if equal else r - r.mean())
    if normalisation == "none":
        return centred
    if normalisation == "group":
        return [c / (c.std(ddof=1) + STD_EPS) if len(c) > 1 else c for c in centred]
    everything = np.concatenate(centred) if centred else np.zeros(0)
    if len(everything) < 2:
        return centred
    return [c / (everything.std(ddof=1) + STD_EPS) for c in centred]


def reinforce(learner: Role, turn: Turn, advantages: float | FloatArray) -> Signal:
    """Make a policy-gradient signal on a sampled turn, under the view that sampled it.

    Args:
        learner: the role that sampled and learns.
        turn: what was sampled.
        advantages: one for all its T tokens, or (T,).
    """
    return Signal(
        learner,
        turn.prompt_ids,
        turn.action_ids,
        advantages=np.broadcast_to(np.asarray(advantages, np.float64), len(turn.action_ids)),
        old_logprobs=np.asarray(turn.logprobs),
    )


def distil(turn: Turn, teacher_view: tuple[int, ...]) -> Signal:
    """Make a signal that draws the student to the teacher on a turn that the student sampled."""
    return Signal("student", turn.prompt_ids, turn.action_ids, teacher_prompt_ids=teacher_view)


def judged(group: Group) -> Group:
    """Return the group without rollouts that have no verdict: they are no one's failure."""
    kept = tuple(t for t in group.trajectories if t.verdict.judged)
    return group if len(kept) == len(group.trajectories) else Group(group.task, group.role, kept)


def degenerate(group: Group) -> bool:
    """Say whether a group teaches a baseline on R nothing: no two of its verdicts differ."""
    return len({t.verdict.reward for t in judged(group).trajectories}) < 2


def copied(action: Sequence[int], reference: Sequence[int], n: int = 4) -> list[bool]:
    """Say of each token n-gram of the action whether it also occurs in the reference."""
    known = {tuple(reference[i : i + n]) for i in range(len(reference) - n + 1)}
    return [tuple(action[i : i + n]) in known for i in range(len(action) - n + 1)]


def copy_rate(action: Sequence[int], reference: Sequence[int], n: int = 4) -> float:
    """Return the share of the action's token n-grams that also occur in the reference."""
    grams = copied(action, reference, n)
    return sum(grams) / len(grams) if grams else 0.0


def backfill(
    gaps: FloatArray, action: Sequence[int], reference: Sequence[int], n: int = 4
) -> float | None:
    """Return the share of a rollout's surprise that lies next to what it pasted last.

    A teacher that reasons wrongly and then pastes the answer it was shown is given away by a spike
    beside the paste. The pasted answer is the last run of token n-grams that also stand in the
    reference; next to it are 25 tokens on either side, or an eighth of a rollout that is short.

    Args:
        gaps: (T,) d_t in nats.
        action: the T tokens.
        reference: tokens of the reference solution.
        n: tokens that make a paste.

    Returns:
        In [0, 1]; None if nothing was pasted or nothing surprised.
    """
    grams = copied(action, reference, n)
    total = float(gaps.sum())
    if not any(grams) or total == 0:
        return None
    last = len(grams) - 1 - grams[::-1].index(True)
    first = last
    while first > 0 and grams[first - 1]:
        first -= 1
    window = min(BACKFILL_WINDOW, len(action) // 8)
    return float(gaps[max(0, first - window) : last + n + window].sum()) / total

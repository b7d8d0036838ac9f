"""Mechanism numbers: what the report plots beside the learning curves, one definition each."""

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np

from pedrl_agents.reading import Reading
from pedrl_agents.signals import backfill, copy_rate, judged
from pedrl_agents.torch_policy import TorchPolicy
from pedrl_env.records import FloatArray, Group, Trajectory

SHUT, OPEN = 0.1, 0.9
UNREAD = ("raised SyntaxError", "raised IndentationError", "raised TabError")


def rollout_metrics(
    groups: Sequence[Group], style: Callable[[str], str | None]
) -> dict[str, float]:
    """Describe a step's rollouts by role: correctness, format, length, entropy, cuts, styles.

    Entropy is the mean surprisal of sampled tokens, an unbiased estimate under the sampling view.
    Rollouts that were lost to infrastructure are left out; unjudged ones have no correctness.
    """
    metrics: dict[str, float] = {}
    for role in ("student", "teacher"):
        sampled = [t for g in groups if g.role == role for t in g.trajectories]
        kept = [t for t in sampled if t.verdict.status != "infra_error"]
        if not kept:
            continue
        told = [t for t in kept if t.verdict.judged]
        if told:
            metrics[f"{role}/correct"] = _mean([t.verdict.reward for t in told])
            metrics[f"{role}/format"] = _mean([well_formed(t) for t in told])
        metrics[f"{role}/length"] = _mean([len(t.turns[-1].action_ids) for t in kept])
        metrics[f"{role}/truncated"] = _mean([t.truncated for t in kept])
        surprisals = np.concatenate([-np.asarray(t.turns[-1].logprobs) for t in kept])
        metrics[f"{role}/entropy"] = float(surprisals.mean())
        styles = [style(t.text) for t in kept]
        for name in sorted({s for s in styles if s is not None}):
            metrics[f"{role}/style:{name}"] = _mean([s == name for s in styles])
    clean = [g for g in map(judged, groups) if g.trajectories]
    equal = [len({t.verdict.reward for t in g.trajectories}) < 2 for g in clean]
    if equal:
        metrics["groups/degenerate"] = _mean(equal)
    return metrics


def well_formed(trajectory: Trajectory) -> bool:
    """Whether an answer is a program at all: Python read it. Only a judged one can tell.

    The sandbox says so: nothing on this side parses what a model wrote.
    """
    return bool(trajectory.text.strip()) and not trajectory.verdict.detail.endswith(UNREAD)


def teacher_metrics(
    readings: Sequence[Reading],
    gates: Sequence[FloatArray],
    policy: TorchPolicy,
    style: Callable[[str], str | None],
) -> dict[str, float]:
    """Describe teacher rollouts as the student reads them.

    Args:
        readings: of the step's teacher rollouts.
        gates: w_t of each that was imitated (may be empty).
        policy: to encode references for the copy rate.
        style: names the style of an answer.
    """
    if not readings:
        return {}
    gaps = [r.scores.gaps for r in readings]
    flat = np.concatenate(gaps)
    leaps = [r.scores.entropies[r.scores.gaps.argmax()] for r in readings]
    sampled = np.concatenate([np.asarray(r.trajectory.turns[-1].logprobs) for r in readings])
    read = np.concatenate([r.scores.logprobs for r in readings])
    references = {r.task.id: policy.encode(r.task.privileged.solution) for r in readings}
    metrics = {
        "teacher/G": _mean([r.learnability for r in readings]),
        "teacher/gap_mean": float(flat.mean()),
        "teacher/gap_p95": float(np.quantile(flat, 0.95)),
        "teacher/gap_max": _mean([g.max() for g in gaps]),
        "teacher/read_entropy": _mean(np.concatenate([r.scores.entropies for r in readings])),
        "teacher/leap_entropy": _mean(leaps),
        "teacher/kl_student": float((sampled - read).mean()),
        "teacher/copy_rate": _mean(
            [copy_rate(r.action_ids, references[r.task.id]) for r in readings]
        ),
    }
    pasted = [backfill(r.scores.gaps, r.action_ids, references[r.task.id]) for r in readings]
    if known := [share for share in pasted if share is not None]:
        metrics["teacher/backfill"] = _mean(known)
    if gates:
        metrics |= gate_metrics(np.concatenate(gates))
    by_style = defaultdict(list)
    for r in readings:
        by_style[style(r.trajectory.text)].append(r)
    for name, alike in by_style.items():
        if name is not None:
            metrics[f"teacher/G:{name}"] = _mean([r.learnability for r in alike])
            metrics[f"teacher/correct:{name}"] = _mean([r.trajectory.verdict.reward for r in alike])
            metrics[f"teacher/read_entropy:{name}"] = _mean(
                np.concatenate([r.scores.entropies for r in alike])
            )
    return metrics


def gate_metrics(weights: FloatArray) -> dict[str, float]:
    """Describe the gates of a step's imitated tokens: their mean, and a histogram of three bins."""
    return {
        "gate/mean": float(weights.mean()),
        "gate/shut": float((weights < SHUT).mean()),
        "gate/half": float(((weights >= SHUT) & (weights <= OPEN)).mean()),
        "gate/open": float((weights > OPEN).mean()),
    }


def _mean(values: Sequence[float] | FloatArray) -> float:
    return float(np.mean(values))

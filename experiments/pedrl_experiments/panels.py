"""The mechanism panels of the report: which metric, what it means, how to read it."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Panel:
    """One metric of the training rows.

    Attributes:
        metric: its name in ``metrics.parquet``.
        title: heading of the panel.
        reading: one line, how to read it.
        share: drawn from 0 to 100%.
        from_zero: the axis starts at 0.
        main: shown at once rather than under "more".
    """

    metric: str
    title: str
    reading: str
    share: bool = False
    from_zero: bool = True
    main: bool = True


KNOWN = (
    Panel(
        "student/correct",
        "Student: correct rollouts",
        "Share of the student's own training rollouts that pass the tests. Flat at 0 means no "
        "reward to learn from.",
        share=True,
    ),
    Panel(
        "teacher/correct",
        "Teacher: correct rollouts",
        "Share of privileged rollouts that pass. Should stay high while G rises; a fall means the "
        "teacher gives up correctness to please the student.",
        share=True,
    ),
    Panel(
        "teacher/G",
        "Teacher: learnability G",
        "1 = every token is the student's own first choice. Rising G alone proves nothing: it also "
        "rises when the student drifts toward the teacher.",
        share=False,
    ),
    Panel(
        "teacher/style:fused",
        "Teacher: fused style",
        "Share of teacher rollouts that leap to the closed form. Pedagogy works when it falls.",
        share=True,
    ),
    Panel(
        "student/style:fused",
        "Student: fused style",
        "Share of student rollouts in the closed form. A rise means the student copies the leap "
        "instead of the steps.",
        share=True,
    ),
    Panel(
        "teacher/gap_mean",
        "Teacher: mean surprise gap",
        "Mean over tokens of the student's best log-probability minus that of the teacher's token "
        "(nats). Low = an accent the student finds natural.",
    ),
    Panel(
        "teacher/gap_p95",
        "Teacher: 95th-percentile gap",
        "One token in twenty is more surprising than this (nats): between the mean and the spike.",
    ),
    Panel(
        "teacher/gap_max",
        "Teacher: largest gap",
        "The most surprising token of a rollout, averaged (nats). High with a low mean gap = one "
        "leap in an otherwise plain derivation.",
    ),
    Panel(
        "gate/mean",
        "Imitation gate",
        "Mean weight of imitated tokens. Near 0 = almost nothing is imitated; near 1 = plain SFT.",
        share=True,
    ),
    Panel(
        "teacher/kl_student",
        "KL of teacher from student",
        "How far the privileged view is from the student's (nats per token). Near 0 = nothing left "
        "to teach, or a teacher that ignores its privilege.",
    ),
    Panel(
        "teacher/copy_rate",
        "Teacher: copy rate",
        "Token n-gram overlap of the teacher's rollouts with the reference. High = it pastes the "
        "answer.",
        share=True,
    ),
    Panel(
        "teacher/backfill",
        "Teacher: backfill",
        "Share of a rollout's surprise in or beside what it pasted last. High with a high copy "
        "rate = reasoning that leads nowhere, then the privileged answer.",
        share=True,
    ),
    Panel(
        "groups/degenerate",
        "Degenerate groups",
        "Share of groups whose rollouts all got the same reward: they carry no policy gradient.",
        share=True,
    ),
)
ROLES = {"student": "Student", "teacher": "Teacher"}
TEMPLATES = {
    "entropy": ("entropy", "Mean surprisal of the sampled tokens, an estimate of the entropy "
                "(nats). A collapse to 0 ends exploration."),
    "length": ("length", "Mean tokens per rollout. A jump often means a change of style."),
    "truncated": ("truncated", "Share of rollouts cut at the token limit; they count as wrong."),
}  # fmt: skip


def panels(names: Iterable[str]) -> list[Panel]:
    """The panels for the metrics that were logged: the known ones first, in reading order.

    Args:
        names: metric names of the training rows; budgets and times are left out.
    """
    left = {name for name in names if not name.startswith(("budget/", "time/"))}
    found = [panel for panel in KNOWN if panel.metric in left]
    left -= {panel.metric for panel in found}
    return found + [panel_for(name) for name in sorted(left)]


def panel_for(name: str) -> Panel:
    """A panel for any other metric: by role and style if the name has them, else as it is."""
    role, _, rest = name.partition("/")
    who = ROLES.get(role)
    if who and rest.startswith("style:"):
        style = rest.removeprefix("style:")
        return Panel(
            name,
            f"{who}: {style} style",
            f"Share of the {role}'s rollouts written in this style.",
            share=True,
            main=False,
        )
    if who and rest.startswith("G:"):
        style = rest.removeprefix("G:")
        return Panel(
            name,
            f"{who}: G of {style} rollouts",
            "Learnability within one style. The gap between styles is the pressure on the teacher.",
            main=False,
        )
    if who and rest.startswith("correct:"):
        style = rest.removeprefix("correct:")
        return Panel(
            name,
            f"{who}: correct, {style} style",
            f"Share of the {role}'s rollouts in this style that pass: its competence there.",
            share=True,
            main=False,
        )
    if who and rest in TEMPLATES:
        noun, reading = TEMPLATES[rest]
        return Panel(
            name, f"{who}: {noun}", reading, share=rest == "truncated", main=rest == "entropy"
        )
    return Panel(name, name, "As logged by the training loop.", from_zero=False, main=False)


GLOSSARY = (
    (
        "pass@1",
        "Share of held-out tasks solved by one sampled attempt, verified by running it; the mean "
        "over the samples of a task estimates it. pass@k: solved by at least one of k attempts, "
        "unbiased estimator (arXiv 2107.03374).",
    ),
    (
        "IQM",
        "Interquartile mean over seeds: the mean of the middle half of the seeds' scores. Less "
        "moved by one lucky seed than the mean, less wasteful than the median (arXiv 2108.13264).",
    ),
    (
        "95% interval",
        "Percentile bootstrap, 2,000 replicates. Whole seeds are redrawn, and tasks are redrawn "
        "together for all methods. It covers training luck and the choice of tasks. If all samples "
        "agree there is nothing to redraw: the exact binomial bound over tasks stands instead.",
    ),
    (
        "AULC",
        "Area under the learning curve over log2 rollouts, from 1/32 of the budget to the budget, "
        "scaled so that solving everything throughout is 100%. Rewards learning early. The base "
        "model, at 0 rollouts, enters through the line to the first evaluation.",
    ),
    (
        "rollouts to x%",
        "Rollouts until a seed's curve first reaches x% pass@1, median over seeds; “>” marks a "
        "median seed that did not get there within the budget.",
    ),
    (
        "speed-up",
        "Rollouts that the baseline needs to reach a threshold, divided by those of the method. "
        "“≥” where the baseline did not reach it within its budget.",
    ),
    (
        "P(better)",
        "Probability that a random run of one method ends above a random run of the other.",
    ),
    (
        "rollouts",
        "Every sampled attempt in training: student's, teacher's, probes and discarded ones. "
        "Evaluation is not charged.",
    ),
    (
        "G",
        "Spike-aware learnability of a rollout under the student's own prompt, in (0, 1]: "
        "exp(−(λ/β) log mean exp(β d)), d the surprise gap of each token.",
    ),
    (
        "surprise gap d",
        "Log-probability of the student's most likely token minus that of the token written, in "
        "nats; 0 when they are the same.",
    ),
    (
        "gates",
        "Two checks of a setting. SFT on oracle derivations must gain at least 25 points, or "
        "capacity limits everybody; SFT on references must gain at most 5, or there is no leap.",
    ),
)

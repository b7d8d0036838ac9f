"""The student as a meter: how it reads rollouts that a teacher sampled."""

from collections.abc import Sequence
from dataclasses import dataclass

from pedrl_agents.signals import METERS, Meter, judged
from pedrl_agents.torch_policy import TorchPolicy
from pedrl_env.records import Group, Task, TokenScores, Trajectory, Turn


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """One teacher rollout under the student's view and weights.

    Attributes:
        task, trajectory: what was sampled.
        view: the student's prompt.
        scores: of the action tokens, given `view`.
        learnability: G of the rollout.
    """

    task: Task
    trajectory: Trajectory
    view: tuple[int, ...]
    scores: TokenScores
    learnability: float

    @property
    def turn(self) -> Turn:
        """What the teacher sampled."""
        return self.trajectory.turns[-1]

    @property
    def action_ids(self) -> tuple[int, ...]:
        """The sampled tokens."""
        return self.turn.action_ids

    @property
    def correct(self) -> bool:
        """Whether it passed every test."""
        return self.trajectory.verdict.reward == 1.0


def read_as_student(
    groups: Sequence[Group],
    policy: TorchPolicy,
    lam: float = 1.0,
    beta: float = 5.0,
    meter: Meter = "gap",
) -> list[list[Reading]]:
    """Score the judged rollouts of each group under the student's view, in one batch.

    Methods that only log G, and use it for nothing, leave it at the defaults.

    Args:
        groups: P groups of teacher rollouts; those lost to infrastructure are left out.
        policy: whose student reads.
        lam: weight of surprise in G.
        beta: sharpness of G.
        meter: what counts as surprise.

    Returns:
        P lists, in the order of the groups.
    """
    groups = [judged(g) for g in groups]
    views = [policy.prompt_ids(g.task, "student") for g in groups]
    pairs = [
        (view, t.turns[-1].action_ids)
        for g, view in zip(groups, views, strict=True)
        for t in g.trajectories
    ]
    scores = iter(policy.score("student", pairs))
    return [
        [
            Reading(group.task, trajectory, view, s := next(scores), METERS[meter](s, lam, beta))
            for trajectory in group.trajectories
        ]
        for group, view in zip(groups, views, strict=True)
    ]

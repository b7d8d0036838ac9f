"""JOLT (2610.10447): teacher and student learn together, each drawn to the other.

    Delta_t = log pi(tau_t | x, c, tau_<t) - log pi(tau_t | x, tau_<t)
    teacher, on its rollouts:  A_t = A(tau) - beta_T * Delta_t
    student, on its rollouts:  A_t = A(tau) + beta_S * Delta_t

Delta carries no gradient. It is what the privileged context is worth at a token: the teacher pays
for leaning on it, the student is paid for choosing what the teacher would have chosen.

Ours, where METHOD is silent: each view samples half of the group on every task, A is the group's
own normalised reward within a view, and both betas are 0.1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Annotated, ClassVar

import numpy as np

from pedrl_agents.algorithm import Annotation, State
from pedrl_agents.knobs import Span
from pedrl_agents.losses import Divergence, PolicyLoss
from pedrl_agents.mechanism import teacher_metrics
from pedrl_agents.reading import read_as_student
from pedrl_agents.signals import Normalisation, group_advantages, judged, reinforce
from pedrl_agents.torch_policy import Storage, TorchPolicy
from pedrl_env.records import GenerationRequest, Group, Signal, Task


@dataclass(frozen=True, slots=True)
class JOLT:
    """Two views, two policy gradients, one log-ratio between them.

    Attributes:
        group_size: rollouts per task and step: half of them the teacher's, rounded down.
        beta_teacher: what a nat of leaning on the privileged context costs the teacher.
        beta_student: what a nat towards the teacher is worth to the student.
        advantage: ``group`` divides by the group's std, ``batch`` by the batch's, ``none`` not.
        storage: ``shared`` (one policy, as in the formula), or two copies.
    """

    group_size: Annotated[int, Span(2, inf)] = 8
    beta_teacher: Annotated[float, Span(0.0, inf)] = 0.1
    beta_student: Annotated[float, Span(0.0, inf)] = 0.1
    advantage: Normalisation = "group"
    storage: Storage = "shared"
    policy_loss: PolicyLoss = PolicyLoss()
    divergence: ClassVar[Divergence] = Divergence()

    def plan(self, tasks: Sequence[Task], state: State) -> list[GenerationRequest]:
        """Half of the rollouts are the teacher's."""
        half = self.group_size // 2
        return [GenerationRequest(task, "teacher", half) for task in tasks] + [
            GenerationRequest(task, "student", self.group_size - half) for task in tasks
        ]

    def signal(self, groups: Sequence[Group], policy: TorchPolicy, state: State) -> Annotation:
        """Add the log-ratio to the advantage, with the sign of whoever sampled."""
        taught = [judged(g) for g in groups if g.role == "teacher"]
        tried = [judged(g) for g in groups if g.role == "student"]
        readings_GS = read_as_student(taught, policy)
        readings = [r for group in readings_GS for r in group]
        signals: list[Signal] = []
        for r, advantage in zip(readings, self._advantages(taught), strict=True):
            delta = np.asarray(r.turn.logprobs) - r.scores.logprobs
            signals.append(reinforce("teacher", r.turn, advantage - self.beta_teacher * delta))

        turns = [t.turns[-1] for g in tried for t in g.trajectories]
        views = [policy.prompt_ids(g.task, "teacher") for g in tried for _ in g.trajectories]
        pairs = [(view, turn.action_ids) for view, turn in zip(views, turns, strict=True)]
        scores = policy.score("teacher", pairs)
        deltas = [s.logprobs - np.asarray(t.logprobs) for s, t in zip(scores, turns, strict=True)]
        for turn, delta, advantage in zip(turns, deltas, self._advantages(tried), strict=True):
            signals.append(reinforce("student", turn, advantage + self.beta_student * delta))
        metrics = teacher_metrics(readings, [], policy, state.style)
        if deltas:
            metrics["student/kl_teacher"] = -float(np.concatenate(deltas).mean())
        return Annotation(signals, metrics)

    def _advantages(self, groups: Sequence[Group]) -> list[float]:
        rewards_GS = [[t.verdict.reward for t in g.trajectories] for g in groups]
        return [float(a) for g in group_advantages(rewards_GS, self.advantage) for a in g]

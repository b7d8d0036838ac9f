"""Self-distillation policy optimisation (SDPO, 2601.20802): hindsight is the teacher.

    L = mean over tokens of KL(pi_S(. | x, tau_<t) || pi_T(. | x, f, tau_<t)),  tau sampled by pi_S

f is what the student could know after its attempt: another rollout of its group that passed, and
the public feedback on its own if that failed. No reference solution and no hidden test is in it.
pi_T is the student's moving average; the divergence runs over the student's 20 likeliest tokens
and one bucket for all the others. A rollout with neither sibling nor feedback teaches nothing.

Ours, where METHOD is silent: the sibling is the first other one that passed, and feedback is the
verdict's status, its public detail and how many tests passed.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from pedrl_agents.algorithm import Annotation, State
from pedrl_agents.demonstrations import program_of
from pedrl_agents.knobs import Positive
from pedrl_agents.losses import Divergence, PolicyLoss
from pedrl_agents.signals import distil, judged
from pedrl_agents.torch_policy import Storage, TorchPolicy
from pedrl_env.records import (
    GenerationRequest,
    Group,
    Privileged,
    Signal,
    Task,
    Trajectory,
    Verdict,
)


@dataclass(frozen=True, slots=True)
class SDPO:
    """Reverse KL to a teacher that is told how it went.

    Attributes:
        group_size: student rollouts per task and step.
        sibling: show the teacher another rollout of the group that passed.
        feedback: show the teacher the public verdict on the rollout, if it failed.
        storage: ``ema`` (paper), ``shared`` for the live model, ``separate`` for a fixed teacher.
    """

    group_size: Positive = 8
    sibling: bool = True
    feedback: bool = True
    storage: Storage = "ema"
    divergence: Divergence = Divergence(beta=1.0, top_k=20)
    policy_loss: ClassVar[PolicyLoss] = PolicyLoss()

    def plan(self, tasks: Sequence[Task], state: State) -> list[GenerationRequest]:
        """Every rollout is the student's."""
        return [GenerationRequest(task, "student", self.group_size) for task in tasks]

    def signal(self, groups: Sequence[Group], policy: TorchPolicy, state: State) -> Annotation:
        """Point every token at the teacher who knows how this attempt and its siblings went."""
        signals: list[Signal] = []
        rollouts = 0
        for group in (judged(g) for g in groups):
            rollouts += len(group.trajectories)
            for trajectory in group.trajectories:
                told = self._hindsight(group, trajectory)
                if told != Privileged():
                    view = policy.told_ids(group.task, told)
                    signals.append(distil(trajectory.turns[-1], view))
        metrics = {"hindsight/share": len(signals) / rollouts} if rollouts else {}
        return Annotation(signals, metrics)

    def _hindsight(self, group: Group, trajectory: Trajectory) -> Privileged:
        told = Privileged()
        others = (t for t in group.trajectories if t is not trajectory)
        passed = next((t for t in others if t.verdict.reward == 1.0), None)
        if self.sibling and passed is not None:
            told = dataclasses.replace(told, solution=program_of(passed.text, group.task.prompt))
        if self.feedback and trajectory.verdict.reward < 1.0:
            told = dataclasses.replace(told, feedback=_feedback(trajectory.verdict))
        return told


def _feedback(verdict: Verdict) -> str:
    """Say in public words what became of an attempt."""
    told = f"{verdict.status}, {verdict.passed} of {verdict.total} tests passed"
    return f"{told}: {verdict.detail}" if verdict.detail else told

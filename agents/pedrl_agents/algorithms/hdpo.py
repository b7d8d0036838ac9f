"""Hybrid distillation policy optimisation (HDPO, 2603.23871): GRPO, and a hand where it is blind.

    L = L_GRPO + lambda * mean over tokens of JSD(pi_T(. | x, c, tau_<t), pi_S(. | x, tau_<t))

A task whose student rollouts all fail gives GRPO no gradient. For those alone the same model
samples with the privileged context in view, and where such a rollout passes (R = 1) the student is
drawn to the teacher's distributions along it. Teacher and student share weights. The privileged
rollouts are charged, so a step costs more where the student is blind.

Ours, where METHOD is silent: lambda 1, beta 0.5 (the symmetric JSD), half a group of privileged
rollouts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pedrl_agents.algorithm import Annotation, State
from pedrl_agents.algorithms.grpo import GRPO
from pedrl_agents.knobs import Positive
from pedrl_agents.losses import Divergence, PolicyLoss
from pedrl_agents.mechanism import teacher_metrics
from pedrl_agents.reading import read_as_student
from pedrl_agents.signals import Normalisation, judged
from pedrl_agents.torch_policy import Storage, TorchPolicy
from pedrl_env.records import GenerationRequest, Group, Signal, Task


@dataclass(frozen=True, slots=True)
class HDPO:
    """GRPO on the student's rollouts, distillation on privileged ones where all of them failed.

    Attributes:
        group_size: student rollouts per task and step.
        privileged: teacher rollouts for each task that no student rollout solved.
        advantage: of GRPO: ``group``, ``batch`` or ``none``.
        storage: ``shared`` (paper), ``separate`` for a fixed teacher, ``ema``.
    """

    group_size: Positive = 8
    privileged: Positive = 4
    advantage: Normalisation = "group"
    storage: Storage = "shared"
    policy_loss: PolicyLoss = PolicyLoss()
    divergence: Divergence = Divergence(beta=0.5)

    def plan(self, tasks: Sequence[Task], state: State) -> list[GenerationRequest]:
        """The student goes first."""
        return [GenerationRequest(task, "student", self.group_size) for task in tasks]

    def follow_up(
        self, groups: Sequence[Group], spare: Sequence[Task], attempt: int, state: State
    ) -> list[GenerationRequest]:
        """Ask the teacher about the tasks on which every rollout failed."""
        if attempt > 0:
            return []
        blind = [g.task for g in groups if _all_fail(g)]
        return [GenerationRequest(task, "teacher", self.privileged) for task in blind]

    def signal(self, groups: Sequence[Group], policy: TorchPolicy, state: State) -> Annotation:
        """Add up GRPO on one part of the rollouts and distillation on the other."""
        tried = [g for g in groups if g.role == "student"]
        taught = [g for g in groups if g.role == "teacher"]
        signals = list(GRPO(advantage=self.advantage).signal(tried, policy, state).signals)
        readings_GS = read_as_student(taught, policy)
        readings = [r for group in readings_GS for r in group]
        signals += [
            Signal("student", r.view, r.action_ids, teacher_prompt_ids=r.turn.prompt_ids)
            for r in readings
            if r.correct
        ]
        metrics = teacher_metrics(readings, [], policy, state.style)
        if tried:
            metrics["groups/blind"] = sum(map(_all_fail, tried)) / len(tried)
        return Annotation(signals, metrics)


def _all_fail(group: Group) -> bool:
    rewards = [t.verdict.reward for t in judged(group).trajectories]
    return bool(rewards) and not any(rewards)

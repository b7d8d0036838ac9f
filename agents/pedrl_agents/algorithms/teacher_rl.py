"""Teacher RL (the ablation of Chakraborty et al., 2026): an additive reward, and plain SFT.

    r = R - lam * mean_t(-log pi_S(tau_t | x, tau_<t)),   L_S = mean_t(-log pi_S(tau_t)) where R = 1

The teacher is trained like Pedagogical RL's, but what surprises the student is *subtracted*: a
wrong rollout that reads well is worth more than one that does not, and a leap costs what it costs
on average over the rollout, not at its worst token. Correct rollouts are imitated without a gate.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Annotated, ClassVar

import numpy as np

from pedrl_agents.algorithm import Annotation, State
from pedrl_agents.knobs import Count, Positive, Span
from pedrl_agents.losses import Divergence, PolicyLoss
from pedrl_agents.mechanism import teacher_metrics
from pedrl_agents.reading import read_as_student
from pedrl_agents.signals import Normalisation, group_advantages, reinforce
from pedrl_agents.torch_policy import Storage, TorchPolicy
from pedrl_env.records import GenerationRequest, Group, Signal, Task


@dataclass(frozen=True, slots=True)
class TeacherRL:
    """Teacher GRPO on R - lam * mean surprisal, SFT on what passed.

    Attributes:
        group_size: teacher rollouts per task and step.
        lam: weight of the mean surprisal, in reward per nat.
        advantage: ``none`` subtracts the group mean only; ``group`` divides by the group's std;
            ``batch`` by the batch's, as in Pedagogical RL here.
        warmup: first steps in which only the teacher learns.
        storage: two copies, shared weights, or a teacher that is the student's moving average.
    """

    group_size: Positive = 8
    lam: Annotated[float, Span(0.0, inf, "0.5 to 1")] = 1.0
    advantage: Normalisation = "batch"
    warmup: Count = 5
    storage: Storage = "separate"
    policy_loss: PolicyLoss = PolicyLoss()
    divergence: ClassVar[Divergence] = Divergence()

    def plan(self, tasks: Sequence[Task], state: State) -> list[GenerationRequest]:
        """Every rollout is the teacher's."""
        return [GenerationRequest(task, "teacher", self.group_size) for task in tasks]

    def signal(self, groups: Sequence[Group], policy: TorchPolicy, state: State) -> Annotation:
        """Reward the teacher; imitate what passed."""
        readings_GS = read_as_student(groups, policy, self.lam)
        readings = [r for group in readings_GS for r in group]
        rewards_GS = [
            [
                r.trajectory.verdict.reward + self.lam * float(r.scores.logprobs.mean())
                for r in group
            ]
            for group in readings_GS
        ]
        advantages = [a for g in group_advantages(rewards_GS, self.advantage) for a in g]
        signals = [
            reinforce("teacher", r.turn, a) for r, a in zip(readings, advantages, strict=True)
        ]
        kept = [r for r in readings if r.correct] if state.step >= self.warmup else []
        gates = [np.ones(len(r.action_ids)) for r in kept]
        signals += [
            Signal("student", r.view, r.action_ids, ce_weights=gate)
            for r, gate in zip(kept, gates, strict=True)
        ]
        return Annotation(signals, teacher_metrics(readings, gates, policy, state.style))

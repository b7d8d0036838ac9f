"""pi-Distill (2602.04942): one model, two views, one objective.

    J   = alpha * J_T + (1 - alpha) * J_S
    J_T = E_T[R] - beta * KL(pi_T || sg pi_S)
    J_S = E_T[ clip(pi_S / sg pi_T) * A(R) ]

The teacher samples with the privileged context in view. J_T is its policy gradient on
R - beta * sum_t (log pi_T - log pi_S), whose second part is the KL of the whole rollout; J_S is the
student's, on the same rollouts, weighted by what each token is to the student against the teacher.
Student and teacher share weights, and each term is a mean over its own rollouts.

Ours, where METHOD is silent: the value of beta, group baselines for both parts, and the clip range
of J_S (GRPO's).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Annotated, ClassVar

import numpy as np

from pedrl_agents.algorithm import Annotation, State
from pedrl_agents.knobs import Positive, Span
from pedrl_agents.losses import Divergence, PolicyLoss
from pedrl_agents.mechanism import teacher_metrics
from pedrl_agents.reading import Reading, read_as_student
from pedrl_agents.signals import Normalisation, group_advantages, reinforce
from pedrl_agents.torch_policy import Storage, TorchPolicy
from pedrl_env.records import GenerationRequest, Group, Signal, Task


@dataclass(frozen=True, slots=True)
class PiDistill:
    """Teacher and student learn from the teacher's rollouts, on shared weights.

    Attributes:
        group_size: teacher rollouts per task and step.
        alpha: share of the teacher's objective; 1 trains the teacher alone, 0 the student.
        kl: beta of the paper, in reward per nat: what leaving the student costs the teacher.
        advantage: ``group`` divides by the group's std, ``batch`` by the batch's, ``none`` not.
        storage: ``shared`` (paper), or two copies.
    """

    group_size: Positive = 8
    alpha: Annotated[float, Span(0.0, 1.0, "0.5")] = 0.5
    kl: Annotated[float, Span(0.0, inf)] = 0.05
    advantage: Normalisation = "group"
    storage: Storage = "shared"
    policy_loss: PolicyLoss = PolicyLoss()
    divergence: ClassVar[Divergence] = Divergence()

    def plan(self, tasks: Sequence[Task], state: State) -> list[GenerationRequest]:
        """Every rollout is the teacher's."""
        return [GenerationRequest(task, "teacher", self.group_size) for task in tasks]

    def signal(self, groups: Sequence[Group], policy: TorchPolicy, state: State) -> Annotation:
        """Give each rollout an advantage for either view."""
        readings_GS = read_as_student(groups, policy)
        readings = [r for group in readings_GS for r in group]
        paid = self._advantages([[self._reward(r) for r in group] for group in readings_GS])
        plain = self._advantages([[r.trajectory.verdict.reward for r in g] for g in readings_GS])
        signals = []
        for r, advantage_T, advantage_S in zip(readings, paid, plain, strict=True):
            signals.append(reinforce("teacher", r.turn, self.alpha * advantage_T))
            signals.append(
                Signal(
                    "student",
                    r.view,
                    r.action_ids,
                    advantages=np.full(len(r.action_ids), (1 - self.alpha) * advantage_S),
                    old_logprobs=np.asarray(r.turn.logprobs),  # the teacher's: it sampled
                )
            )
        return Annotation(signals, teacher_metrics(readings, [], policy, state.style))

    def _reward(self, reading: Reading) -> float:
        kl = np.sum(np.asarray(reading.turn.logprobs) - reading.scores.logprobs)
        return reading.trajectory.verdict.reward - self.kl * float(kl)

    def _advantages(self, rewards_GS: list[list[float]]) -> list[float]:
        return [float(a) for g in group_advantages(rewards_GS, self.advantage) for a in g]

"""Rejection-sampling SFT from an untrained privileged teacher.

Also known as rationalisation (STaR, 2203.14465) and ReST-EM with a hint (2312.06585).

The teacher samples with the privileged context in view and never learns; its correct rollouts are
imitated. This is Pedagogical RL without the pedagogy.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Annotated, ClassVar

from pedrl_agents.algorithm import Annotation, State
from pedrl_agents.knobs import Positive, Span, Weight
from pedrl_agents.losses import Divergence, PolicyLoss
from pedrl_agents.mechanism import teacher_metrics
from pedrl_agents.reading import read_as_student
from pedrl_agents.signals import GATES, Gate
from pedrl_agents.torch_policy import Storage, TorchPolicy
from pedrl_env.records import GenerationRequest, Group, Signal, Task


@dataclass(frozen=True, slots=True)
class RejectionSFT:
    """Sample with privilege, keep what passes, imitate it.

    Attributes:
        group_size: teacher rollouts per task and step.
        gate: ``none`` (plain SFT), or Pedagogical RL's ``sigmoid`` or ``hard`` surprisal gate.
        kappa, gamma: slope and threshold (nats) of the gate.
        lam, beta: of G, which is logged here and used for nothing.
        storage: ``separate`` keeps the teacher at its initial weights; ``shared`` makes it the live
            model (STaR, ReST-EM), ``ema`` its moving average.
    """

    group_size: Positive = 8
    gate: Gate = "none"
    kappa: Annotated[float, Span(0.0, inf, "1 to 4")] = 2.0
    gamma: Annotated[float, Span(-inf, inf, "-2.5 to -4, or -9.2")] = -3.0
    lam: Weight = 1.0
    beta: Weight = 5.0
    storage: Storage = "separate"
    policy_loss: ClassVar[PolicyLoss] = PolicyLoss()
    divergence: ClassVar[Divergence] = Divergence()

    def plan(self, tasks: Sequence[Task], state: State) -> list[GenerationRequest]:
        """Every rollout is the teacher's."""
        return [GenerationRequest(task, "teacher", self.group_size) for task in tasks]

    def signal(self, groups: Sequence[Group], policy: TorchPolicy, state: State) -> Annotation:
        """Imitate the correct rollouts."""
        readings_GS = read_as_student(groups, policy, self.lam, self.beta)
        readings = [r for group in readings_GS for r in group]
        kept = [r for r in readings if r.correct]
        gates = [GATES[self.gate](r.scores.logprobs, self.kappa, self.gamma) for r in kept]
        signals = [
            Signal("student", r.view, r.action_ids, ce_weights=weights)
            for r, weights in zip(kept, gates, strict=True)
        ]
        return Annotation(signals, teacher_metrics(readings, gates, policy, state.style))

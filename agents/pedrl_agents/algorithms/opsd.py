"""On-policy self-distillation (OPSD, 2601.18734): the student samples, the teacher corrects tokens.

    L = mean over tokens of D(pi_T(. | x, c, tau_<t), pi_S(. | x, tau_<t)),  tau sampled by pi_S

The teacher is the same model with the privileged context in its prompt, at its initial weights. The
loss is a divergence between the two full next-token distributions, on the student's own tokens.
No reward is used, so training rollouts are not verified; they are charged like any other. The
authors' later code clips each vocabulary entry: ``divergence.entry_clip=0.05``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from pedrl_agents.algorithm import Annotation, State
from pedrl_agents.knobs import Positive
from pedrl_agents.losses import Divergence, PolicyLoss
from pedrl_agents.signals import distil
from pedrl_agents.torch_policy import Storage, TorchPolicy
from pedrl_env.records import GenerationRequest, Group, Task


@dataclass(frozen=True, slots=True)
class OPSD:
    """Distillation from a privileged view of the same model.

    Attributes:
        group_size: student rollouts per task and step.
        storage: ``separate`` keeps the teacher at its initial weights (paper); ``shared`` makes it
            the live model; ``ema`` its moving average.
    """

    group_size: Positive = 8
    storage: Storage = "separate"
    divergence: Divergence = Divergence(beta=0.0)
    policy_loss: ClassVar[PolicyLoss] = PolicyLoss()

    def plan(self, tasks: Sequence[Task], state: State) -> list[GenerationRequest]:
        """Every rollout is the student's, and none needs a verdict."""
        return [GenerationRequest(task, "student", self.group_size, judge=False) for task in tasks]

    def signal(self, groups: Sequence[Group], policy: TorchPolicy, state: State) -> Annotation:
        """Point every student token at the teacher's distribution over it."""
        signals = []
        for group in groups:
            teacher_view = policy.prompt_ids(group.task, "teacher")
            signals += [distil(t.turns[-1], teacher_view) for t in group.trajectories]
        return Annotation(signals)

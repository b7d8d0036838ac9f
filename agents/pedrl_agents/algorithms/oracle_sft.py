"""SFT on derivations in the base's own style: the control that bounds what a setting allows.

No real method is given these answers. If this does not gain a lot, the setting is limited by
capacity and nothing can win in it. Nothing is sampled: demonstrations are counted apart, and the
curve advances as if each step had cost its tasks' rollouts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from pedrl_agents.algorithm import Annotation, State
from pedrl_agents.demonstrations import carry_tasks, imitate
from pedrl_agents.knobs import Positive
from pedrl_agents.losses import Divergence, PolicyLoss
from pedrl_agents.torch_policy import Storage, TorchPolicy
from pedrl_env.records import GenerationRequest, Group, Task


@dataclass(frozen=True, slots=True)
class OracleSFT:
    """Imitate ``privileged.derivation``, one per task and step.

    Attributes:
        group_size: rollouts a task would have cost, for the shared budget axis.
    """

    group_size: Positive = 8
    storage: ClassVar[Storage] = "shared"
    policy_loss: ClassVar[PolicyLoss] = PolicyLoss()
    divergence: ClassVar[Divergence] = Divergence()

    def plan(self, tasks: Sequence[Task], state: State) -> list[GenerationRequest]:
        """Nothing is sampled."""
        return carry_tasks(tasks)

    def signal(self, groups: Sequence[Group], policy: TorchPolicy, state: State) -> Annotation:
        """Imitate the derivation."""
        return imitate(groups, lambda t: t.privileged.derivation, policy)

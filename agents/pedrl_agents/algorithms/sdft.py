"""Self-distillation fine-tuning (SDFT, 2601.19897): a demonstration in context is the teacher.

    L = mean over tokens of KL(pi_S(. | x, tau_<t) || pi_T(. | x, c, tau_<t)),  tau sampled by pi_S

pi_T is the moving average of the student, with the demonstration c before its prompt. OPSD with the
reverse KL and a teacher that moves; a file of its own because the paper is. The demonstration is
the task's reference solution, with whatever else the comparison's privileged context holds.

METHOD leaves the rate of the average open: `ema_decay` is the learner's, 0.95.
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
class SDFT:
    """Reverse KL to a teacher that has the demonstration in view, on the student's own tokens.

    Attributes:
        group_size: student rollouts per task and step.
        storage: ``ema`` (paper), ``shared`` for the live model, ``separate`` for a fixed teacher.
    """

    group_size: Positive = 8
    storage: Storage = "ema"
    divergence: Divergence = Divergence(beta=1.0)
    policy_loss: ClassVar[PolicyLoss] = PolicyLoss()

    def plan(self, tasks: Sequence[Task], state: State) -> list[GenerationRequest]:
        """Every rollout is the student's, and none needs a verdict."""
        return [GenerationRequest(task, "student", self.group_size, judge=False) for task in tasks]

    def signal(self, groups: Sequence[Group], policy: TorchPolicy, state: State) -> Annotation:
        """Point every student token at what the demonstration would have made of it."""
        signals = []
        for group in groups:
            demonstrated = policy.prompt_ids(group.task, "teacher")
            signals += [distil(t.turns[-1], demonstrated) for t in group.trajectories]
        return Annotation(signals)

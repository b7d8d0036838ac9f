"""GRPO (DeepSeekMath, 2402.03300): the student samples, groups are their own baseline.

    A_i = (r_i - mean) / (std + 1e-4),  L = -min(rho A, clip(rho, 1 - eps, 1 + eps_hi) A) + kl * k3

One update per batch of rollouts, so the ratio is 1 and the clip idle unless the sampler differs
from the learner. Its variants are options of the one loss:

- Dr.GRPO (2503.20783): ``advantage=none policy_loss.aggregation=dr_grpo``;
- DAPO (2503.14476): ``policy_loss.clip_high=0.28 policy_loss.aggregation=dapo dynamic=3``;
- GSPO (2507.18071): ``policy_loss.ratio=sequence policy_loss.clip_low=3e-4
  policy_loss.clip_high=4e-4``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Annotated, ClassVar, Literal

from pedrl_agents.algorithm import Annotation, State
from pedrl_agents.knobs import Span
from pedrl_agents.losses import Divergence, PolicyLoss
from pedrl_agents.signals import Normalisation, degenerate, group_advantages, judged, reinforce
from pedrl_agents.torch_policy import TorchPolicy
from pedrl_env.records import GenerationRequest, Group, Task


@dataclass(frozen=True, slots=True)
class GRPO:
    """Group-relative policy optimisation on the verdicts of the student's own rollouts.

    Attributes:
        group_size: student rollouts per task and step.
        advantage: ``group`` divides by the group's std (GRPO), ``none`` does not (Dr.GRPO),
            ``batch`` divides by the batch's. A group of one, or with equal rewards, gets zero.
        dynamic: dynamic sampling (DAPO): groups with equal rewards are dropped and other tasks are
            sampled in their place, at most so many times a step. All of it is charged. 0 is off.
        storage: ``lora`` trains an adapter, not the weights.
    """

    group_size: Annotated[int, Span(1, inf, "DeepSeekMath 64; DAPO 16")] = 8
    advantage: Normalisation = "group"
    dynamic: Annotated[int, Span(0, inf, "DAPO: until the batch is full")] = 0
    policy_loss: PolicyLoss = PolicyLoss()
    storage: Literal["shared", "lora"] = "shared"
    divergence: ClassVar[Divergence] = Divergence()

    def plan(self, tasks: Sequence[Task], state: State) -> list[GenerationRequest]:
        """Every rollout is the student's."""
        return [GenerationRequest(task, "student", self.group_size) for task in tasks]

    def follow_up(
        self, groups: Sequence[Group], spare: Sequence[Task], attempt: int, state: State
    ) -> list[GenerationRequest]:
        """Sample another task for every group that teaches nothing."""
        if attempt >= self.dynamic:
            return []
        useful = sum(not degenerate(g) for g in groups)
        return self.plan(spare[: max(0, len(spare) - useful)], state)

    def signal(self, groups: Sequence[Group], policy: TorchPolicy, state: State) -> Annotation:
        """Turn verdicts into group-relative advantages, the same for every token of a rollout."""
        groups = [judged(g) for g in groups]
        if self.dynamic:
            groups = [g for g in groups if not degenerate(g)]
        rewards_GS = [[t.verdict.reward for t in g.trajectories] for g in groups]
        signals = []
        for group, advantages in zip(
            groups, group_advantages(rewards_GS, self.advantage), strict=True
        ):
            for trajectory, advantage in zip(group.trajectories, advantages, strict=True):
                signals.append(reinforce("student", trajectory.turns[-1], advantage))
        return Annotation(signals)

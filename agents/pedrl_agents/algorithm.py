"""What an algorithm is: a frozen config that plans rollouts and turns them into signals.

It never touches an optimizer, a sandbox or a logger; the loop and the learner do, and they know
no algorithm.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from pedrl_agents.forward import Pair
from pedrl_agents.losses import Divergence, PolicyLoss
from pedrl_agents.torch_policy import Storage, TorchPolicy
from pedrl_env.records import GenerationRequest, Group, Signal, Task


@dataclass(frozen=True, slots=True)
class State:
    """Where a run stands when an algorithm is asked.

    Attributes:
        step: training steps done so far; `steps` will be done in all.
        style: names the style of an answer, for mechanism logs; None where a suite has no notion.
        replay: what the last step's annotation kept for this one.
    """

    step: int
    steps: int
    style: Callable[[str], str | None]
    replay: tuple[Pair, ...] = ()


@dataclass(frozen=True, slots=True)
class Annotation:
    """What an algorithm makes of a step's rollouts.

    Attributes:
        signals: for the learner.
        metrics: mechanism numbers of this step, by name (see the report's glossary).
        demonstrations: given answers (not sampled ones) that the signals hold.
        replay: (student prompt, actions) to be handed back at the next step. It is written to
            checkpoints, so nothing privileged belongs into it.
    """

    signals: Sequence[Signal]
    metrics: Mapping[str, float] = field(default_factory=dict)
    demonstrations: int = 0
    replay: tuple[Pair, ...] = ()


class Algorithm(Protocol):
    """The interface of every file in `pedrl_agents.algorithms`."""

    @property
    def group_size(self) -> int:
        """Rollouts a task costs per step."""

    @property
    def storage(self) -> Storage:
        """Whether teacher and student share weights."""

    @property
    def policy_loss(self) -> PolicyLoss:
        """How advantages become a loss."""

    @property
    def divergence(self) -> Divergence:
        """How teacher distributions become a loss."""

    def plan(self, tasks: Sequence[Task], state: State) -> list[GenerationRequest]:
        """Say who samples what, with which view, how often."""

    def signal(self, groups: Sequence[Group], policy: TorchPolicy, state: State) -> Annotation:
        """Assign credit to the rollouts of one step."""


@runtime_checkable
class FollowsUp(Protocol):
    """An algorithm that may ask for more rollouts once it has seen a step's first ones.

    `Algorithm.signal` then gets all groups of the step, and all of them are charged.
    """

    def follow_up(
        self, groups: Sequence[Group], spare: Sequence[Task], attempt: int, state: State
    ) -> list[GenerationRequest]:
        """Say what else to sample; an empty list ends the step's sampling.

        Args:
            groups: everything sampled in this step so far.
            spare: as many tasks as the step began with, others at each attempt.
            attempt: how often this was asked in this step, from 0.
            state: of the run.
        """

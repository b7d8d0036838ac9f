"""What may sample in place of a policy's own loop."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from pedrl_env.records import Role, Turn

if TYPE_CHECKING:
    from pedrl_agents.torch_policy import TorchPolicy


class Engine(Protocol):
    """Samples in place of the policy's own loop, with a copy of its weights."""

    def sample(
        self,
        policy: "TorchPolicy",
        role: Role,
        prompts: Sequence[tuple[int, ...]],
        samples: Sequence[int],
        seeds: Sequence[int],
    ) -> Iterator[tuple[int, Turn]]:
        """Yield rows with their turns, in the order in which they end.

        Args:
            policy: whose weights, as they are now, whose settings and ends of answers are meant.
            role: of it.
            prompts: token ids.
            samples: how many of each; rows count those of the first prompt, then the second's.
            seeds: of the rows, 63 bits each.
        """
        ...

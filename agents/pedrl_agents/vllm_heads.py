"""Attention heads made as wide as vLLM's CPU kernels want them, without changing the model.

Those kernels know a few head sizes, and small models have smaller heads. A head with zeros behind
its dimensions is the same head: zeros add nothing to q . k, and what they add to the output meets
zeros in the next projection. Two things depend on the size itself and are put right: the scale of
attention, in the queries, and the frequencies of rotary positions, in their base.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from torch import Tensor
from transformers import PretrainedConfig

from pedrl_sandbox.errors import PedrlError

ARCHITECTURES: Final = ("llama", "mistral", "qwen2")  # heads that nothing else looks at
_PROJECTION: Final = re.compile(r"\.self_attn\.([qkvo])_proj\.(weight|bias)$")


@dataclass(frozen=True, slots=True)
class Widening:
    """How a model's heads are widened.

    Attributes:
        size: of a head of the model.
        wide: what it becomes.
    """

    size: int
    wide: int

    def overrides(self, config: PretrainedConfig) -> dict[str, Any]:
        """Return what is different in the config of the widened model."""
        rope = dict(config.rope_parameters)
        # theta' ** (-2i / wide) == theta ** (-2i / size): the frequencies stay as they were.
        rope["rope_theta"] = rope["rope_theta"] ** (self.wide / self.size)
        return {"head_dim": self.wide, "rope_parameters": rope}

    def weights(self, named: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """Yield the weights of the widened model, under the same names."""
        for name, weight in named:
            found = _PROJECTION.search(name)
            if found is None:
                yield name, weight
            elif found[1] == "o":
                yield name, self._rows(weight.T).T.contiguous() if weight.ndim == 2 else weight
            else:
                scale = (self.wide / self.size) ** 0.5 if found[1] == "q" else 1.0
                yield name, self._rows(weight) * scale

    def _rows(self, weight: Tensor) -> Tensor:
        """Widen (heads * size, ...) to (heads * wide, ...), half by half: rotations pair these."""
        halves = weight.reshape(-1, 2, self.size // 2, *weight.shape[1:])
        wide = halves.new_zeros(len(halves), 2, self.wide // 2, *weight.shape[1:])
        wide[:, :, : self.size // 2] = halves
        return wide.reshape(-1, *weight.shape[1:])


def widening(config: PretrainedConfig, sizes: Sequence[int]) -> Widening | None:
    """Say how the heads of a model become one of these sizes; None if they are one already.

    Raises:
        PedrlError: they are not, and this kind of model's heads cannot be widened.
    """
    heads: int = config.num_attention_heads
    size = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    if size in sizes:
        return None
    wider = [s for s in sizes if s > size]
    rope = getattr(config, "rope_parameters", None) or {}
    if (
        not wider
        or size % 2
        or config.model_type not in ARCHITECTURES
        or rope.get("rope_type") != "default"
    ):
        raise PedrlError(
            f"vLLM cannot run this model here: its attention heads have size {size}, and those of "
            f"a {config.model_type} model cannot be widened to one of "
            f"{', '.join(map(str, sizes))}: use the torch backend"
        )
    return Widening(size, min(wider))

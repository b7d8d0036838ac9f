"""What each new token of a batch costs beside the model: room for its keys, a mask, a draw."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from pedrl_agents.attention import GROUPED

PER_BLOCK = 256
"""Vocabulary entries that are summed before one of them is looked for."""


class Room(DynamicLayer):
    """Keys and values of a layer, with room for those of tokens that are still to come.

    Args:
        layer: what to begin with.
        owner: (B,) the row of `layer` that each row continues.
        spare: tokens to come.
    """

    def __init__(self, layer: DynamicLayer, owner: Tensor, spare: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        assert layer.keys is not None
        assert layer.values is not None
        self.dtype, self.device = layer.dtype, layer.device
        self.is_initialized = True
        self._stores = [_roomy(t, owner, spare) for t in (layer.keys, layer.values)]
        self._show(layer.keys.shape[-2])

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Append in place; return all keys and values so far."""
        start = self.get_seq_length()
        length = start + key_states.shape[-2]
        for store, states in zip(self._stores, (key_states, value_states), strict=True):
            store[:, :, start:length] = states
        return self._show(length)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows."""
        self._stores = [store[indices] for store in self._stores]
        self._show(self.get_seq_length())

    def _show(self, length: int) -> tuple[Tensor, Tensor]:
        self.keys, self.values = (store[:, :, :length] for store in self._stores)
        return self.keys, self.values


def _roomy(states: Tensor, owner: Tensor, spare: int) -> Tensor:
    _, heads, length, size = states.shape
    store = states.new_empty(len(owner), heads, length + spare, size)
    store[:, :, :length] = states[owner]
    return store


def make_room(cache: DynamicCache, owner: Tensor, spare: int) -> None:
    """Repeat each prompt's keys and values for the rows that continue it, with room for `spare`.

    Layers of other kinds than plain attention grow as transformers lets them.
    """
    for i, layer in enumerate(cache.layers):
        if type(layer) is DynamicLayer:
            cache.layers[i] = Room(layer, owner, spare)
        else:
            layer.batch_select_indices(owner)  # type: ignore[union-attr]


def decoding_mask(model: PreTrainedModel, cache: DynamicCache, mask: Int[Tensor, "B L"]) -> Tensor:
    """Return a mask whose first n entries in the last dimension are those of a step over n tokens.

    Where all layers attend plainly, it is what is added to scores, so that nothing is built from it
    at each step.
    """
    plain = all(isinstance(layer, Room) for layer in cache.layers)
    if not plain or model.config._attn_implementation not in (GROUPED, "eager"):
        return mask
    return ((1 - mask.float()) * torch.finfo(torch.float32).min)[:, None, None]


def draw(
    logits: Float[Tensor, "B V"], temperature: float, generator: torch.Generator
) -> tuple[Int[Tensor, " B"], Float[Tensor, " B"]]:
    """Draw a token of each row by inverse CDF; return them and their log-probabilities.

    Those are at temperature 1, whatever was sampled at. At temperature 0 the likeliest is taken.
    First a block of the vocabulary is drawn, then an entry of it: sums of few numbers are exact
    enough in single precision, and sums of sums are made in double.
    """
    if temperature == 0:
        tokens = logits.argmax(-1)
    else:
        weights = torch.softmax(logits if temperature == 1 else logits / temperature, dim=-1)
        spare = -weights.shape[-1] % PER_BLOCK
        padded = torch.nn.functional.pad(weights, (0, spare)) if spare else weights
        blocks = padded.view(len(weights), -1, PER_BLOCK)
        cdf = blocks.sum(-1).double().cumsum(-1)
        u = torch.rand(len(cdf), 1, generator=generator, device=cdf.device, dtype=cdf.dtype)
        u = u * cdf[:, -1:]
        block = torch.searchsorted(cdf, u, right=True).clamp(max=cdf.shape[-1] - 1)
        rows = torch.arange(len(cdf), device=cdf.device)
        within = blocks[rows, block.squeeze(-1)].double().cumsum(-1)
        before = torch.where(block > 0, cdf.gather(-1, (block - 1).clamp(min=0)), 0.0)
        # Rounding may put u at or past the block's end: its last entry that can be drawn is meant.
        last = torch.searchsorted(within, within[:, -1:].contiguous())
        entry = torch.minimum(torch.searchsorted(within, u - before, right=True), last)
        tokens = (block * PER_BLOCK + entry).squeeze(-1)
        if temperature == 1:
            return tokens, weights.gather(-1, tokens[:, None]).squeeze(-1).log()
    chosen = logits.gather(-1, tokens[:, None]).squeeze(-1)
    return tokens, chosen - torch.logsumexp(logits, dim=-1)

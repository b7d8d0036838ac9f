"""What each new token of a batch costs beside the model: room for its keys, a mask, a draw.

Samples of a prompt that are the same so far have the same keys, values and next distribution. They
are one *state*, computed once; it branches where their draws differ.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from pedrl_agents.attention import GROUPED

Ints = NDArray[np.int64]
Draws = Callable[[Ints], Tensor]
"""Rows of a batch, at each of their tokens: (B, 1) uniform on [0, 1), in double precision."""
TOKENS_SAMPLED = 65536  # side by side, prompts repeated
PER_BLOCK = 512
"""Vocabulary entries that are summed before one of them is looked for."""


class Decoder(Protocol):
    """A model that goes on with prompts, a token of every state at a time."""

    def start(
        self, ids: Int[Tensor, "P T"], mask: Int[Tensor, "P T"], states: int, spare: int
    ) -> Float[Tensor, "P V"]:
        """Run prompts, each a state; return the logits after them.

        Args:
            ids: prompts, padded on the left.
            mask: 1 on what is no padding.
            states: that there will be at most.
            spare: tokens to come.
        """
        ...

    def step(self, tokens: Int[Tensor, " S"]) -> Float[Tensor, "S V"]:
        """Append a token to every state; return the logits after it."""
        ...

    def branch(self, sources: Int[Tensor, " N"]) -> None:
        """Append copies of these states."""
        ...

    def keep(self, states: Int[Tensor, " S"]) -> None:
        """Drop all states but these."""
        ...


class Room(DynamicLayer):
    """Keys and values of a layer, with room for more states and for tokens to come.

    Args:
        layer: what to begin with.
        states: that there will be at most.
        spare: tokens to come.
    """

    def __init__(self, layer: DynamicLayer, states: int, spare: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        assert layer.keys is not None
        assert layer.values is not None
        self.dtype, self.device = layer.dtype, layer.device
        self.is_initialized = True
        self._stores = [_roomy(t, states, spare) for t in (layer.keys, layer.values)]
        self._show(*layer.keys.shape[::2])

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Append tokens in place; return all keys and values so far."""
        states, start = len(key_states), self.get_seq_length()
        length = start + key_states.shape[-2]
        for store, new in zip(self._stores, (key_states, value_states), strict=True):
            store[:states, :, start:length] = new
        return self._show(states, length)

    def branch(self, sources: Tensor) -> None:
        """Append copies of these states in place."""
        assert self.keys is not None
        states, length = len(self.keys), self.get_seq_length()
        for store in self._stores:
            copies = store[:, :, :length].index_select(0, sources)  # thrice as fast as an index
            store[states : states + len(sources), :, :length] = copies
        self._show(states + len(sources), length)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these states."""
        length = self.get_seq_length()
        for store in self._stores:
            store[: len(indices), :, :length] = store[:, :, :length].index_select(0, indices)
        self._show(len(indices), length)

    def _show(self, states: int, length: int) -> tuple[Tensor, Tensor]:
        self.keys, self.values = (store[:states, :, :length] for store in self._stores)
        return self.keys, self.values


def _roomy(tensor: Tensor, states: int, spare: int) -> Tensor:
    prompts, heads, length, size = tensor.shape
    store = tensor.new_empty(states, heads, length + spare, size)
    store[:prompts, :, :length] = tensor
    return store


class Plain:
    """A `Decoder` of any model, through transformers.

    Layers of other kinds than plain attention grow as transformers lets them.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model

    def start(self, ids: Tensor, mask: Tensor, states: int, spare: int) -> Tensor:
        """Run prompts; see `Decoder`."""
        self._cache = DynamicCache(config=self._model.config)
        position = (mask.cumsum(-1) - 1).clamp(min=0)
        logits = self._run(ids, mask, position)
        for i, layer in enumerate(self._cache.layers):
            if type(layer) is DynamicLayer:
                self._cache.layers[i] = Room(layer, states, spare)
        self._position = position[:, -1]
        self._length = ids.shape[1]
        whole = torch.cat([mask, mask.new_ones(len(mask), spare)], dim=-1)
        self._mask = self._added(whole) if self._is_added() else whole
        return logits

    def step(self, tokens: Tensor) -> Tensor:
        """Append tokens; see `Decoder`."""
        self._position, self._length = self._position + 1, self._length + 1
        mask = self._mask[..., : self._length]
        return self._run(tokens[:, None], mask, self._position[:, None])

    def branch(self, sources: Tensor) -> None:
        """Append copies; see `Decoder`."""
        every = torch.arange(len(self._position), device=sources.device)
        both = torch.cat([every, sources])
        for layer in self._cache.layers:
            if isinstance(layer, Room):
                layer.branch(sources)
            else:
                layer.batch_select_indices(both)  # type: ignore[union-attr]
        self._mask, self._position = self._mask[both], self._position[both]

    def keep(self, states: Tensor) -> None:
        """Drop the others; see `Decoder`."""
        self._cache.batch_select_indices(states)
        self._mask, self._position = self._mask[states], self._position[states]

    def _run(self, ids: Tensor, mask: Tensor, position: Tensor) -> Tensor:
        hidden = self._model.base_model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=position,
            past_key_values=self._cache,
            use_cache=True,
        ).last_hidden_state[:, -1]
        logits: Tensor = self._model.get_output_embeddings()(hidden).float()
        return logits

    def _is_added(self) -> bool:
        """Whether a mask can be what is added to scores: all layers attend plainly.

        Then nothing is built from it at each step.
        """
        plain = all(isinstance(layer, Room) for layer in self._cache.layers)
        return plain and self._model.config._attn_implementation in (GROUPED, "eager")

    def _added(self, mask: Tensor) -> Tensor:
        return ((1 - mask.float()) * torch.finfo(torch.float32).min)[:, None, None]


@dataclass(frozen=True, slots=True)
class Split:
    """Where rows go with the tokens that they drew.

    Attributes:
        state: of each row, from now on.
        sources: the states that new ones begin as copies of; they come after those there are.
        tokens: that each state goes on with; of those where no row goes on, any.
        live: those where a row goes on, ascending.
    """

    state: Ints
    sources: Ints
    tokens: Ints
    live: Ints


def split(state: Ints, tokens: Ints, states: int) -> Split:
    """Give rows a state in common where they were in one and drew the same token.

    Where rows leave a state for several, the first of those takes its place.

    Args:
        state: of each row.
        tokens: that each drew.
        states: how many there are.
    """
    order = np.lexsort((tokens, state))  # np.unique does the same in twice the time
    parent, token = state[order], tokens[order]
    left = np.ones(len(order), dtype=bool)  # where another state than the row's before is left
    np.not_equal(parent[1:], parent[:-1], out=left[1:])
    distinct = left.copy()
    distinct[1:] |= token[1:] != token[:-1]
    sources = parent[distinct & ~left]
    new = ~left[distinct]
    places = np.where(new, states - 1 + new.cumsum(), parent[distinct])
    after = np.empty_like(state)
    after[order] = places[distinct.cumsum() - 1]
    fed = np.zeros(states + len(sources), dtype=np.int64)
    fed[places] = token[distinct]
    return Split(after, sources, fed, np.sort(places))


def one_stream(generator: torch.Generator, rows: Ints) -> Tensor:
    """Take the next numbers of one stream, see `Draws`: what a row gets depends on the others."""
    double, device = torch.double, generator.device
    return torch.rand(len(rows), 1, generator=generator, device=device, dtype=double)


@torch.inference_mode()
def draw(
    logits: Float[Tensor, "S V"],
    state: Int[Tensor, " B"],
    temperature: float,
    u: Float[Tensor, "B 1"],
) -> tuple[Int[Tensor, " B"], Float[Tensor, " B"]]:
    """Draw a token of each row by inverse CDF; return them and their log-probabilities.

    Those are of what is drawn from, softmax(logits / temperature). At temperature 0 the likeliest
    is taken, with its log-probability at 1. In a large vocabulary first a block of it is drawn,
    then an entry of that: sums of few numbers are exact enough in single precision, and sums of
    sums are made in double.

    Args:
        logits: of the next token, by state.
        state: of each row.
        temperature: of the draws.
        u: of each row, uniform on [0, 1), in double precision.
    """
    logits = logits.float()  # of a pass in half precision
    if temperature == 0:
        tokens = logits.argmax(-1)[state]
        return tokens, torch.log_softmax(logits, dim=-1)[state, tokens]
    weights = torch.softmax(logits if temperature == 1 else logits / temperature, dim=-1)
    u = u.clamp(min=2**-53)  # what has weight 0 is never drawn
    if weights.shape[-1] <= PER_BLOCK:
        cdf = weights.cumsum(-1, dtype=torch.double)[state]
        tokens = torch.searchsorted(cdf, u * cdf[:, -1:]).squeeze(-1)
    else:
        spare = -weights.shape[-1] % PER_BLOCK
        padded = torch.nn.functional.pad(weights, (0, spare)) if spare else weights
        blocks = padded.view(len(weights), -1, PER_BLOCK)
        cdf = blocks.sum(-1).cumsum(-1, dtype=torch.double)[state]
        u = u * cdf[:, -1:]
        block = torch.searchsorted(cdf, u)
        before = torch.nn.functional.pad(cdf, (1, 0)).gather(-1, block)
        within = blocks[state, block.squeeze(-1)].cumsum(-1, dtype=torch.double)
        # Rounding may put u past the block's end: its last entry that can be drawn is meant.
        entry = torch.searchsorted(within, torch.minimum(u - before, within[:, -1:]))
        tokens = (block * PER_BLOCK + entry).squeeze(-1)
    return tokens, weights[state, tokens].log()


def sample_batches(
    lengths: Sequence[int], samples: Sequence[int], longest: int, rows: int
) -> list[list[int]]:
    """Cut requests, in order, into batches that are sampled side by side.

    Args:
        lengths: of their prompts, in tokens.
        samples: of each.
        longest: answer.
        rows: a batch has at most so many, unless it is one request.
    """
    batches: list[list[int]] = []
    used = taken = 0
    for i, (length, n) in enumerate(zip(lengths, samples, strict=True)):
        used += n * (length + longest)
        taken += n
        if not batches or used > TOKENS_SAMPLED or taken > rows:
            batches.append([])
            used, taken = n * (length + longest), n
        batches[-1].append(i)
    return batches

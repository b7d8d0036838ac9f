"""One forward pass over action tokens, with each distinct prompt computed once.

Rollouts of a group share their prompt, and a teacher's prompt is often longer than the answer:
its keys and values are computed once per prompt and repeated, with gradients, for every sequence.
Logits are made for action tokens only.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import DynamicCache, PreTrainedModel

Pair = tuple[tuple[int, ...], tuple[int, ...]]
LOGITS_PER_CHUNK = 2**24
"""Logits that are held at once: 64 MiB in single precision, a few times over in a divergence."""


@dataclass(frozen=True, slots=True)
class Packed:
    """Sequences over P distinct prompts, ready for `action_logits`.

    Attributes:
        context: (P, Tp) prompts without their last token, left-padded; `context_mask` alike.
        owner: (B,) the prompt of each sequence.
        inputs: (B, T) the last prompt token, then the actions but the last; right-padded.
        actions: (B, T) right-padded; `mask` is true on real action tokens.
    """

    context: Int[Tensor, "P Tp"]
    context_mask: Int[Tensor, "P Tp"]
    owner: Int[Tensor, " B"]
    inputs: Int[Tensor, "B T"]
    actions: Int[Tensor, "B T"]
    mask: Bool[Tensor, "B T"]

    @property
    def processed_tokens(self) -> int:
        """Tokens that a forward pass computes, padding included."""
        return self.context.numel() + self.inputs.numel()


def pad_left(
    rows: Sequence[Sequence[int]], pad: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return (ids, mask), both (len(rows), longest), padded on the left."""
    width = max(len(r) for r in rows)
    ids = [[pad] * (width - len(r)) + list(r) for r in rows]
    mask = [[0] * (width - len(r)) + [1] * len(r) for r in rows]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def pack(pairs: Sequence[Pair], pad: int, device: torch.device) -> Packed:
    """Pack (prompt_ids, action_ids) pairs; prompts have >= 2 tokens, actions >= 1."""
    index: dict[tuple[int, ...], int] = {}
    owner = [index.setdefault(prompt, len(index)) for prompt, _ in pairs]
    context, context_mask = pad_left([p[:-1] for p in index], pad, device)
    width = max(len(a) for _, a in pairs)
    actions = [list(a) + [pad] * (width - len(a)) for _, a in pairs]
    inputs = [[p[-1], *row[:-1]] for (p, _), row in zip(pairs, actions, strict=True)]
    lengths = torch.tensor([len(a) for _, a in pairs], device=device)
    return Packed(
        context,
        context_mask,
        torch.tensor(owner, device=device),
        torch.tensor(inputs, device=device),
        torch.tensor(actions, device=device),
        torch.arange(width, device=device) < lengths[:, None],
    )


def prefill(model: PreTrainedModel, ids: Tensor, mask: Tensor) -> DynamicCache:
    """Run left-padded prompts and return their keys and values."""
    cache = DynamicCache(config=model.config)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    model.base_model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
    )
    return cache


def action_hidden(model: PreTrainedModel, packed: Packed) -> Float[Tensor, "N H"]:
    """Return what the head turns into each action token's logits, ordered as ``mask.nonzero()``."""
    cache = prefill(model, packed.context, packed.context_mask)
    if len(packed.owner) != len(packed.context) or not torch.equal(
        packed.owner, torch.arange(len(packed.owner), device=packed.owner.device)
    ):
        cache.batch_select_indices(packed.owner)
    context_mask = packed.context_mask[packed.owner]
    length = context_mask.sum(-1, keepdim=True)
    hidden = model.base_model(
        input_ids=packed.inputs,
        attention_mask=torch.cat([context_mask, packed.mask.long()], dim=-1),
        position_ids=length + torch.arange(packed.inputs.shape[1], device=length.device),
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    rows: Tensor = hidden[packed.mask]
    return rows


def action_logits(model: PreTrainedModel, packed: Packed) -> Float[Tensor, "N V"]:
    """Return the logits that predict each action token, in the order of ``mask.nonzero()``."""
    logits: Tensor = model.get_output_embeddings()(action_hidden(model, packed))
    return logits


def in_chunks(function: Callable[..., Tensor], rows: int, *tensors: Tensor) -> Tensor:
    """Apply a function of rows to a few rows at a time, and in the backward pass once more.

    What it makes of each row (logits over a vocabulary) is never held for all rows at once.

    Args:
        function: of tensors with as many rows as it returns.
        rows: at most so many at a time.
        tensors: all with N rows.
    """
    rows = max(1, rows)
    if len(tensors[0]) <= rows:
        return function(*tensors)
    pieces = zip(*(t.split(rows) for t in tensors), strict=True)
    return torch.cat([_again(function, *piece) for piece in pieces])


def _again(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    if not torch.is_grad_enabled():
        return function(*tensors)
    result: Tensor = checkpoint(function, *tensors, use_reentrant=False)
    return result


def micro_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Split indices into batches of at most `budget` padded tokens, sorted so as to waste few."""
    batches: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batches and lengths[batches[-1][0]] * (len(batches[-1]) + 1) <= budget:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches

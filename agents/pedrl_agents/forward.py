"""One forward pass over action tokens, with what sequences begin with alike computed once.

Rollouts of a group share their prompt, and a teacher's prompt is often longer than the answer:
its keys and values are computed once per prompt, and gradients of all its sequences meet in them.
Answers of a group often begin alike, too. Where a model attends plainly, they become one tree per
prompt, in which a token sees its ancestors alone. Logits are made for action tokens only.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import DynamicCache, PreTrainedModel

from pedrl_agents.attention import GROUPED, PLAIN

Pair = tuple[tuple[int, ...], tuple[int, ...]]
Precision = Literal["fp32", "bf16"]
LOGITS_PER_CHUNK = 2**24
"""Logits that are held at once: 64 MiB in single precision, a few times over in a divergence."""


@dataclass(frozen=True, slots=True)
class Packed:
    """Sequences over P distinct prompts, ready for `action_hidden`.

    Attributes:
        context: (P, Tp) prompts without their last token, left-padded; `context_mask` alike.
        mask: (B, T) true on real action tokens, of actions padded on the right.
        owner: (R,) the prompt of each row of `inputs`: a sequence, or the tree of a prompt.
        inputs: (R, L) the last prompt token, then what follows it but for last actions;
            right-padded.
        depth: (R, L) how many tokens after the last prompt token each input stands.
        seen: (R, L, L) of a tree, which inputs each one attends to; None where each attends to all
            that are left of it.
        node: (E,) of the distinct predictions, the index of the input in ``inputs.flatten()``.
        tokens: (E,) what is predicted there.
        edge: (N,) the prediction that each action token is, in the order of ``mask.nonzero()``.
    """

    context: Int[Tensor, "P Tp"]
    context_mask: Int[Tensor, "P Tp"]
    mask: Bool[Tensor, "B T"]
    owner: Int[Tensor, " R"]
    inputs: Int[Tensor, "R L"]
    depth: Int[Tensor, "R L"]
    seen: Bool[Tensor, "R L L"] | None
    node: Int[Tensor, " E"]
    tokens: Int[Tensor, " E"]
    edge: Int[Tensor, " N"]

    @property
    def processed_tokens(self) -> int:
        """Tokens that a forward pass computes, padding included."""
        return self.context.numel() + self.inputs.numel()


@dataclass(slots=True)
class _Tree:
    """The actions of one prompt; input 0 is the prompt's last token.

    Attributes:
        inputs, parents, depths: of each input.
        edges: (input, next token) -> number of the prediction.
        children: of each prediction, the input that its token is, or -1.
    """

    inputs: list[int]
    parents: list[int]
    depths: list[int]
    edges: dict[tuple[int, int], int]
    children: list[int]

    def add(self, action: Sequence[int]) -> list[int]:
        """Return the predictions that an action is made of."""
        node, path = 0, []
        for t, token in enumerate(action):
            edge = self.edges.setdefault((node, token), len(self.children))
            if edge == len(self.children):
                self.children.append(-1)
            path.append(edge)
            if t + 1 < len(action):
                if self.children[edge] < 0:
                    self.children[edge] = len(self.inputs)
                    self.inputs.append(token)
                    self.parents.append(node)
                    self.depths.append(t + 1)
                node = self.children[edge]
        return path


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Return the context in which models compute; weights stay in single precision."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def pad_left(
    rows: Sequence[Sequence[int]], pad: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return (ids, mask), both (len(rows), longest), padded on the left."""
    width = max(len(r) for r in rows)
    ids = [[pad] * (width - len(r)) + list(r) for r in rows]
    mask = [[0] * (width - len(r)) + [1] * len(r) for r in rows]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def pack(pairs: Sequence[Pair], pad: int, device: torch.device, branching: int = 0) -> Packed:
    """Pack (prompt_ids, action_ids) pairs; prompts have >= 2 tokens, actions >= 1.

    Args:
        pairs: B of them.
        pad: token id of padding.
        device: of the tensors.
        branching: so many scores of attention cost as much as computing an input; trees are made
            where they cost less than rows. 0 makes none: see `branching`.
    """
    index: dict[tuple[int, ...], int] = {}
    owner = [index.setdefault(prompt, len(index)) for prompt, _ in pairs]
    width = max(len(a) for _, a in pairs)
    lengths = torch.tensor([len(a) for _, a in pairs], device=device)
    mask = torch.arange(width, device=device) < lengths[:, None]
    context, context_mask = pad_left([p[:-1] for p in index], pad, device)
    if branching:
        trees = [_Tree([prompt[-1]], [-1], [0], {}, []) for prompt in index]
        paths = [trees[i].add(action) for i, (_, action) in zip(owner, pairs, strict=True)]
        longest = max(len(t.inputs) for t in trees)
        before = context.shape[1]
        tree_cost = len(trees) * longest * (branching + 2 * before + longest)
        if tree_cost < len(pairs) * width * (branching + before + width):
            planted = _planted(trees, paths, owner, pad)
            fields = (torch.as_tensor(array, device=device) for array in planted)
            return Packed(context, context_mask, mask, *fields)
    actions = torch.tensor([list(a) + [pad] * (width - len(a)) for _, a in pairs], device=device)
    last = torch.tensor([p[-1] for p, _ in pairs], device=device)
    return Packed(
        context,
        context_mask,
        mask,
        owner=torch.tensor(owner, device=device),
        inputs=torch.cat([last[:, None], actions[:, :-1]], dim=1),
        depth=torch.arange(width, device=device).expand(len(pairs), -1),
        seen=None,
        node=mask.flatten().nonzero()[:, 0],
        tokens=actions[mask],
        edge=torch.arange(int(mask.sum()), device=device),
    )


def _planted(
    trees: list[_Tree], paths: list[list[int]], owner: list[int], pad: int
) -> tuple[np.ndarray, ...]:
    """Return the fields from `owner` to `edge` for a tree per prompt."""
    longest = max(len(t.inputs) for t in trees)
    inputs = np.full((len(trees), longest), pad)
    depth = np.zeros((len(trees), longest), np.int64)
    seen = np.zeros((len(trees), longest, longest), np.bool_)
    seen[:, np.arange(longest), np.arange(longest)] = True  # padding sees itself: no empty softmax
    node: list[int] = []
    tokens: list[int] = []
    first: list[int] = []
    for i, tree in enumerate(trees):
        inputs[i, : len(tree.inputs)] = tree.inputs
        depth[i, : len(tree.inputs)] = tree.depths
        for child, parent in enumerate(tree.parents[1:], start=1):  # parents come first
            seen[i, child] |= seen[i, parent]
        first.append(len(node))
        node += [i * longest + parent for parent, _ in tree.edges]
        tokens += [token for _, token in tree.edges]
    edge = [first[i] + e for i, path in zip(owner, paths, strict=True) for e in path]
    arrays = (np.arange(len(trees)), inputs, depth, seen, node, tokens, edge)
    return tuple(map(np.asarray, arrays))


def branching(model: PreTrainedModel) -> int:
    """Return how many scores of attention cost as much as an input; 0 where no tree can be made.

    A tree needs a mask of its own, which layers with windows, states or biases do not take.
    """
    config = model.config
    kinds = getattr(config, "layer_types", None) or ()
    plain = (
        config.model_type in PLAIN
        and getattr(config, "sliding_window", None) is None
        and all(kind == "full_attention" for kind in kinds)
        and config._attn_implementation in (GROUPED, "eager", "sdpa")
    )
    # A layer has some 12 H^2 weights, and 2 H products for a score: 6 H by that. From 8 H on, what
    # this chooses was the quicker for the embedded model and for SmolLM2.
    return 8 * int(config.hidden_size) if plain else 0


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


def action_hidden(model: PreTrainedModel, packed: Packed) -> Float[Tensor, "E H"]:
    """Return what the head turns into the logits of each distinct prediction."""
    hidden = _rows_hidden(model, packed) if packed.seen is None else _trees_hidden(model, packed)
    rows: Tensor = hidden.flatten(0, 1)[packed.node]
    return rows


def _rows_hidden(model: PreTrainedModel, packed: Packed) -> Float[Tensor, "R L H"]:
    """Run each prompt once, and what follows it with copies of its keys and values."""
    cache = prefill(model, packed.context, packed.context_mask)
    if len(packed.owner) != len(packed.context) or not torch.equal(
        packed.owner, torch.arange(len(packed.owner), device=packed.owner.device)
    ):
        cache.batch_select_indices(packed.owner)
    context_mask = packed.context_mask[packed.owner]
    hidden: Tensor = model.base_model(
        input_ids=packed.inputs,
        attention_mask=torch.cat([context_mask, torch.ones_like(packed.inputs)], dim=-1),
        position_ids=context_mask.sum(-1, keepdim=True) + packed.depth,
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    return hidden


def _trees_hidden(model: PreTrainedModel, packed: Packed) -> Float[Tensor, "R L H"]:
    """Run each prompt and its tree in one pass: no prompt has two."""
    mask = packed.context_mask
    before = (mask.cumsum(-1) - 1).clamp(min=0)
    hidden: Tensor = model.base_model(
        input_ids=torch.cat([packed.context, packed.inputs], dim=-1),
        attention_mask=_tree_mask(model, packed),
        position_ids=torch.cat([before, mask.sum(-1, keepdim=True) + packed.depth], dim=-1),
        use_cache=False,
    ).last_hidden_state
    return hidden[:, mask.shape[1] :]


def _tree_mask(model: PreTrainedModel, packed: Packed) -> Tensor:
    """Return the mask (R, 1, Tp + L, Tp + L) in the form that the model's attention takes."""
    assert packed.seen is not None
    rows, width = packed.context_mask.shape
    prompt = packed.context_mask.bool()[:, None]
    allowed = packed.seen.new_zeros(rows, *2 * [width + packed.inputs.shape[1]])
    allowed[:, :, :width] = prompt
    allowed[:, :width].tril_()
    allowed[:, width:, width:] = packed.seen
    allowed.diagonal(dim1=1, dim2=2).fill_(True)  # padding sees itself: no empty softmax
    if model.config._attn_implementation == "sdpa":
        return allowed[:, None]
    return (~allowed[:, None]).float() * torch.finfo(torch.float32).min


def action_logits(model: PreTrainedModel, packed: Packed) -> Float[Tensor, "N V"]:
    """Return the logits that predict each action token, in the order of ``mask.nonzero()``."""
    logits: Tensor = model.get_output_embeddings()(action_hidden(model, packed))
    return logits[packed.edge]


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


def micro_batches(pairs: Sequence[Pair], budget: int) -> list[list[int]]:
    """Split indices into batches of at most `budget` padded tokens, sorted so as to waste few.

    Sequences of a prompt stay together, as far as the budget allows: it is counted once.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for i in sorted(range(len(pairs)), key=lambda i: -len(pairs[i][1])):
        groups.setdefault(pairs[i][0], []).append(i)
    batches: list[list[int]] = []
    prompts = context = width = 0
    for prompt in sorted(groups, key=lambda p: -len(p)):
        new = True
        for i in groups[prompt]:
            wider = max(width, len(pairs[i][1]))
            cost = (prompts + new) * context + (len(batches[-1]) + 1 if batches else 1) * wider
            if not batches or cost > budget:
                batches.append([])
                prompts, context, width, new = 0, len(prompt) - 1, 0, True
            batches[-1].append(i)
            width = max(width, len(pairs[i][1]))
            prompts, new = prompts + new, False
    return batches

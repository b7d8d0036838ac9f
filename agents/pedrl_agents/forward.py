"""One forward pass over action tokens, with what sequences begin with alike computed once.

Rollouts of a group share their prompt, and a teacher's prompt is often longer than the answer:
its keys and values are computed once per prompt, and gradients of all its sequences meet in them.
Answers of a group often begin alike, too. Where a model attends plainly, a prompt and its answers
become a tree, in which a token sees its ancestors alone, and small trees share a row. Logits are
made for action tokens only.
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
    """Sequences over P distinct prompts, ready for `action_hidden`: as rows, or as trees.

    Attributes:
        mask: (B, T) true on real action tokens, of actions padded on the right.
        context: (P, Tp) prompts without their last token, left-padded; `context_mask` alike. Of
            trees nothing, Tp = 0: prompts are part of them.
        owner: (R,) the prompt of each row of `inputs`.
        inputs: (R, L) the last prompt token, then what follows it but for last actions; or the
            trees of a row, one behind the other. Right-padded.
        position: (R, L) of each input, counted from its prompt's last token; in trees from its
            first.
        seen: (R, L, L) of trees, which inputs each one attends to; None where each attends to all
            that are left of it.
        node: (E,) of the distinct predictions, the index of the input in ``inputs.flatten()``.
        tokens: (E,) what is predicted there.
        edge: (N,) the prediction that each action token is, in the order of ``mask.nonzero()``.
    """

    mask: Bool[Tensor, "B T"]
    context: Int[Tensor, "P Tp"]
    context_mask: Int[Tensor, "P Tp"]
    owner: Int[Tensor, " R"]
    inputs: Int[Tensor, "R L"]
    position: Int[Tensor, "R L"]
    seen: Bool[Tensor, "R L L"] | None
    node: Int[Tensor, " E"]
    tokens: Int[Tensor, " E"]
    edge: Int[Tensor, " N"]

    @property
    def processed_tokens(self) -> int:
        """Tokens that a forward pass computes, padding included."""
        return self.context.numel() + self.inputs.numel()


class _Tree:
    """A prompt and the actions that follow it.

    Attributes:
        inputs, parents, positions: of each input; first those of the prompt.
        edges: (input, next token) -> number of the prediction.
        children: of each prediction, the input that its token is, or -1.
    """

    def __init__(self, prompt: Sequence[int]) -> None:
        self.inputs = list(prompt)
        self.positions = list(range(len(prompt)))
        self.parents = [i - 1 for i in self.positions]
        self.root = len(prompt) - 1
        self.edges: dict[tuple[int, int], int] = {}
        self.children: list[int] = []

    def add(self, action: Sequence[int]) -> list[int]:
        """Return the predictions that an action is made of."""
        node, path = self.root, []
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
                    self.positions.append(self.root + t + 1)
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
    before = max(map(len, index)) - 1
    if branching:
        trees = [_Tree(prompt) for prompt in index]
        paths = [trees[i].add(action) for i, (_, action) in zip(owner, pairs, strict=True)]
        rows, longest = _shared_rows([len(t.inputs) for t in trees], branching)
        prompts = len(index) * before * (branching + before)
        answers = len(pairs) * width * (branching + before + width)
        if len(rows) * longest * (branching + longest) < prompts + answers:
            none = mask.new_zeros(len(rows), 0, dtype=torch.long)
            planted = _planted(trees, rows, longest, paths, owner, pad)
            fields = (torch.as_tensor(array, device=device) for array in planted)
            return Packed(mask, none, none, none.sum(-1), *fields)
    context, context_mask = pad_left([p[:-1] for p in index], pad, device)
    actions = torch.tensor([list(a) + [pad] * (width - len(a)) for _, a in pairs], device=device)
    last = torch.tensor([p[-1] for p, _ in pairs], device=device)
    return Packed(
        mask,
        context,
        context_mask,
        owner=torch.tensor(owner, device=device),
        inputs=torch.cat([last[:, None], actions[:, :-1]], dim=1),
        position=torch.arange(width, device=device).expand(len(pairs), -1),
        seen=None,
        node=mask.flatten().nonzero()[:, 0],
        tokens=actions[mask],
        edge=torch.arange(int(mask.sum()), device=device),
    )


def _shared_rows(sizes: Sequence[int], branching: int) -> tuple[list[list[int]], int]:
    """Put trees into rows, the largest first, each where there is room, so that they cost least.

    Rows may be half as long again as the largest tree: more scores would take too much memory.

    Returns:
        The trees of each row, and how long rows are.
    """
    order = sorted(range(len(sizes)), key=lambda i: -sizes[i])
    layouts = []
    for quarters in (4, 5, 6):
        rows: list[list[int]] = []
        room: list[int] = []
        for i in order:
            row = next((r for r, left in enumerate(room) if left >= sizes[i]), len(rows))
            if row == len(rows):
                rows.append([])
                room.append(sizes[order[0]] * quarters // 4)
            rows[row].append(i)
            room[row] -= sizes[i]
        layouts.append((rows, max(sum(sizes[i] for i in row) for row in rows)))
    return min(layouts, key=lambda layout: len(layout[0]) * layout[1] * (branching + layout[1]))


def _planted(
    trees: list[_Tree],
    rows: list[list[int]],
    longest: int,
    paths: list[list[int]],
    owner: list[int],
    pad: int,
) -> tuple[np.ndarray, ...]:
    """Return the fields from `inputs` to `edge` for rows of trees."""
    inputs = np.full((len(rows), longest), pad)
    position = np.zeros((len(rows), longest), np.int64)
    seen = np.zeros((len(rows), longest, longest), np.bool_)
    seen[:, np.arange(longest), np.arange(longest)] = True  # padding sees itself: no empty softmax
    node: list[int] = []
    tokens: list[int] = []
    first = [0] * len(trees)
    for r, row in enumerate(rows):
        start = 0
        for i in row:
            tree = trees[i]
            end = start + len(tree.inputs)
            inputs[r, start:end] = tree.inputs
            position[r, start:end] = tree.positions
            sight = seen[r, start:end, start:end]
            prompt = tree.root + 1
            sight[:prompt, :prompt] = np.tri(prompt, dtype=np.bool_)
            for child, parent in enumerate(tree.parents[prompt:], start=prompt):
                sight[child] |= sight[parent]  # parents come first
            first[i] = len(node)
            node += [r * longest + start + parent for parent, _ in tree.edges]
            tokens += [token for _, token in tree.edges]
            start = end
    edge = [first[i] + e for i, path in zip(owner, paths, strict=True) for e in path]
    return tuple(map(np.asarray, (inputs, position, seen, node, tokens, edge)))


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
    if packed.seen is None:
        cache = prefill(model, packed.context, packed.context_mask)
        if len(packed.owner) != len(packed.context) or not torch.equal(
            packed.owner, torch.arange(len(packed.owner), device=packed.owner.device)
        ):
            cache.batch_select_indices(packed.owner)
        context_mask = packed.context_mask[packed.owner]
        position = context_mask.sum(-1, keepdim=True) + packed.position
        mask = torch.cat([context_mask, torch.ones_like(packed.inputs)], dim=-1)
    else:
        position, cache, mask = packed.position, None, _tree_mask(model, packed.seen)
    hidden = model.base_model(
        input_ids=packed.inputs,
        attention_mask=mask,
        position_ids=position,
        past_key_values=cache,
        use_cache=cache is not None,
    ).last_hidden_state
    rows: Tensor = hidden.flatten(0, 1)[packed.node]
    return rows


def _tree_mask(model: PreTrainedModel, seen: Tensor) -> Tensor:
    """Return the mask (R, 1, L, L) in the form that the model's attention takes."""
    if model.config._attn_implementation == "sdpa":
        return seen[:, None]
    return (~seen[:, None]).float() * torch.finfo(torch.float32).min


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

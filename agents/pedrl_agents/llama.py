"""Llamas, decoded in a fraction of the time that transformers needs for it.

At the sizes that CPUs train, a step of decoding is mostly the overhead of small operations. Here
the matrices that read the same states are joined, and what scales their input (norms) or output
(queries) is multiplied into them; queries and keys are turned as complex numbers, for which their
halves are interleaved; all keys and values are in one tensor; and what all layers do in one shape
is written to one place, so that its views are made once. The matrices are copies, made anew
whenever sampling begins: weights change at every update, and an adapter is merged on the way.
"""

from math import sqrt
from typing import Any

import torch
from torch import Tensor
from torch.linalg import vector_norm
from torch.nn.functional import silu
from transformers import LlamaForCausalLM, PreTrainedModel

from pedrl_agents.adapters import weight_of
from pedrl_agents.decoding import Decoder, Plain

LOWEST = torch.finfo(torch.float32).min


def decoder(model: PreTrainedModel) -> Decoder:
    """Return what decodes a model, with its weights as they are now."""
    return Llama(model) if _fits(model) else Plain(model)


def _fits(model: PreTrainedModel) -> bool:
    """Whether `Llama` computes this model: in single precision, on a CPU, without biases."""
    rope: Any = getattr(model.config, "rope_parameters", None)
    return (
        isinstance(model, LlamaForCausalLM)
        and model.device.type == "cpu"
        and model.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and not (model.config.attention_bias or model.config.mlp_bias)
        and rope["rope_type"] in ("default", "linear", "llama3")
    )


class Llama:
    """A `Decoder` with joined weights.

    Args:
        model: a `LlamaForCausalLM` without biases, on a CPU.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        config = model.config
        base: Any = model.base_model
        self._size: int = base.layers[0].self_attn.head_dim
        self._heads, self._own = config.num_attention_heads, config.num_key_value_heads
        root = sqrt(config.hidden_size)
        self._least = torch.tensor(root * sqrt(config.rms_norm_eps))
        self._rotary = base.rotary_emb
        self._embedding: Tensor = base.embed_tokens.weight
        self._layers = [_joined(layer, root) for layer in base.layers]
        head = weight_of(model.get_output_embeddings())
        self._head = (head * (base.norm.weight * root)).T
        self._last: Places | None = None

    def start(self, ids: Tensor, mask: Tensor, states: int, spare: int) -> Tensor:
        """Run prompts; see `Decoder`."""
        width = ids.shape[1]
        room = width + spare
        self._stores = self._embedding.new_empty(
            len(self._layers), 2, states, self._own, room, self._size
        )
        cos, sin = self._rotary(self._embedding, position_ids=torch.arange(room)[None])
        half = self._size // 2
        self._turns = torch.complex(cos[0, :, :half], sin[0, :, :half])
        self._length = 0
        position = (mask.cumsum(-1) - 1).clamp(min=0)
        self._position = position[:, -1]
        padding = ((1 - mask.float()) * LOWEST)[:, None]
        self._padding = None if mask.all() else padding
        later = torch.full((width, width), LOWEST).triu(1)
        return self._run(ids, position, torch.minimum(padding, later))

    def step(self, tokens: Tensor) -> Tensor:
        """Append tokens; see `Decoder`."""
        self._position = self._position + 1
        return self._run(tokens[:, None], self._position[:, None], self._padding)

    def branch(self, sources: Tensor) -> None:
        """Append copies; see `Decoder`."""
        states = len(self._position)
        filled = self._stores[..., : self._length, :]
        filled[:, :, states : states + len(sources)] = filled.index_select(2, sources)
        self._select(torch.cat([torch.arange(states), sources]))

    def keep(self, states: Tensor) -> None:
        """Drop the others; see `Decoder`."""
        filled = self._stores[..., : self._length, :]
        filled[:, :, : len(states)] = filled.index_select(2, states)
        self._select(states)

    def _select(self, states: Tensor) -> None:
        self._position = self._position[states]
        if self._padding is not None:
            self._padding = self._padding[states]

    @torch.inference_mode()
    def _run(self, ids: Tensor, position: Tensor, mask: Tensor | None) -> Tensor:
        """Append tokens (S, T) at positions (S, T), and return the logits (S, V) after the last.

        What is in the mask (S, T or 1, as many tokens as it is about) is added to scores.
        """
        states, new = ids.shape
        place = self._places(states, new)
        first, self._length = self._length, self._length + new
        stores = self._stores[:, :, :states]
        spaces = stores[..., first : self._length, :]
        seen = stores.flatten(2, 3)[:, :, :, : self._length]
        turns = self._turns[position][:, :, None]
        x = self._embedding[ids.flatten()]
        for space, keys, values, (qkv, out, gate_up, down) in zip(
            spaces.unbind(), seen[:, 0].mT.unbind(), seen[:, 1].unbind(), self._layers, strict=True
        ):
            torch.mm(self._norm(x), qkv, out=place.heads)
            place.turned.mul_(turns)
            space.copy_(place.kv)
            place.asked.copy_(place.q)
            scores = torch.bmm(place.queries, keys)
            if mask is not None:
                about = scores.view(states, -1, new, self._length)[..., : mask.shape[-1]]
                about.add_(mask[:, None])
            torch.bmm(torch.softmax(scores, dim=-1), values, out=place.answers)
            if new > 1:
                place.said.copy_(place.by_head)
            x.addmm_(place.together, out)
            torch.mm(self._norm(x), gate_up, out=place.wide)
            x.addmm_(silu(place.gate, inplace=True).mul_(place.up), down)
        last = x if new == 1 else x.view(states, new, -1)[:, -1]
        return torch.mm(self._norm(last), self._head)

    def _norm(self, x: Tensor) -> Tensor:
        """RMSNorm, but for what is in the matrices: with the root of x's size, hence of eps too."""
        sizes: Tensor = vector_norm(x, dim=-1, keepdim=True)
        return x / sizes.hypot_(self._least)

    def _places(self, states: int, new: int) -> "Places":
        """Where a pass writes: anew if its shape is not the last one's."""
        shape = states, new, self._own, self._heads // self._own, self._size
        if self._last is None or self._last.shape != shape:
            wide = self._layers[0][2].shape[1]
            self._last = Places(shape, wide)
        return self._last


class Places:
    """Tensors that every layer writes anew, and views of them.

    Args:
        shape: states (S), tokens of each (T), heads that have their own keys (O), heads that share
            one's (N), entries of a head (D).
        wide: entries of gate and up.
    """

    def __init__(self, shape: tuple[int, int, int, int, int], wide: int) -> None:
        states, new, own, shared, size = self.shape = shape
        rows, heads = states * new, own * shared
        self.heads = torch.empty(rows, (heads + 2 * own) * size)  # q, k and v
        each = self.heads.view(states, new, -1, size)
        turned = each[:, :, : heads + own].unflatten(-1, (-1, 2))
        self.turned = torch.view_as_complex(turned)
        self.q = each[:, :, :heads].unflatten(2, (own, shared)).permute(0, 2, 3, 1, 4)
        self.kv = each[:, :, heads:].unflatten(2, (2, own)).permute(2, 0, 3, 1, 4)  # 2 S O T D
        self.asked = torch.empty(states, own, shared, new, size)  # a copy of q
        self.queries = self.asked.view(states * own, shared * new, size)
        self.answers = torch.empty_like(self.queries)
        self.by_head = self.answers.view(states, heads, new, size).transpose(1, 2)
        self.together = self.by_head.reshape(rows, -1)  # for one token each, the same memory
        self.said = self.together.view(states, new, heads, size)
        self.wide = torch.empty(rows, wide)
        self.gate, self.up = self.wide.chunk(2, dim=-1)


def _joined(layer: Any, root: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return a layer's four matrices, transposed."""
    attention, mlp = layer.self_attn, layer.mlp
    q, k, v = (weight_of(p) for p in (attention.q_proj, attention.k_proj, attention.v_proj))
    q, k = (_interleaved(w, attention.head_dim) for w in (q * attention.scaling, k))
    qkv = torch.cat([q, k, v]) * (layer.input_layernorm.weight * root)
    gate_up = torch.cat([weight_of(mlp.gate_proj), weight_of(mlp.up_proj)])
    gate_up = gate_up * (layer.post_attention_layernorm.weight * root)
    return qkv.T, weight_of(attention.o_proj).T, gate_up.T, weight_of(mlp.down_proj).T


def _interleaved(weight: Tensor, size: int) -> Tensor:
    """Put together what is turned together: a head's entry of either half."""
    return weight.view(-1, 2, size // 2, weight.shape[-1]).transpose(1, 2).reshape(weight.shape)

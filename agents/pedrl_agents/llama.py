"""Llamas, decoded in a fraction of the time that transformers needs for it.

At the sizes that CPUs train, a step of decoding is mostly the overhead of small operations. Here
the matrices that read the same states are joined, and what scales their input (norms) or output
(queries) is multiplied into them; queries and keys are turned as complex numbers, for which their
halves are interleaved; and all keys and values are in one tensor. The matrices are copies, made
anew whenever sampling begins: weights change at every update, and an adapter is merged on the way.
"""

from math import sqrt
from typing import Any

import torch
from torch import Tensor
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
        filled[:, :, states : states + len(sources)] = filled[:, :, sources]
        self._select(torch.cat([torch.arange(states), sources]))

    def keep(self, states: Tensor) -> None:
        """Drop the others; see `Decoder`."""
        filled = self._stores[..., : self._length, :]
        filled[:, :, : len(states)] = filled[:, :, states]
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
        (states, new), size, own = ids.shape, self._size, self._own
        shared, turned = self._heads // own, self._heads + own
        first, self._length = self._length, self._length + new
        stores = self._stores[:, :, :states]
        spaces = stores[..., first : self._length, :].unbind()
        caches = stores.view(len(stores), 2, states * own, -1, size)[:, :, :, : self._length]
        turns = self._turns[position.reshape(-1), None]
        x = self._embedding[ids.reshape(-1)]
        for space, cache, (qkv, out, gate_up, down) in zip(
            spaces, caches.unbind(), self._layers, strict=True
        ):
            heads = torch.mm(self._norm(x), qkv).view(states * new, -1, size)
            torch.view_as_complex(heads[:, :turned].unflatten(-1, (-1, 2))).mul_(turns)
            kv = heads[:, self._heads :].view(states, new, 2, own, size)
            space.copy_(kv.permute(2, 0, 3, 1, 4))
            keys, values = cache.unbind()
            q = heads[:, : self._heads].view(states, new, own, shared, size)
            q = q.permute(0, 2, 3, 1, 4).reshape(states * own, shared * new, size)
            scores = torch.bmm(q, keys.mT)
            if mask is not None:
                about = scores.view(states, -1, new, self._length)[..., : mask.shape[-1]]
                about.add_(mask[:, None])
            seen = torch.bmm(torch.softmax(scores, dim=-1), values)
            seen = seen.view(states, -1, new, size).transpose(1, 2).reshape(states * new, -1)
            x.addmm_(seen, out)
            gate, up = torch.mm(self._norm(x), gate_up).chunk(2, dim=-1)
            x.addmm_(silu(gate).mul_(up), down)
        last = x if new == 1 else x.view(states, new, -1)[:, -1]
        return torch.mm(self._norm(last), self._head)

    def _norm(self, x: Tensor) -> Tensor:
        """RMSNorm, but for what is in the matrices: with the root of x's size, hence of eps too."""
        sizes: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return x / sizes.hypot_(self._least)


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

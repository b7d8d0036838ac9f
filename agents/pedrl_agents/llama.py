"""One token a row through a Llama, in half of the time that transformers needs for it.

At the sizes that CPUs train, a step of decoding is mostly the overhead of small operations. Here
the matrices that read the same states are joined, and what scales their input (norms) or output
(queries) is multiplied into them. They are copies, made anew for each batch: weights change at
every update, and an adapter is merged on the way. Everything else goes through transformers.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, silu
from transformers import DynamicCache, LlamaForCausalLM, PreTrainedModel

from pedrl_agents.adapters import weight_of
from pedrl_agents.decoding import Room

Step = Callable[[Tensor, Tensor, Tensor, DynamicCache], Tensor]


def stepper(model: PreTrainedModel, cache: DynamicCache, positions: int) -> Step:
    """Return what computes logits (B, V) from tokens (B,), their positions, a mask and the cache.

    Args:
        model: of any kind.
        cache: of its prompts, in which `make_room` was called.
        positions: more than any token will have.
    """
    if _fits(model, cache):
        return Llama(model, positions).step

    def step(current: Tensor, position: Tensor, mask: Tensor, cache: DynamicCache) -> Tensor:
        hidden = model.base_model(
            input_ids=current[:, None],
            attention_mask=mask,
            position_ids=position[:, None],
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state[:, -1]
        logits: Tensor = model.get_output_embeddings()(hidden).float()
        return logits

    return step


def _fits(model: PreTrainedModel, cache: DynamicCache) -> bool:
    """Whether `Llama` computes this model: in single precision, on a CPU, without biases."""
    rope: Any = getattr(model.config, "rope_parameters", None)
    return (
        isinstance(model, LlamaForCausalLM)
        and model.device.type == "cpu"
        and model.dtype == torch.float32
        and not (model.config.attention_bias or model.config.mlp_bias)
        and rope["rope_type"] in ("default", "linear", "llama3")
        and all(isinstance(layer, Room) for layer in cache.layers)
    )


class Llama:
    """The joined weights of a model, for `step`.

    Args:
        model: a `LlamaForCausalLM` without biases, on a CPU.
        positions: more than any token will have.
    """

    def __init__(self, model: PreTrainedModel, positions: int) -> None:
        config = model.config
        base: Any = model.base_model
        self._size: int = base.layers[0].self_attn.head_dim
        self._heads, self._own = config.num_attention_heads, config.num_key_value_heads
        self._eps: float = config.rms_norm_eps
        self._embedding: Tensor = base.embed_tokens.weight
        self._layers = [_joined(layer) for layer in base.layers]
        self._head = weight_of(model.get_output_embeddings()) * base.norm.weight
        everywhere = torch.arange(positions)[None]
        cos, sin = base.rotary_emb(self._embedding, position_ids=everywhere)
        half = self._size // 2
        self._cos = cos[0]
        self._sin = torch.cat([-sin[0, :, :half], sin[0, :, half:]], dim=-1)  # of swapped halves

    def step(self, current: Tensor, position: Tensor, mask: Tensor, cache: DynamicCache) -> Tensor:
        """Return the logits (B, V) after tokens (B,) at positions (B,), and append to the cache.

        Args:
            current: token ids.
            position: of them.
            mask: (B, 1, 1, L), added to the scores.
            cache: whose layers are `Room`; as long as it is, mask is, with the new token.
        """
        rows, turned = len(current), self._heads + self._own
        cos, sin = self._cos[position][:, None], self._sin[position][:, None]
        x = self._embedding[current]
        for room, (qkv, out, gate_up, down) in zip(cache.layers, self._layers, strict=True):
            heads = linear(self._norm(x), qkv).view(rows, -1, self._size)
            qk, v = heads[:, :turned], heads[:, turned:]
            qk = torch.addcmul(qk * cos, qk.roll(self._size // 2, -1), sin)
            assert isinstance(room, Room)
            keys, values = room.update(qk[:, self._heads :, None], v[:, :, None])
            q = qk[:, : self._heads].reshape(rows, self._own, -1, self._size)
            weights = torch.softmax(torch.matmul(q, keys.transpose(2, 3)).add_(mask), dim=-1)
            x = torch.addmm(x, torch.matmul(weights, values).view(rows, -1), out)
            gate, up = linear(self._norm(x), gate_up).chunk(2, dim=-1)
            x = torch.addmm(x, silu(gate).mul_(up), down)
        return linear(self._norm(x), self._head)

    def _norm(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True).add_(self._eps))


def _joined(layer: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return a layer's four matrices; those that are added to a sum are transposed."""
    attention, mlp = layer.self_attn, layer.mlp
    q, k, v = (weight_of(p) for p in (attention.q_proj, attention.k_proj, attention.v_proj))
    qkv = torch.cat([q * attention.scaling, k, v]) * layer.input_layernorm.weight
    gate_up = torch.cat([weight_of(mlp.gate_proj), weight_of(mlp.up_proj)])
    gate_up = gate_up * layer.post_attention_layernorm.weight
    return qkv, weight_of(attention.o_proj).T, gate_up, weight_of(mlp.down_proj).T

"""Attention for CPUs, registered with transformers under a name of ours.

Heads that share keys and values are multiplied with them side by side. Transformers' plain
implementation copies the keys and values of every such head instead, at every token, and torch's
fused one is slower than both at these sizes, forward and backward.
"""

from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PretrainedConfig
from transformers.masking_utils import eager_mask

GROUPED: Final = "pedrl_grouped"
PLAIN: Final = ("llama", "mistral", "qwen2", "qwen3")
"""Model types whose attention is softmax(Q K / sqrt(d) + mask) V, and nothing else."""


def implementation(config: PretrainedConfig, device: torch.device) -> str:
    """Name the attention that suits a model on a device."""
    if device.type != "cpu":
        return "sdpa"
    return GROUPED if config.model_type in PLAIN else "eager"


def grouped_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    **unused: Any,
) -> tuple[Tensor, None]:
    """Return what heads attend to, (B, T, heads, D); the signature is transformers'.

    Args:
        module: unused.
        query: (B, heads, T, D).
        key: (B, heads that have their own, L, D).
        value: alike.
        attention_mask: (B, 1, T, L), added to the scores.
        scaling: of the scores.
        unused: what models of the types in `PLAIN` do not need.
    """
    rows, heads, length, size = query.shape
    own = key.shape[1]
    together = (query * scaling).reshape(rows, own, heads // own * length, size)
    scores = torch.matmul(together, key.transpose(2, 3))
    scores = scores.view(rows, own, heads // own, length, -1)
    if attention_mask is not None:
        scores = scores + attention_mask[:, :, None]
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(value.dtype)
    out = torch.matmul(weights.view(rows, own, heads // own * length, -1), value)
    return out.view(rows, heads, length, size).transpose(1, 2), None


AttentionInterface.register(GROUPED, grouped_attention)
AttentionMaskInterface.register(GROUPED, eager_mask)

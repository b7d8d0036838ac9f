"""From hidden states to probabilities: the policy is softmax(logits / temperature).

Whatever reads probabilities - scores, ratios, gates, losses - reads them here, at the temperature
that was sampled at, so that what is learned from is what was sampled.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from pedrl_agents.forward import in_chunks
from pedrl_agents.losses import chosen_logprobs


def tempered(
    head: nn.Module, hidden: Float[Tensor, "N H"], temperature: float
) -> Float[Tensor, "N V"]:
    """Return the logits of hidden states over the temperature."""
    logits: Tensor = head(hidden)
    return logits if temperature == 1 else logits / temperature


def token_logprobs(
    head: nn.Module,
    hidden: Float[Tensor, "N H"],
    tokens: Int[Tensor, " N"],
    temperature: float,
    logits_at_once: int,
) -> Float[Tensor, " N"]:
    """Return log pi of a token after each hidden state, with gradients.

    Args:
        head: of the model.
        hidden: what predicts the tokens.
        tokens: ids.
        temperature: of the policy, above 0.
        logits_at_once: so many are held.
    """
    weight: Any = head.weight
    rows = logits_at_once // weight.shape[0]
    frozen = (
        type(head) is nn.Linear
        and head.bias is None
        and not weight.requires_grad
        and hidden.requires_grad
        and hidden.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled(hidden.device.type)
    )
    if frozen:
        chosen: Tensor = _Frozen.apply(hidden, weight, tokens, temperature, max(1, rows))  # type: ignore[no-untyped-call]
        return chosen
    return in_chunks(
        lambda some, ids: chosen_logprobs(tempered(head, some, temperature), ids),
        rows,
        hidden,
        tokens,
    )


class _Frozen(torch.autograd.Function):
    """Log-probabilities under a head that does not learn.

    Each has one row of derivatives, (W[token] - sum_v p_v W[v]) / temperature, which is made while
    the logits are there: they are not made again on the way back.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, tokens: Tensor, temperature: float, rows: int
    ) -> Tensor:
        chosen, slopes = [], []
        for some, ids in zip(hidden.split(rows), tokens.split(rows), strict=True):
            logits = some @ weight.T
            if temperature != 1:
                logits /= temperature
            picked = logits.gather(-1, ids[:, None])
            norm = torch.logsumexp(logits, dim=-1, keepdim=True)
            chosen.append((picked - norm).squeeze(-1))
            probabilities = logits.sub_(norm).exp_()
            slopes.append((weight[ids] - probabilities @ weight).div_(temperature))
        ctx.save_for_backward(torch.cat(slopes))
        return torch.cat(chosen)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (slopes,) = ctx.saved_tensors
        return grad[:, None] * slopes, None, None, None, None

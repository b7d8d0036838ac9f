"""A linear layer under an adapter, with what its frozen weight makes needless left out.

peft adds the adapter's output to the layer's as autograd records it: a product, a scaled copy and a
sum, each as large as the output, and alike on the way back. At the sizes that CPUs train, that
costs more than the adapter's arithmetic. Here the thin products are added in place.
"""

from typing import Any

import torch
from peft.tuners.lora.layer import Linear
from torch import Tensor
from torch.autograd.function import once_differentiable


class _Adapted(torch.autograd.Function):
    """x W' + b + s x A' B', with gradients of x, A and B."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float
    ) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        low = rows @ a.T
        out = torch.nn.functional.linear(rows, weight, bias).addmm_(low, b.T, alpha=scale)
        ctx.save_for_backward(rows, low, weight, a, b)
        ctx.scale, ctx.shape = scale, x.shape
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, low, weight, a, b = ctx.saved_tensors
        grad = grad.reshape(-1, grad.shape[-1])
        back = (grad @ b).mul_(ctx.scale)
        into = None
        if ctx.needs_input_grad[0]:
            into = (grad @ weight).addmm_(back, a).view(ctx.shape)
        return into, None, None, back.T @ rows, (grad.T @ low).mul_(ctx.scale), None


class LoraLinear(Linear):
    """peft's layer; in single precision, with one plain adapter, it computes as above."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return what peft's own layer would."""
        base = self.get_base_layer()
        names = self.active_adapters
        plain = (
            not (args or kwargs or self.merged or self.disable_adapters)
            and len(names) == 1
            and not torch.is_autocast_enabled(x.device.type)
            and x.dtype == base.weight.dtype == torch.float32
            and not base.weight.requires_grad
        )
        if not plain:
            result: Tensor = super().forward(x, *args, **kwargs)
            return result
        (name,) = names
        a, b = self.lora_A[name].weight, self.lora_B[name].weight
        scale = self.scaling[name]
        out: Tensor = _Adapted.apply(x, base.weight, base.bias, a, b, scale)  # type: ignore[no-untyped-call]
        return out

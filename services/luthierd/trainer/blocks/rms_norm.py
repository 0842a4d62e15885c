"""RMSNorm in one autograd function: the model library's version makes six passes over the activations and casts twice.

y = w * x / sqrt(mean(x^2) + eps). https://arxiv.org/abs/1910.07467. Axes: N positions of all rows, D model width.
"""

from __future__ import annotations

from typing import Any

import torch

LLAMA_LIKE = frozenset({"LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm"})
"""Classes with exactly the formula above; others (Gemma: 1 + w) keep their own."""


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_ND: torch.Tensor, weight_D: torch.Tensor, epsilon: float) -> torch.Tensor:
        width = x_ND.shape[-1]
        norm_N1 = torch.linalg.vector_norm(x_ND, dim=-1, keepdim=True)
        inverse_N1 = norm_N1.square_().div_(width).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x_ND, weight_D, inverse_N1)
        return (x_ND * inverse_N1).mul_(weight_D)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (dy_ND,) = gradients
        x_ND, weight_D, inverse_N1 = ctx.saved_tensors
        dxhat_ND = dy_ND * weight_D
        dot_N1 = torch.linalg.vecdot(dxhat_ND, x_ND).unsqueeze(-1)
        factor_N1 = dot_N1.mul_(inverse_N1.pow(3)).div_(-x_ND.shape[-1])
        return dxhat_ND.mul_(inverse_N1).addcmul_(x_ND, factor_N1), None, None


class FrozenRmsNorm(torch.nn.Module):
    """The same layer with a frozen weight."""

    def __init__(self, weight_D: torch.Tensor, epsilon: float) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(weight_D, requires_grad=False)
        self.epsilon = epsilon

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., D] -> [..., D]."""
        return _RmsNorm.apply(x, self.weight, self.epsilon)


def use_fused_rms_norm(model: torch.nn.Module) -> None:
    """Replaces the norms in place, where they are float32: in lower precision the library's float32 detour is kept."""
    for path, module in list(model.named_modules()):
        if type(module).__name__ in LLAMA_LIKE and module.weight.dtype is torch.float32:
            parent, _, leaf = path.rpartition(".")
            setattr(model.get_submodule(parent), leaf, FrozenRmsNorm(module.weight.data, module.variance_epsilon))

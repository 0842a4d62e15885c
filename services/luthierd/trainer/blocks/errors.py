"""Why a run ends without an adapter."""

from __future__ import annotations

from luthierd.errors import FailedPreconditionError, InvalidArgumentError


class TrainingCancelled(Exception):
    """`Report.cancelled()` was true; the run stopped within one micro-batch."""


class TrainingDivergedError(FailedPreconditionError):
    """The loss or the gradient is no longer a number."""

    reason = "TRAINING_DIVERGED"

    def __init__(self, step: int, *, loss: float, gradient_norm: float, learning_rate: float) -> None:
        super().__init__(
            f"step {step}: loss {loss}, gradient norm {gradient_norm} at learning rate {learning_rate:.2e}; lower "
            "learning_rate or max_grad_norm, or look for broken rows",
            metadata={
                "step": str(step),
                "loss": str(loss),
                "gradient_norm": str(gradient_norm),
                "learning_rate": str(learning_rate),
            },
        )


class UnsupportedArchitectureError(InvalidArgumentError):
    """The model computes its logits in a way that the recipe does not support."""

    reason = "UNSUPPORTED_ARCHITECTURE"

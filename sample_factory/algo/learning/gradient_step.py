"""One guarded step of the optimiser: clip, check, apply or skip."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from sample_factory.algo.learning.fused_losses import Tape
from sample_factory.algo.utils.optimizers import PortableAdam, can_step_directly

_CLIP_EPS = 1e-6  # as in torch.nn.utils.clip_grad_norm_


class DivergedError(RuntimeError):
    """Too many updates in a row had a gradient that is not finite."""


class GradientStep:
    """Applies gradients unless their norm is NaN or infinite; the norm is the one computed for clipping anyway.

    On the CPU the decision is made at once. A fused CUDA optimiser decides on the device (the mechanism of gradient
    scaling for mixed precision), so the host never waits; the number of skipped steps is read later.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, model: nn.Module, max_grad_norm: float = 0.0) -> None:
        self.optimizer = optimizer
        self.model = model
        self.max_grad_norm = max_grad_norm
        self._parameters = list(model.parameters())
        self._on_cpu = all(p.device.type == "cpu" and p.dtype == torch.float32 for p in self._parameters)

    @property
    def decides_on_device(self) -> bool:
        """The optimiser can skip a step by itself, told by a tensor on the device."""
        on_cuda = bool(self._parameters) and self._parameters[0].device.type == "cuda"
        return on_cuda and all(group.get("fused") for group in self.optimizer.param_groups)

    def apply(self, loss: Tensor, lr: float | Tensor, tape: Tape | None = None) -> tuple[Tensor, Tensor | bool]:
        """Backpropagate ``loss``, or what ``tape`` recorded in its place, and step with learning rate ``lr``.

        A tensor as learning rate is read by the device when it makes the step: that is how steps are recorded.
        Returns the L2 norm of the gradient after clipping (scalar tensor), and whether the step was skipped: a bool,
        or a 0/1 tensor where the device decides.
        """
        if isinstance(lr, Tensor):
            return self._apply_on_device(loss, lr)
        for parameter in self._parameters:
            parameter.grad = None
        if tape is not None:
            tape.backward()
        else:
            loss.backward()
        if self._on_cpu and not self.decides_on_device:
            return self._apply_on_host(lr)
        with torch.no_grad():
            norm = torch.nn.utils.get_total_norm([p.grad for p in self._parameters if p.grad is not None])
            is_finite = torch.isfinite(norm)
            on_device = self.decides_on_device
            if not on_device and not bool(is_finite):
                return norm, True
            if self.max_grad_norm > 0.0:
                torch.nn.utils.clip_grads_with_norm_(self._parameters, self.max_grad_norm, norm)
                norm = norm.clamp(max=self.max_grad_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        if not on_device:
            self.optimizer.step()
            return norm, False
        skipped = (~is_finite).to(torch.float32)
        self.optimizer.found_inf = skipped  # type: ignore[attr-defined]
        self.optimizer.step()
        return norm, skipped

    def _apply_on_device(self, loss: Tensor, lr: Tensor) -> tuple[Tensor, Tensor]:
        """The same without any decision of the host; the gradients are kept nowhere."""
        assert isinstance(self.optimizer, PortableAdam)
        learning = [p for p in self._parameters if p.requires_grad]
        gradients = torch.autograd.grad(loss, learning, allow_unused=True)
        with torch.no_grad():
            pairs = [(p, g) for p, g in zip(learning, gradients, strict=True) if g is not None]
            parameters: list[Tensor] = [p for p, _ in pairs]
            used = [g for _, g in pairs]
            norm = torch.nn.utils.get_total_norm(used)
            skipped = (~torch.isfinite(norm)).to(torch.float32)
            if self.max_grad_norm > 0.0:
                torch._foreach_mul_(used, (self.max_grad_norm / (norm + _CLIP_EPS)).clamp(max=1.0))
                norm = norm.clamp(max=self.max_grad_norm)
            self.optimizer.step_on_device(parameters, used, lr, skipped)
        return norm, skipped

    @torch.no_grad()
    def _apply_on_host(self, lr: float) -> tuple[Tensor, bool]:
        """The same with numbers read at once, and fewer operators."""
        grads = [p.grad for p in self._parameters if p.grad is not None]
        norms = np.array([x.item() for x in torch._foreach_norm(grads)], dtype=np.float32)
        norm = float(np.sqrt(np.dot(norms, norms)))
        if not math.isfinite(norm):
            return torch.tensor(norm), True
        if 0.0 < self.max_grad_norm < norm + _CLIP_EPS:
            torch._foreach_mul_(grads, self.max_grad_norm / (norm + _CLIP_EPS))
            norm = min(norm, self.max_grad_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        if can_step_directly(self.optimizer):
            self.optimizer.step_directly()
        else:
            self.optimizer.step()
        return torch.tensor(norm), False


def renewed(
    stepper: GradientStep | None, optimizer: torch.optim.Optimizer, model: nn.Module, max_grad_norm: float
) -> GradientStep:
    """The given stepper if it is for this optimiser and this model, else a new one."""
    if stepper is None or stepper.optimizer is not optimizer or stepper.model is not model:
        return GradientStep(optimizer, model, max_grad_norm)
    stepper.max_grad_norm = max_grad_norm
    return stepper


class SkipCounter:
    """Counts skipped steps, and gives up when nothing but skips happens."""

    def __init__(self, max_in_a_row: int) -> None:
        self.max_in_a_row = max_in_a_row
        self.total = 0
        self._in_a_row = 0

    def record(self, skipped: bool) -> None:
        """Register the next step; DivergedError after ``max_in_a_row`` skips."""
        if not skipped:
            self._in_a_row = 0
            return
        self.total += 1
        self._in_a_row += 1
        if self._in_a_row >= self.max_in_a_row:
            raise DivergedError(
                f"the gradients of {self._in_a_row} updates in a row were not finite: training diverged; lower "
                "--learning_rate or --max_grad_norm, or check observations and rewards"
            )

    def start_anew(self) -> None:
        """The next step is judged without those before."""
        self._in_a_row = 0

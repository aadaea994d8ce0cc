"""Optimisers: Adam with the fastest available implementation, and LAMB."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable
from typing import Any, TypeGuard

import torch
from torch import Tensor

from sample_factory.utils.typing import Config

# Options of a parameter group that say how a step is computed, not what it computes.
_IMPLEMENTATION_KEYS = ("fused", "foreach", "capturable")
_MAX_WEIGHT_NORM = 10.0


class Optimizer(torch.optim.Optimizer):
    """PyTorch's base class, without its compiler.

    PyTorch marks these methods as not to be compiled, and looking at the mark imports the compiler: a second of CPU
    time and 40 MB of memory in a process that compiles nothing. Here the methods behind the marks are called.
    """

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        inspect.unwrap(torch.optim.Optimizer.add_param_group)(self, param_group)

    def state_dict(self) -> dict[str, Any]:
        return inspect.unwrap(torch.optim.Optimizer.state_dict)(self)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        inspect.unwrap(torch.optim.Optimizer.load_state_dict)(self, state_dict)

    def zero_grad(self, set_to_none: bool = True) -> None:
        inspect.unwrap(torch.optim.Optimizer.zero_grad)(self, set_to_none)


def make_optimizer(cfg: Config, params: Iterable[Tensor]) -> Optimizer:
    """The optimiser ``cfg.optimizer`` with ``learning_rate, adam_beta1, adam_beta2, adam_eps`` (LAMB's too)."""
    params = list(params)
    options: dict[str, Any] = {
        "lr": cfg.learning_rate,
        "betas": (cfg.adam_beta1, cfg.adam_beta2),
        "eps": cfg.adam_eps,
    }
    if cfg.optimizer == "adam":
        return PortableAdam(params, fused=_supports_fused(params) or None, **options)
    if cfg.optimizer == "lamb":
        return Lamb(params, **options)
    raise ValueError(f"Unknown optimizer={cfg.optimizer!r}: use adam or lamb")


def _supports_fused(params: list[Tensor]) -> bool:
    return all(p.device.type in ("cpu", "cuda") and p.dtype in (torch.float32, torch.float64) for p in params)


class PortableAdam(Optimizer, torch.optim.Adam):
    """Adam whose saved state does not depend on how the steps are computed.

    A state dict of plain Adam loads here without switching the fused implementation off, and a saved one loads into
    plain Adam on any device: the implementation is not written, step counters are saved on the CPU.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        return inspect.unwrap(torch.optim.Adam.step)(self, closure)

    def state_dict(self) -> dict[str, Any]:
        saved = super().state_dict()
        saved["state"] = {
            idx: {name: value.cpu() if name == "step" else value for name, value in state.items()}
            for idx, state in saved["state"].items()
        }
        saved["param_groups"] = [
            {**group, "fused": None, "foreach": None, "capturable": False} for group in saved["param_groups"]
        ]
        return saved

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # The base class puts step counters where the implementation of the *loaded* groups needs them.
        groups = [dict(group) for group in state_dict["param_groups"]]
        for group, own in zip(groups, self.param_groups, strict=False):
            group.update({key: own[key] for key in _IMPLEMENTATION_KEYS})
        super().load_state_dict({**state_dict, "param_groups": groups})

    def step_directly(self) -> None:
        """:meth:`step` of the fused implementation on the CPU, see :func:`can_step_directly`."""
        for group in self.param_groups:
            params: list[Tensor] = []
            grads: list[Tensor] = []
            moments: list[Tensor] = []
            squares: list[Tensor] = []
            steps: list[Tensor] = []
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["step"] = torch.zeros((), dtype=torch.float32)
                    state["exp_avg"] = torch.zeros_like(p, memory_format=torch.preserve_format)
                    state["exp_avg_sq"] = torch.zeros_like(p, memory_format=torch.preserve_format)
                params.append(p)
                grads.append(p.grad)
                moments.append(state["exp_avg"])
                squares.append(state["exp_avg_sq"])
                steps.append(state["step"])
            if not params:
                continue
            _fused_step(group, params, grads, (moments, squares, steps), float(group["lr"]), None)

    def step_on_device(self, params: list[Tensor], grads: list[Tensor], lr: Tensor, found_inf: Tensor) -> None:
        """:meth:`step` of the fused implementation on a GPU, after the first one; see :func:`can_step_directly`.

        :param lr: learning rate, a scalar on the device
        :param found_inf: float scalar on the device; if it is 1, nothing changes
        """
        states = [self.state[p] for p in params]
        moments, squares, steps = ([state[key] for state in states] for key in ("exp_avg", "exp_avg_sq", "step"))
        _fused_step(self.param_groups[0], params, grads, (moments, squares, steps), lr, found_inf)
        torch._foreach_sub_(steps, [found_inf] * len(steps))


def _fused_step(
    group: dict[str, Any],
    params: list[Tensor],
    grads: list[Tensor],
    state: tuple[list[Tensor], list[Tensor], list[Tensor]],
    lr: float | Tensor,
    found_inf: Tensor | None,
) -> None:
    """``state``: first and second moments and step counters."""
    moments, squares, steps = state
    beta1, beta2 = group["betas"]
    torch._foreach_add_(steps, 1)
    torch._fused_adam_(
        params,
        grads,
        moments,
        squares,
        [],
        steps,
        lr=lr,
        beta1=beta1,
        beta2=beta2,
        weight_decay=0.0,
        eps=group["eps"],
        amsgrad=False,
        maximize=False,
        grad_scale=None,
        found_inf=found_inf,
    )


def can_step_directly(optimizer: Any) -> TypeGuard[PortableAdam]:
    """Whether nobody wants to know about the steps of this optimiser, and it is fused Adam without its extras.

    What :meth:`torch.optim.Optimizer.step` does around a step costs more than the step of a small model.
    """
    if type(optimizer) is not PortableAdam or "step" in optimizer.__dict__:
        return False
    if optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks:
        return False
    return all(
        group["fused"] and not (group["weight_decay"] or group["amsgrad"] or group["maximize"])
        for group in optimizer.param_groups
    )


class Lamb(Optimizer):
    """Layer-wise adaptive Adam (You et al. 2020), optionally with look-ahead (Zhang et al. 2019).

    With bias-corrected moments m, v of a parameter tensor p::

        u = m / (sqrt(v) + eps) + weight_decay * p
        p -= lr * clamp(min(|p|, 10) / |u|, min_trust, 1 / min_trust) * u

    The ratio is 1 if ``min_trust`` is 1 or one of the norms is 0. State per parameter: ``exp_avg``, ``exp_avg_sq``,
    ``step`` (int, number of the *next* step) and, with look-ahead, ``slow_param``: every ``look_ahead_k`` steps
    ``slow_param += look_ahead_alpha * (p - slow_param)`` and ``p = slow_param``.
    """

    def __init__(
        self,
        params: Iterable[Any],
        bias_correction: bool = True,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 1e-4,
        min_trust: float = 0.01,
        use_look_ahead: bool = False,
        look_ahead_alpha: float = 0.5,
        look_ahead_k: int = 10,
    ):
        if lr < 0.0 or eps < 0.0:
            raise ValueError(f"Lamb needs lr >= 0 and eps >= 0, got {lr=}, {eps=}")
        if not (0.0 <= betas[0] < 1.0 and 0.0 <= betas[1] < 1.0):
            raise ValueError(f"Lamb needs betas in [0, 1), got {betas=}")
        if not 0.0 < min_trust <= 1.0:
            raise ValueError(f"Lamb needs min_trust in (0, 1], got {min_trust=}")
        defaults = {
            "lr": lr,
            "bias_correction": bias_correction,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "min_trust": min_trust,
            "use_look_ahead": use_look_ahead,
            "look_ahead_alpha": look_ahead_alpha,
            "look_ahead_k": look_ahead_k,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of all parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                self._step_group(group, params)
        return loss

    def _step_group(self, group: dict[str, Any], params: list[Tensor]) -> None:
        states = [self._state_of(p, group["use_look_ahead"]) for p in params]
        updates = _adam_updates(group, params, states)
        rates = _learning_rates(group, params, updates)
        torch._foreach_mul_(updates, rates)
        torch._foreach_sub_(params, updates)
        if group["use_look_ahead"]:
            _look_ahead(group, params, states)
        for state in states:
            state["step"] += 1

    def _state_of(self, p: Tensor, use_look_ahead: bool) -> dict[str, Any]:
        state = self.state[p]
        if not state:
            state["exp_avg"] = torch.zeros_like(p)
            state["exp_avg_sq"] = torch.zeros_like(p)
            state["step"] = 1
        if use_look_ahead and "slow_param" not in state:
            state["slow_param"] = p.detach().clone()
        return state


def _adam_updates(group: dict[str, Any], params: list[Tensor], states: list[dict[str, Any]]) -> list[Tensor]:
    """Advance the moments; directions of the update before learning rate and trust ratio."""
    beta1, beta2 = group["betas"]
    grads = [p.grad for p in params if p.grad is not None]
    moments, squares = [s["exp_avg"] for s in states], [s["exp_avg_sq"] for s in states]
    torch._foreach_lerp_(moments, grads, 1.0 - beta1)
    torch._foreach_mul_(squares, beta2)
    torch._foreach_addcmul_(squares, grads, grads, value=1.0 - beta2)

    denominators = torch._foreach_sqrt(squares)
    if group["bias_correction"]:
        torch._foreach_div_(denominators, [math.sqrt(1.0 - beta2 ** int(s["step"])) for s in states])
    torch._foreach_add_(denominators, group["eps"])
    updates = torch._foreach_div(moments, denominators)
    if group["bias_correction"]:
        torch._foreach_div_(updates, [1.0 - beta1 ** int(s["step"]) for s in states])
    if group["weight_decay"] != 0.0:
        torch._foreach_add_(updates, params, alpha=group["weight_decay"])
    return list(updates)


def _learning_rates(group: dict[str, Any], params: list[Tensor], updates: list[Tensor]) -> list[Tensor]:
    """Learning rate times trust ratio for each parameter tensor."""
    min_trust = group["min_trust"]
    weight_norms = torch.stack(list(torch._foreach_norm(params)))
    update_norms = torch.stack(list(torch._foreach_norm(updates)))
    if min_trust == 1.0:
        trust = torch.ones_like(weight_norms)
    else:
        trust = (weight_norms.clamp(max=_MAX_WEIGHT_NORM) / update_norms).clamp(min_trust, 1.0 / min_trust)
        trust = torch.where((weight_norms == 0.0) | (update_norms == 0.0), 1.0, trust)
    return list((trust * group["lr"]).unbind())


def _look_ahead(group: dict[str, Any], params: list[Tensor], states: list[dict[str, Any]]) -> None:
    due = [i for i, state in enumerate(states) if state["step"] % group["look_ahead_k"] == 0]
    if due:
        slow, fast = [states[i]["slow_param"] for i in due], [params[i] for i in due]
        torch._foreach_lerp_(slow, fast, group["look_ahead_alpha"])
        torch._foreach_copy_(fast, slow)

"""SGD steps on a GPU as one launch each: forward pass, losses, gradients, clipping and optimiser in a CUDA graph.

A step of a small model is some 150 kernels of a few microseconds each, so launching them is what takes time. The first
steps run as usual, the one after them is recorded. A recording is good for minibatches of one shape without invalid
samples, for one set of hyperparameters, and for tensors of weights and optimiser that nobody replaced; whenever one of
these changes there are usual steps again, and a new recording. What may be recorded is up to ``--cuda_graphs``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sample_factory.algo.learning.captured_preparation import CapturedPreparation
from sample_factory.algo.learning.policy_update import computes_in_bfloat16
from sample_factory.algo.learning.train_stats import MinibatchRecord, stack_record
from sample_factory.algo.utils.cuda_graphs import Recording, is_on_gpu, layout_of, run_on
from sample_factory.algo.utils.optimizers import can_step_directly
from sample_factory.algo.utils.tensor_dict import TensorDict
from sample_factory.cfg.persistence import cfg_dict
from sample_factory.model.actor_critic import ActorCriticSharedWeights
from sample_factory.model.capturable import may_capture
from sample_factory.model.core import ModelCoreRNN
from sample_factory.utils.attr_dict import AttrDict
from sample_factory.utils.typing import Config
from sample_factory.utils.utils import log

_NUM_REHEARSALS = 3
_MAX_IN_PLACE = 4
_MAX_PLACES = 1000

# Minibatch and learning rate (a float, or a tensor that will hold it) to the variables of the step.
Update = Callable[[AttrDict, Any], AttrDict]


class CapturedUpdate:
    """Usage: :meth:`start_iteration`, then :meth:`step` for every minibatch.

    Minibatches that come back to the same memory, as slices of a prepared dataset do, are read there. Others are copied
    to where the recording reads them. ``preparation`` is about the batches of a learner, under the same conditions.
    """

    def __init__(self) -> None:
        self.preparation = CapturedPreparation()
        self._context: Any = None  # what a recording depends on
        self._is_allowed = False
        self._has_failed = False
        self._is_first = True  # the optimiser makes the tensors that recordings change when it first steps
        self._stream: torch.cuda.Stream | None = None
        self._lr: Tensor | None = None
        self._forget()

    def _forget(self) -> None:
        self._num_rehearsed = 0
        self._num_seen: dict[Any, int] = {}
        self._in_place: dict[Any, _RecordedStep] = {}
        self._of_copies: _RecordedStep | None = None

    def start_iteration(self, cfg: Config, model: nn.Module, optimizer: Any, device: torch.device) -> None:
        """Look whether steps may be recorded, and whether the recordings are still good."""
        if device.type != "cuda" or self._has_failed:
            return
        self._is_allowed = (
            may_capture(cfg, model, device)
            and can_step_directly(optimizer)
            and len(optimizer.param_groups) == 1
            and _has_static_core(cfg, model)
        )
        self._is_first = not optimizer.state
        context = (cfg_dict(cfg), _addresses(model, optimizer), _learning(model)) if self._is_allowed else None
        if context != self._context:
            self._forget()
            self.preparation.forget()
            self._context = context

    @property
    def is_allowed(self) -> bool:
        return self._is_allowed and not self._has_failed

    @property
    def num_recordings(self) -> int:
        return len(self._in_place) + (self._of_copies is not None)

    def step(
        self, mb: AttrDict, lr: float, update: Update, are_all_valid: bool = True
    ) -> tuple[AttrDict, MinibatchRecord | Tensor]:
        """One SGD step: its variables, which the next step overwrites, and its record."""
        if not self.is_allowed:
            return _usual_step(mb, lr, update)
        if self._is_first or not are_all_valid:
            return self._rehearse(mb, lr, update)
        where = layout_of(mb)
        num_seen = self._num_seen[where] = self._num_seen.get(where, 0) + 1
        if self._num_rehearsed < _NUM_REHEARSALS:
            self._num_rehearsed += 1
            return self._rehearse(mb, lr, update)
        recorded = self._in_place.get(where)
        try:
            if recorded is None and num_seen > _NUM_REHEARSALS and len(self._in_place) < _MAX_IN_PLACE:
                recorded = self._in_place[where] = self._record(mb, update)
            if recorded is None and self._of_copies is not None and not _fits(self._of_copies.minibatch, mb):
                self._of_copies = None
            if recorded is None:
                if self._of_copies is None:
                    self._of_copies = self._record(_copy_of_device_tensors(mb), update)
                recorded = self._of_copies
                pairs = list(_device_tensors(recorded.minibatch, mb))
                torch._foreach_copy_([target for target, _ in pairs], [source for _, source in pairs])
        except Exception as exc:
            self._has_failed = True
            self._forget()
            log.warning(f"SGD steps of this model are launched kernel by kernel, a CUDA graph is impossible: {exc}")
            return _usual_step(mb, lr, update)
        if len(self._num_seen) > _MAX_PLACES:
            self._num_seen = {}
        assert self._lr is not None
        self._lr.fill_(lr)
        var, scalars = recorded.recording.replay()
        return AttrDict(var), scalars.clone()

    def _rehearse(self, mb: AttrDict, lr: float, update: Update) -> tuple[AttrDict, MinibatchRecord]:
        """A usual step on the stream of the recordings. Gradients are accumulated on the stream where a parameter was
        first used, for as long as somebody keeps the outputs of the model; a recording can't wait for another stream.
        """
        self._stream = self._stream or torch.cuda.Stream()
        return run_on(self._stream, lambda: _usual_step(mb, lr, update))

    def _record(self, mb: dict[Any, Any], update: Update) -> _RecordedStep:
        """Record a step for a minibatch in this memory, without making it."""
        device = mb["valids"].device
        self._lr = torch.zeros((), device=device) if self._lr is None else self._lr
        minibatch = _device_tensors_of(mb)

        def work() -> tuple[AttrDict, Tensor]:
            var = update(AttrDict(minibatch), self._lr)
            return var, stack_record(MinibatchRecord.of(var), device)

        # One memory for all: nobody looks at the results of a step after the next one began.
        other = next(iter(self._in_place.values()), self._of_copies)
        share_with = None if other is None else other.recording
        return _RecordedStep(minibatch, Recording(work, share_with=share_with, stream=self._stream))


class _RecordedStep(NamedTuple):
    minibatch: dict[Any, Any]
    recording: Recording[tuple[AttrDict, Tensor]]


def _usual_step(mb: AttrDict, lr: float, update: Update) -> tuple[AttrDict, MinibatchRecord]:
    var = update(mb, lr)
    return var, MinibatchRecord.of(var)


def _has_static_core(cfg: Config, model: nn.Module) -> bool:
    """No memory, or GRU layers for which there is an implementation with static shapes."""
    if not cfg.use_rnn:
        return True
    if not isinstance(model, ActorCriticSharedWeights) or computes_in_bfloat16(cfg):
        return False
    return type(model.core) is ModelCoreRNN and type(model.core.core) is nn.GRU


def _addresses(model: nn.Module, optimizer: Any) -> list[int]:
    tensors: list[Tensor] = [*model.parameters(), *model.buffers()]
    for state in optimizer.state.values():
        tensors += [value for value in state.values() if isinstance(value, Tensor)]
    return [tensor.data_ptr() for tensor in tensors]


def _learning(model: nn.Module) -> list[bool]:
    """Which parameters learn: some may be frozen later."""
    return [parameter.requires_grad for parameter in model.parameters()]


def _device_tensors_of(source: dict[Any, Any]) -> dict[Any, Any]:
    """Without what is in CPU memory: a recording would not see it change."""
    result = TensorDict()
    for key, value in source.items():
        if isinstance(value, dict):
            dict.__setitem__(result, key, _device_tensors_of(value))
        elif is_on_gpu(value):
            dict.__setitem__(result, key, value)
    return result


def _copy_of_device_tensors(source: dict[Any, Any]) -> dict[Any, Any]:
    result = _device_tensors_of(source)
    for key, value in result.items():
        copied = _copy_of_device_tensors(value) if isinstance(value, dict) else value.clone()
        dict.__setitem__(result, key, copied)
    return result


def _device_tensors(target: dict[Any, Any], source: dict[Any, Any]) -> Iterator[tuple[Tensor, Tensor]]:
    for key, value in target.items():
        if isinstance(value, dict):
            yield from _device_tensors(value, source[key])
        else:
            yield value, source[key]


def _fits(target: dict[Any, Any], source: dict[Any, Any]) -> bool:
    return all(a.shape == b.shape and a.dtype == b.dtype for a, b in _device_tensors(target, source))

"""SGD steps on a GPU as one launch each: forward pass, losses, gradients, clipping and optimiser in a CUDA graph.

A step of a small model is some 150 kernels of a few microseconds each, so launching them is what takes time. The first
steps run as usual, the one after them is recorded. A recording is good for minibatches of one shape without invalid
samples, for one set of hyperparameters, and for tensors of weights and optimiser that nobody replaced; whenever one of
these changes there are usual steps again, and a new recording. What may be recorded is up to ``--cuda_graphs``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from sample_factory.algo.learning.captured_preparation import CapturedPreparation
from sample_factory.algo.learning.policy_update import computes_in_bfloat16
from sample_factory.algo.learning.train_stats import MinibatchRecord, stack_record
from sample_factory.algo.utils.cuda_graphs import Recording
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

# Minibatch and learning rate (a float, or a tensor that will hold it) to the variables of the step.
Update = Callable[[AttrDict, Any], AttrDict]


class CapturedUpdate:
    """Usage: :meth:`start_iteration`, then :meth:`step` for every minibatch in which all samples are valid.

    ``preparation`` is about the batches of a learner, under the same conditions.
    """

    def __init__(self) -> None:
        self.preparation = CapturedPreparation()
        self._context: Any = None  # what a recording depends on
        self._is_allowed = False
        self._has_failed = False
        self._num_rehearsed = 0
        self._stream: torch.cuda.Stream | None = None
        self._recording: Recording[tuple[AttrDict, Tensor]] | None = None
        self._minibatch: dict[Any, Any] = {}
        self._lr: Tensor | None = None

    def start_iteration(self, cfg: Config, model: nn.Module, optimizer: Any, device: torch.device) -> None:
        """Look whether steps may be recorded, and whether the recording is still good."""
        if device.type != "cuda" or self._has_failed:
            return
        self._is_allowed = (
            may_capture(cfg, model, device) and can_step_directly(optimizer) and _has_static_core(cfg, model)
        )
        context = (cfg_dict(cfg), _addresses(model, optimizer)) if self._is_allowed else None
        if context != self._context:
            self._forget()
            self.preparation.forget()
            self._context = context

    def _forget(self) -> None:
        self._recording, self._minibatch, self._num_rehearsed = None, {}, 0

    @property
    def is_allowed(self) -> bool:
        return self._is_allowed and not self._has_failed

    def step(self, mb: AttrDict, lr: float, update: Update) -> tuple[AttrDict, MinibatchRecord | Tensor]:
        """One SGD step: its variables, which the next step overwrites, and its record."""
        if self._recording is not None and not _fits(self._minibatch, mb):
            self._forget()
        if self._recording is None and self._num_rehearsed < _NUM_REHEARSALS:
            self._num_rehearsed += 1
            return self._rehearse(mb, lr, update)
        if self._recording is None and not self._record(mb, update):
            return _usual_step(mb, lr, update)
        assert self._recording is not None and self._lr is not None
        pairs = list(_device_tensors(self._minibatch, mb))
        torch._foreach_copy_([target for target, _ in pairs], [source for _, source in pairs])
        self._lr.fill_(lr)
        var, scalars = self._recording.replay()
        return AttrDict(var), scalars.clone()

    def _rehearse(self, mb: AttrDict, lr: float, update: Update) -> tuple[AttrDict, MinibatchRecord]:
        """A usual step on the stream of the recording: gradients are accumulated where parameters were first used."""
        self._stream = self._stream or torch.cuda.Stream()
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            result = _usual_step(mb, lr, update)
        torch.cuda.current_stream().wait_stream(self._stream)
        return result

    def _record(self, mb: AttrDict, update: Update) -> bool:
        """Record a step for minibatches like this one, without making it. False if that is impossible."""
        device = mb.valids.device
        self._minibatch = _copy_of_device_tensors(mb)
        self._lr = torch.zeros((), device=device)

        def work() -> tuple[AttrDict, Tensor]:
            var = update(AttrDict(self._minibatch), self._lr)
            return var, stack_record(MinibatchRecord.of(var), device)

        try:
            self._recording = Recording(work, stream=self._stream)
        except Exception as exc:
            self._has_failed = True
            self._forget()
            log.warning(f"SGD steps of this model are launched kernel by kernel, a CUDA graph is impossible: {exc}")
            return False
        return True


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


def _copy_of_device_tensors(source: dict[Any, Any]) -> dict[Any, Any]:
    result = TensorDict()
    for key, value in source.items():
        if isinstance(value, dict):
            dict.__setitem__(result, key, _copy_of_device_tensors(value))
        elif value.is_cuda:
            dict.__setitem__(result, key, value.clone(memory_format=torch.contiguous_format))
    return result


def _device_tensors(target: dict[Any, Any], source: dict[Any, Any]) -> Iterator[tuple[Tensor, Tensor]]:
    for key, value in target.items():
        if isinstance(value, dict):
            yield from _device_tensors(value, source[key])
        else:
            yield value, source[key]


def _fits(target: dict[Any, Any], source: dict[Any, Any]) -> bool:
    return all(a.shape == b.shape and a.dtype == b.dtype for a, b in _device_tensors(target, source))

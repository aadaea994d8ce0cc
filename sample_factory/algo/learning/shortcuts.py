"""What a learner knows about its model and the minibatch in work, so that standard ones need fewer operations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from sample_factory.algo.learning.fused_losses import Tape
from sample_factory.algo.utils.blas_threads import OneBlasThread
from sample_factory.model.standard_network import NetworkOfModel, StandardNetwork


class Shortcuts:
    """The standard network of the model, looked at once per iteration, and the tape of the minibatch in work."""

    def __init__(self) -> None:
        self._networks = NetworkOfModel()
        self._one_blas_thread = OneBlasThread()
        self._known: tuple[StandardNetwork | None] | None = None  # while an iteration lasts
        self.tape: Tape | None = None

    def network(self, model: Any) -> StandardNetwork | None:
        """``None`` if the model is not a standard one."""
        return self._known[0] if self._known is not None else self._networks.get(model)

    @contextmanager
    def iteration(self, model: Any) -> Iterator[None]:
        """A training iteration, during which nobody changes the structure of the model.

        The arithmetic done in NumPy is so short that a second thread would spend its time on waiting for the next, and
        all of a core with it.
        """
        self._known = (self._networks.get(model),)
        try:
            with self._one_blas_thread:
                yield
        finally:
            self._known = None

    @contextmanager
    def recording(self, tape: Tape | None) -> Iterator[None]:
        """The forward pass and losses of one minibatch: on the tape if there is one, else with autograd."""
        self.tape = tape
        try:
            with torch.set_grad_enabled(tape is None):
                yield
        finally:
            self.tape = None

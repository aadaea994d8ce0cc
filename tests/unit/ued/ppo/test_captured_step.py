"""When steps are recorded, from which memory, and for how long; repeated work stands in for CUDA graphs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sample_factory.ued.models.distinct import DistinctObservations
from sample_factory.ued.ppo import captured_step
from sample_factory.ued.ppo.captured_step import CapturedStep
from sample_factory.ued.ppo.minibatches import Minibatch
from tests.unit.recordings import RepeatedWork, fail


class Learner:
    """Adds up what it sees: rewards of minibatches, times the learning rate."""

    def __init__(self) -> None:
        self.weights = [torch.zeros(3)]
        self.usual_steps = 0
        self.captured = CapturedStep(self._usual, self._step, lambda: self.weights)

    def _usual(self, minibatch: Minibatch, lr: float) -> Tensor:
        self.usual_steps += 1
        return self._step(minibatch, torch.tensor(lr))

    def _step(self, minibatch: Minibatch, lr: Tensor) -> Tensor:
        self.weights[0] += lr * minibatch.advantages.sum()
        return minibatch.obs.obs["image"].sum() + minibatch.initial_carry[0].sum()


@pytest.fixture
def learner(monkeypatch: pytest.MonkeyPatch) -> Learner:
    monkeypatch.setattr(captured_step, "Recording", RepeatedWork)
    monkeypatch.setattr(CapturedStep, "_rehearse", lambda self, minibatch, lr: self._usual(minibatch, lr))
    monkeypatch.setattr(RepeatedWork, "num_made", 0)
    return Learner()


def minibatch(value: float, num_envs: int = 2) -> Minibatch:
    steps = torch.full([4, num_envs], value)
    obs = DistinctObservations.of({"image": steps.view(4, num_envs, 1, 1, 1)}, 2)
    carry = (torch.full([num_envs, 5], value),)
    return Minibatch(obs, steps.long(), steps, steps, steps, steps, carry, steps.bool())


def run(learner: Learner, batch: Minibatch, lr: float = 1.0) -> None:
    """One step; says what the plain step would have said."""
    before = learner.weights[0].clone()
    stats = learner.captured.run(batch, lr)
    assert stats == batch.obs.obs["image"].sum() + batch.initial_carry[0].sum()
    torch.testing.assert_close(learner.weights[0], before + lr * batch.advantages.sum())


def test_steps_are_recorded_once_and_read_new_minibatches_and_rates(learner: Learner) -> None:
    learner.captured.start()
    for i in range(8):
        run(learner, minibatch(float(i)), lr=0.5 * i)
    assert learner.usual_steps == 3 and RepeatedWork.num_made == 1 and learner.captured.is_recorded
    learner.captured.start()
    run(learner, minibatch(9.0))
    assert RepeatedWork.num_made == 1


def test_what_is_recorded_is_a_copy(learner: Learner) -> None:
    learner.captured.start()
    for _ in range(4):
        batch = minibatch(2.0)
        run(learner, batch)
    batch.advantages.fill_(100.0)  # its memory belongs to somebody else by now
    run(learner, minibatch(3.0))


def test_other_shapes_and_replaced_weights_are_recorded_anew(learner: Learner) -> None:
    for num_envs in (2, 3):
        learner.captured.start()
        for _ in range(5):
            run(learner, minibatch(1.0, num_envs))
    assert RepeatedWork.num_made == 2 and learner.usual_steps == 6
    learner.weights[0] = learner.weights[0].clone()
    learner.captured.start()
    assert not learner.captured.is_recorded
    for _ in range(5):
        run(learner, minibatch(1.0, 3))
    assert RepeatedWork.num_made == 3 and learner.usual_steps == 9


def test_what_cannot_be_recorded_goes_on_as_usual(
    learner: Learner, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(captured_step, "Recording", fail)
    learner.captured.start()
    for _ in range(6):
        run(learner, minibatch(1.0))
    assert learner.usual_steps == 6 and not learner.captured.is_recorded
    assert caplog.text.count("operation not permitted") == 1

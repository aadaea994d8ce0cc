"""When and from where recordings of SGD steps are made; the recordings themselves need a GPU (tests/gpu)."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sample_factory.algo.learning import captured_preparation, captured_update
from sample_factory.algo.learning.captured_preparation import CapturedPreparation
from sample_factory.algo.learning.captured_update import CapturedUpdate
from sample_factory.algo.utils import cuda_graphs
from sample_factory.algo.utils.tensor_dict import TensorDict
from sample_factory.utils.attr_dict import AttrDict
from tests.unit.recordings import RepeatedWork, fail

RECORD = ("loss", "policy_loss", "value_loss", "exploration_loss", "kl_loss", "kl_old_mean", "kl_old_max", "skipped")


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> CapturedUpdate:
    monkeypatch.setattr(cuda_graphs, "is_on_gpu", lambda tensor: True)
    monkeypatch.setattr(captured_update, "is_on_gpu", lambda tensor: True)
    monkeypatch.setattr(captured_update, "Recording", RepeatedWork)
    monkeypatch.setattr(CapturedUpdate, "_rehearse", lambda self, *args: captured_update._usual_step(*args))
    RepeatedWork.num_made = 0
    captured = CapturedUpdate()
    captured._is_allowed, captured._is_first = True, False
    return captured


def update(mb: AttrDict, lr: Any) -> AttrDict:
    """A step whose loss says which minibatch and learning rate it saw."""
    value = mb.valids.sum() + mb.normalized_obs["obs"].sum() * 10.0 + lr * 1000.0
    return AttrDict(dict.fromkeys(RECORD, value))


def minibatch(valids: float, obs: float) -> AttrDict:
    return AttrDict(valids=torch.tensor([valids]), normalized_obs=TensorDict(obs=torch.tensor([obs])))


def losses(captured: CapturedUpdate, minibatches: list[AttrDict]) -> list[float]:
    return [float(captured.step(mb, float(i), update)[0].loss) for i, mb in enumerate(minibatches)]


def test_minibatches_that_come_back_are_read_where_they_are(captured: CapturedUpdate) -> None:
    first, second = minibatch(1.0, 2.0), minibatch(3.0, 4.0)
    order = [first, second] * 6
    assert losses(captured, order) == [update(mb, float(i)).loss for i, mb in enumerate(order)]
    assert len(captured._in_place) == 2
    first.valids.fill_(7.0)  # the same memory holds another batch
    assert losses(captured, [first]) == [27.0]


def test_others_are_copied(captured: CapturedUpdate) -> None:
    order = [minibatch(float(i), float(-i)) for i in range(20)]
    assert losses(captured, order) == [update(mb, float(i)).loss for i, mb in enumerate(order)]
    assert RepeatedWork.num_made == captured.num_recordings == 1
    other_shape = AttrDict(valids=torch.ones(3), normalized_obs=TensorDict(obs=torch.ones(3)))
    assert losses(captured, [other_shape]) == [33.0]
    assert RepeatedWork.num_made == 2


def test_the_first_iteration_and_invalid_samples_are_only_rehearsed(
    captured: CapturedUpdate, monkeypatch: pytest.MonkeyPatch
) -> None:
    rehearsed = []

    def rehearse(self: CapturedUpdate, *args: Any) -> Any:
        rehearsed.append(args[1])
        return captured_update._usual_step(*args)

    monkeypatch.setattr(CapturedUpdate, "_rehearse", rehearse)
    captured._is_first = True
    mb = minibatch(1.0, 2.0)
    assert losses(captured, [mb] * 5) == [update(mb, float(i)).loss for i in range(5)]
    assert rehearsed == [0.0, 1.0, 2.0, 3.0, 4.0] and not captured.num_recordings
    captured._is_first = False
    losses(captured, [mb] * 5)
    assert captured.num_recordings == 1
    rehearsed.clear()
    assert captured.step(mb, 8.0, update, are_all_valid=False)[0].loss == update(mb, 8.0).loss
    captured._is_allowed = False
    captured.step(mb, 9.0, update)
    assert rehearsed == [8.0] and captured.num_recordings == 1


def test_what_cannot_be_recorded_goes_on_as_usual(
    captured: CapturedUpdate, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(captured_update, "Recording", fail)
    order = [minibatch(float(i), 0.0) for i in range(5)]
    assert losses(captured, order) == [i * 1001.0 for i in range(5)]
    assert not captured.is_allowed
    assert caplog.text.count("launched kernel by kernel") <= 2


def test_preparation_is_recorded_per_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_graphs, "is_on_gpu", lambda tensor: True)
    monkeypatch.setattr(captured_preparation, "Recording", RepeatedWork)
    RepeatedWork.num_made = 0
    captured, slots = CapturedPreparation(), [TensorDict(x=torch.tensor([float(i)])) for i in range(2)]
    for round_ in range(4):
        for slot in slots:
            slot["x"].add_(1.0)
            made = captured.run("part", slot, lambda slot=slot: TensorDict(y=slot["x"] * 2.0), ())
            assert made["y"].item() == 2.0 * slot["x"].item()
        assert RepeatedWork.num_made == (2 if round_ >= 2 else 0)


def test_preparation_that_cannot_be_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captured_preparation, "Recording", fail)
    captured, calls = CapturedPreparation(), []
    for i in range(5):
        made = captured.run("part", TensorDict(), lambda i=i: (calls.append(i), TensorDict(y=torch.tensor(i)))[1], ())
        assert made["y"].item() == i
    assert calls == list(range(5))

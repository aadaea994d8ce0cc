"""What a resumed learner continues beside its weights: random streams, schedules, configuration."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sample_factory.algo.learning import learner as learner_module
from sample_factory.algo.learning.lr_schedules import LearningRateScheduler
from sample_factory.algo.utils import random_streams
from sample_factory.algo.utils.seeding import component_rng

from .learner_setup import checkpoint_folder, make_batch, make_cfg, make_learner


@pytest.fixture(autouse=True)
def no_streams_of_other_tests():
    random_streams.forget_all()
    yield
    random_streams.forget_all()


def draw_from_all(learner: Any) -> list[Any]:
    streams = (learner._rng, learner._summary_rng)
    return [
        random.random(),
        float(np.random.random()),
        float(torch.rand(())),
        *(float(rng.random()) for rng in streams),
    ]


def test_random_streams_continue(tmp_path: Path) -> None:
    learner = make_learner(make_cfg(tmp_path))
    draw_from_all(learner)
    learner.save()
    expected = draw_from_all(learner)
    assert draw_from_all(make_learner(make_cfg(tmp_path))) == expected
    assert draw_from_all(make_learner(make_cfg(tmp_path))) == expected, "every resume from this file"


def test_other_seed_starts_other_streams(tmp_path: Path) -> None:
    learner = make_learner(make_cfg(tmp_path))
    learner.save()
    expected = draw_from_all(learner)
    assert draw_from_all(make_learner(make_cfg(tmp_path, "--seed=6"))) != expected


def test_streams_of_components_that_come_later_continue(tmp_path: Path) -> None:
    """In serial mode workers are created after the learner has loaded its checkpoint."""
    cfg = make_cfg(tmp_path)
    learner = make_learner(cfg)
    worker_rng = component_rng(cfg, "actions", 0, 3)
    worker_rng.random(5)
    learner.save()
    expected = worker_rng.random(4)
    random_streams.forget_all()  # another process
    make_learner(cfg)
    np.testing.assert_array_equal(component_rng(cfg, "actions", 0, 3).random(4), expected)
    assert (
        component_rng(cfg, "actions", 0, 3).random()
        == np.random.default_rng(
            component_rng(cfg, "actions", 0, 3).bit_generator.seed_seq  # type: ignore[attr-defined]
        ).random()
    ), "only the first one continues"


def test_without_a_seed_nothing_is_kept(tmp_path: Path) -> None:
    cfg = make_cfg(tmp_path)
    cfg.seed = None
    learner = make_learner(cfg)
    assert learner._get_checkpoint_dict()["run_state"]["random"] is None
    learner.save()
    assert make_learner(cfg).is_initialized


def test_streams_of_another_library_version_start_anew(tmp_path: Path) -> None:
    learner = make_learner(make_cfg(tmp_path))
    learner.save()
    path = next(checkpoint_folder(tmp_path).glob("*.pth"))
    content = torch.load(path, weights_only=True)
    content["run_state"]["random"]["torch"] = torch.zeros(3, dtype=torch.uint8)
    torch.save(content, path)
    assert make_learner(make_cfg(tmp_path)).is_initialized


class Warmup(LearningRateScheduler):
    """A schedule of another project, with a state of its own."""

    needs_kls = False

    def __init__(self) -> None:
        self.num_calls = 0

    def update(self, current_lr: float, recent_kls: Any) -> float:
        self.num_calls += 1
        return current_lr

    def invoke_after_each_epoch(self) -> bool:
        return True

    def state_dict(self) -> dict[str, Any]:
        return {"num_calls": self.num_calls}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.num_calls = state["num_calls"]


def test_state_of_a_schedule_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learner_module, "get_lr_scheduler", lambda cfg: Warmup())
    learner = make_learner(make_cfg(tmp_path))
    for _ in range(3):
        learner.train(make_batch(learner))
    learner.save()
    assert make_learner(make_cfg(tmp_path)).lr_scheduler.num_calls == 3
    other = make_learner(make_cfg(tmp_path, "--lr_schedule=linear_decay"))
    assert other.lr_scheduler.num_calls == 0, "the state belongs to another schedule"


def test_configuration_is_that_of_the_start(tmp_path: Path) -> None:
    """Tuned hyperparameters are kept apart: they belong to one policy."""
    learner = make_learner(make_cfg(tmp_path))
    learner.set_new_cfg({"gamma": 0.5})
    learner.train(make_batch(learner))
    content = learner._get_checkpoint_dict()
    assert json.loads(content["cfg"])["gamma"] == 0.99
    assert content["run_state"]["hyperparams"] == {"gamma": 0.5}

"""The learner's part: what enters the buffer, what is published, what is trained on, what is saved."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sample_factory.algo.learning.learner import Learner
from sample_factory.algo.learning.level_curriculum import JudgedRollouts, LevelCurriculum
from sample_factory.algo.utils.env_info import EnvInfo
from sample_factory.algo.utils.level_tables import (
    CUT_OFF,
    ENTRIES_PER_ENV,
    MUTATED,
    NEW,
    NO_SLOT,
    REPLAYED,
    LevelTables,
    PlayedLevel,
    make_level_id,
)
from sample_factory.algo.utils.levels import LevelSpec
from sample_factory.algo.utils.misc import CURRICULUM_STATS, LEARNER_ENV_STEPS, TRAIN_STATS
from sample_factory.algo.utils.tensor_dict import TensorDict
from sample_factory.ued.curricula.level_buffer import BufferSettings, LevelBuffer, LevelResults
from sample_factory.ued.curricula.stored_bytes import StoredBytes
from tests.unit.learning.learner_setup import make_batch, make_cfg, make_env_info, make_learner, weights

SPEC = LevelSpec((1,), np.dtype(np.int64).str, can_mutate=True, resets_itself=False)
NUM_ENVS = 4
T = 8


def config(*flags: str, train_dir: Any = "train_dir") -> Any:
    defaults = ("--curriculum=plr", "--curriculum_buffer_size=4", "--curriculum_score=l1_value_loss")
    return make_cfg(train_dir, "--num_workers=1", f"--num_envs_per_worker={NUM_ENVS}", *defaults, *flags)


class Scene:
    """A curriculum, and environments that are driven by hand: every episode is one row of ``T`` steps."""

    def __init__(self, *flags: str, state: Any = None) -> None:
        self.cfg = config(*flags)
        self.tables = LevelTables(SPEC, self.cfg.curriculum_buffer_size, NUM_ENVS, share=False)
        self.curriculum = LevelCurriculum(self.cfg, self.tables)
        self.curriculum.init(state)

    @property
    def buffer(self) -> LevelBuffer[StoredBytes]:
        assert self.curriculum._buffer is not None
        return self.curriculum._buffer

    def stored(self) -> list[int]:
        return self.buffer.stored().data.numpy().view(np.int64)[:, 0].tolist()

    def begin(self, env_id: int, level: int, kind: int = NEW, slot: int = NO_SLOT, num_mutations: int = 0) -> int:
        """Returns the level id."""
        generation = self.tables.generation(slot) if slot >= 0 else 0
        data = SPEC.to_bytes(np.array([level], np.int64))
        serial = self.tables.record(env_id, PlayedLevel(kind, slot, generation, num_mutations, data))
        return make_level_id(serial, env_id, NUM_ENVS, kind == REPLAYED)

    def finish(self, *ids_and_scores: tuple[int, float], is_done: bool = True) -> None:
        """Episodes end whose absolute advantage is the score: values are 0, and the reward of every step is it."""
        ids = np.array([[level_id] * T for level_id, _ in ids_and_scores], np.int64)
        rewards = np.array([[score] * T for _, score in ids_and_scores], np.float32)
        dones = np.zeros(ids.shape, bool)
        dones[:, -1] = is_done
        values = np.zeros([len(ids), T + 1], np.float32)
        self.curriculum.judge(JudgedRollouts(ids, dones, rewards, rewards, values))


@pytest.fixture
def scene() -> Scene:
    # Without discounting over steps the advantage of a step is its reward.
    return Scene("--gae_lambda=0")


def test_new_levels_fill_the_buffer(scene: Scene) -> None:
    ids = [scene.begin(env, 10 + env) for env in range(3)]
    scene.finish(*zip(ids, (0.5, 0.25, 1.0), strict=True))
    assert scene.stored() == [10, 11, 12]
    np.testing.assert_allclose(scene.buffer.scores[:3], [0.5, 0.25, 1.0])
    np.testing.assert_allclose(scene.buffer.max_returns[:3], [0.5 * T, 0.25 * T, 1.0 * T])


def test_unfinished_and_cut_off_episodes_enter_nothing(scene: Scene) -> None:
    ids = [scene.begin(0, 1), scene.begin(1, 2)]
    scene.finish((ids[0], 1.0), is_done=False)
    scene.finish((ids[1] + CUT_OFF, 1.0))
    assert scene.stored() == []
    scene.finish((ids[0], 2.0))
    assert scene.stored() == [1]
    np.testing.assert_allclose(scene.buffer.scores[0], 1.5)


def test_replayed_level_gets_a_new_score(scene: Scene) -> None:
    scene.finish((scene.begin(0, 5), 1.0))
    scene.finish((scene.begin(2, 5, REPLAYED, slot=0), 0.125))
    assert scene.stored() == [5]
    np.testing.assert_allclose(scene.buffer.scores[0], 0.125)
    np.testing.assert_allclose(scene.buffer.max_returns[0], 1.0 * T)  # the best ever


def test_environments_that_play_one_level_judge_it_together(scene: Scene) -> None:
    scene.finish((scene.begin(0, 5), 1.0))
    ids = [scene.begin(env, 5, REPLAYED, slot=0) for env in range(3)]
    scene.finish(*zip(ids, (0.5, 1.0, 3.0), strict=True))
    assert scene.stored() == [5]
    np.testing.assert_allclose(scene.buffer.scores[0], 1.5)
    np.testing.assert_allclose(scene.buffer.max_returns[0], 3.0 * T)


def test_level_that_was_replaced_meanwhile_competes_as_a_new_one() -> None:
    scene = Scene("--gae_lambda=0", "--curriculum_buffer_size=1")
    scene.finish((scene.begin(0, 5), 1.0))
    late = scene.begin(1, 5, REPLAYED, slot=0, num_mutations=3)
    scene.finish((scene.begin(0, 6), 2.0))
    assert scene.stored() == [6]
    scene.finish((late, 1.5))
    assert scene.stored() == [6]
    np.testing.assert_allclose(scene.buffer.scores[0], 2.0)
    later = scene.begin(1, 5, REPLAYED, slot=0, num_mutations=3)
    scene.finish((scene.begin(0, 7), 2.5))
    scene.finish((later, 9.0))
    assert scene.stored() == [5] and scene.buffer.num_mutations[0] == 3


def test_edited_levels_remember_how_often(scene: Scene) -> None:
    scene.finish((scene.begin(0, 5), 1.0), (scene.begin(1, 6, MUTATED, num_mutations=4), 1.0))
    assert scene.buffer.num_mutations[:2].tolist() == [0, 4]
    scene.tables.publish(np.array([0.0, 1.0]))
    level = scene.tables.draw(0.5)
    assert level is not None and level.num_mutations == 4


def test_ages_count_episodes_of_new_and_stored_levels() -> None:
    scene = Scene("--gae_lambda=0", "--curriculum_staleness_coef=1")
    scene.finish((scene.begin(0, 5), 1.0), (scene.begin(1, 6), 1.0))
    assert scene.buffer.ages[:2].tolist() == [0, 0]
    scene.begin(2, 7)
    scene.begin(3, 5, REPLAYED, slot=0)
    scene.begin(0, 8, MUTATED)
    scene.finish((CUT_OFF, 0.0))  # nothing ends
    assert scene.buffer.ages[:2].tolist() == [0, 2]
    level = scene.tables.draw(0.0)  # published: all weight is on the level that was not replayed
    assert level is not None and level.slot == 1


def test_results_are_those_of_the_buffer_of_the_ued_package(scene: Scene) -> None:
    """The same sequence of new and replayed levels, one per batch."""
    settings = BufferSettings(capacity=4)
    reference = LevelBuffer(settings, StoredBytes(torch.zeros([1, 8], dtype=torch.uint8)))
    rng = np.random.default_rng(0)
    for number in range(200):
        score = float(np.float32(rng.random()))
        is_replay = reference.size > 0 and rng.random() < 0.5
        slot = int(rng.integers(reference.size)) if is_replay else NO_SLOT
        level = scene.stored()[slot] if is_replay else 100 + number
        env = int(rng.integers(NUM_ENVS))
        scene.finish((scene.begin(env, level, REPLAYED if is_replay else NEW, slot), score))

        reference.age(1)
        if is_replay:
            reference.ages[slot] = 0
        data = SPEC.to_bytes(np.array([level], np.int64))
        best = max(score * T, float(reference.max_returns_of(np.array([slot]))[0]))
        reference.update(
            LevelResults(
                StoredBytes(torch.from_numpy(data.copy())[None]),
                *(np.array([x]) for x in (slot, NO_SLOT, score, best, True)),  # type: ignore[arg-type]
            )
        )
        np.testing.assert_allclose(scene.buffer.distribution(), reference.distribution(), rtol=1e-6)
    assert torch.equal(scene.buffer.levels.data, reference.levels.data)
    np.testing.assert_array_equal(scene.buffer.ages, reference.ages)


def test_buffer_follows_its_flags() -> None:
    """--curriculum_buffer_size, --curriculum_temp, --curriculum_staleness_coef, --curriculum_use_score_ranks,
    --curriculum_min_fill_ratio
    """
    flags = ("buffer_size=7", "temp=0.5", "staleness_coef=0.125", "use_score_ranks=False", "min_fill_ratio=0.25")
    scene = Scene(*(f"--curriculum_{flag}" for flag in flags))
    expected = BufferSettings(7, 0.5, 0.125, use_ranks=False, min_fill_ratio=0.25)
    assert scene.buffer.settings == expected


def test_nothing_is_published_before_the_buffer_is_warm() -> None:
    """--curriculum_min_fill_ratio"""
    scene = Scene("--gae_lambda=0", "--curriculum_min_fill_ratio=0.5")
    scene.finish((scene.begin(0, 5), 1.0))
    assert scene.tables.draw(0.5) is None
    scene.finish((scene.begin(0, 6), 1.0))
    assert scene.tables.draw(0.5) is not None


def test_what_was_published_is_what_is_stored(scene: Scene) -> None:
    for number in range(20):
        scene.finish((scene.begin(number % NUM_ENVS, number), float(number % 7)))
    drawn = {}
    for uniform in np.linspace(0, 0.999, 200):
        level = scene.tables.draw(uniform)
        assert level is not None
        drawn[level.slot] = int(scene.tables.level(level.data)[0])
    assert drawn == dict(enumerate(scene.stored()))


def test_entries_that_are_overwritten_are_counted_as_lost(scene: Scene) -> None:
    ids = [scene.begin(0, number) for number in range(ENTRIES_PER_ENV + 1)]
    scene.finish((ids[0], 1.0), (ids[1], 1.0))
    assert scene.stored() == [1]
    assert scene.curriculum.stats()["curriculum/lost_levels"] == 1


def test_statistics(scene: Scene) -> None:
    scene.finish((scene.begin(0, 5), 1.0), (scene.begin(1, 6), 3.0))
    scene.finish((scene.begin(2, 5, REPLAYED, slot=0), 2.0), (scene.begin(3, 6, MUTATED), 0.0))
    stats = scene.curriculum.stats()
    assert stats["curriculum/new_fraction"] == 0.5
    assert stats["curriculum/replayed_fraction"] == stats["curriculum/mutated_fraction"] == 0.25
    assert (stats["curriculum/new_return"], stats["curriculum/replayed_return"]) == (2.0 * T, 2.0 * T)
    assert (stats["curriculum/mean_score"], stats["curriculum/buffer_fill"]) == (1.5, 0.75)
    np.testing.assert_allclose(stats["curriculum/buffer_mean_score"], 5 / 3)
    assert "curriculum/new_return" not in scene.curriculum.stats()  # of new episodes only
    message: dict[str, Any] = {}
    scene.curriculum.report_to(message)
    assert set(message) == {CURRICULUM_STATS}
    scene.curriculum.report_to(again := {})
    assert again == {}  # not so soon


def test_random_levels_are_judged_but_not_kept() -> None:
    scene = Scene("--curriculum=dr", "--gae_lambda=0")
    scene.finish((scene.begin(0, 5), 1.0))
    stats = scene.curriculum.stats()
    assert stats["curriculum/mean_score"] == 1.0 and "curriculum/buffer_fill" not in stats
    assert scene.tables.draw(0.5) is None


# --- saving ---


def through_a_file(state: Any) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_state_survives(scene: Scene) -> None:
    for number in range(6):
        kind = MUTATED if number % 2 else NEW
        scene.finish((scene.begin(number % 3, number, kind, num_mutations=number), float(number)))
    restored = Scene("--gae_lambda=0", state=through_a_file(scene.curriculum.state_dict()))
    assert restored.stored() == scene.stored()
    for name in ("scores", "ages", "max_returns", "num_mutations"):
        np.testing.assert_array_equal(getattr(restored.buffer, name), getattr(scene.buffer, name))
    np.testing.assert_array_equal(restored.tables.num_played, [2, 2, 2, 0])
    a, b = scene.tables.draw(0.3), restored.tables.draw(0.3)
    assert a is not None and b is not None
    assert (a.slot, a.num_mutations, a.data.tolist()) == (b.slot, b.num_mutations, b.data.tolist())
    for one in (scene, restored):
        one.finish((one.begin(3, 77), 9.0))
    np.testing.assert_array_equal(restored.buffer.distribution(), scene.buffer.distribution())


@pytest.mark.parametrize("size", [2, 6])
def test_best_levels_are_kept_if_the_buffer_changes_its_size(scene: Scene, size: int) -> None:
    for number, score in enumerate((1.0, 4.0, 2.0, 3.0)):
        scene.finish((scene.begin(0, number), score))
    state = through_a_file(scene.curriculum.state_dict())
    restored = Scene(f"--curriculum_buffer_size={size}", state=state)
    expected = [1, 3, 2, 0][:size]
    assert restored.stored() == expected
    np.testing.assert_array_equal(restored.buffer.scores[: len(expected)], [4.0, 3.0, 2.0, 1.0][:size])
    np.testing.assert_array_equal(restored.buffer.ages[: len(expected)], scene.buffer.ages[expected])


def test_levels_do_not_repeat_if_the_number_of_environments_changes(scene: Scene) -> None:
    state = scene.curriculum.state_dict()
    state["num_played"] = torch.tensor([3, 9])
    assert Scene(state=state).tables.num_played.tolist() == [9] * NUM_ENVS


def test_levels_of_another_kind_are_refused(scene: Scene) -> None:
    state = scene.curriculum.state_dict() | {"shape": [3]}
    with pytest.raises(
        ValueError, match=r"<i8 arrays of shape \(3,\), those of test are .* choose another --experiment"
    ):
        Scene(state=state)


# --- in a learner ---


def env_info() -> EnvInfo:
    info = make_env_info()
    info.level_spec = SPEC
    return info


def curriculum_learner(train_dir: Path, *flags: str) -> tuple[Learner, LevelTables]:
    cfg = config(*flags, train_dir=train_dir)
    learner = make_learner(cfg, env_info(), init=False)
    tables = LevelTables(SPEC, cfg.curriculum_buffer_size, NUM_ENVS, share=False)
    learner.level_curriculum = LevelCurriculum(cfg, tables)
    learner.init()
    return learner, tables


def batch_of(learner: Learner, tables: LevelTables, trained_rows: list[int], seed: int = 0) -> TensorDict:
    """Row i is one episode of environment i, on a level of its own."""
    batch = make_batch(learner, seed)
    batch["dones"][:] = False
    batch["dones"][:, -1] = True
    for row in range(len(batch["dones"])):
        kind = REPLAYED if row in trained_rows else NEW
        data = SPEC.to_bytes(np.array([row], np.int64))
        slot, generation = (0, 2) if kind == REPLAYED else (NO_SLOT, 0)  # stored once, but not any more
        serial = tables.record(row, PlayedLevel(kind, slot, generation, 0, data))
        batch["level_id"][row] = make_level_id(serial, row, NUM_ENVS, row in trained_rows)
    return batch


MODELS = pytest.mark.parametrize(
    "flags",
    [
        (),
        ("--use_rnn=True", "--recurrence=8"),
        ("--normalize_returns=False", "--with_vtrace=True"),
        ("--value_bootstrap=True", "--num_epochs=2"),
        ("--batch_size=16", "--num_batches_per_epoch=2", "--shuffle_minibatches=True"),
    ],
    ids=["plain", "rnn", "vtrace", "bootstrap", "minibatches"],
)


@MODELS
def test_levels_that_are_only_judged_do_not_influence_the_weights(tmp_path: Path, flags: tuple[str, ...]) -> None:
    results = []
    for name in ("a", "b"):
        learner, tables = curriculum_learner(tmp_path / name, *flags)
        batch = batch_of(learner, tables, trained_rows=[1, 2])
        if name == "b":
            for row in (0, 3):
                batch["rewards"][row] = 100.0
                batch["obs"]["obs"][row] *= -3.0
                batch["values"][row] += 2.0
        before = weights(learner)
        message = learner.train(batch)
        assert message is not None and message[LEARNER_ENV_STEPS] == batch["rewards"].numel()
        after = weights(learner)
        assert any(not torch.equal(before[key], after[key]) for key in before)
        results.append((after, {k: v.clone() for k, v in learner.actor_critic.state_dict().items()}))
    for a, b in zip(results[0], results[1], strict=True):
        for key in a:
            torch.testing.assert_close(a[key], b[key], rtol=1e-5, atol=1e-6, msg=key)


@MODELS
def test_all_levels_are_judged(tmp_path: Path, flags: tuple[str, ...]) -> None:
    learner, tables = curriculum_learner(tmp_path, *flags, "--curriculum_buffer_size=8")
    learner.train(batch_of(learner, tables, trained_rows=[1, 2]))
    assert learner.level_curriculum is not None
    stored = learner.level_curriculum.state_dict()["buffer"]
    assert stored["size"] == 3  # rows 1 and 2 played one level
    assert torch.isfinite(stored["scores"][:3]).all()


def test_batch_without_anything_to_train_on_is_counted_and_skipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    learner, tables = curriculum_learner(tmp_path, "--curriculum_buffer_size=8")
    before = {key: value.clone() for key, value in learner.actor_critic.state_dict().items()}
    batch = batch_of(learner, tables, trained_rows=[])
    message = learner.train(batch)
    assert message is not None and TRAIN_STATS not in message
    assert message[LEARNER_ENV_STEPS] == learner.env_steps == batch["rewards"].numel()
    assert learner.train_step == 0
    for key, value in learner.actor_critic.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert learner.level_curriculum is not None and learner.level_curriculum.state_dict()["buffer"]["size"] == 4
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]


def test_scores_come_from_values_in_units_of_rewards(tmp_path: Path) -> None:
    """--curriculum_score=max_mc: best return minus mean value, whatever --normalize_returns."""
    scores = []
    for name, flags in (("a", ()), ("b", ("--normalize_returns=False",))):
        learner, tables = curriculum_learner(tmp_path / name, "--curriculum_score=max_mc", *flags)
        batch = batch_of(learner, tables, trained_rows=[])
        values = batch["values"][:, :-1].clone()
        if not flags:  # a normaliser that has seen something
            learner.actor_critic.returns_normalizer.running_mean.fill_(3.0)
            learner.actor_critic.returns_normalizer.running_var.fill_(4.0)
            batch["values"] = (batch["values"] - 3.0) / 2.0
        learner.train(batch)
        assert learner.level_curriculum is not None
        state = learner.level_curriculum.state_dict()["buffer"]
        expected = batch["rewards"].sum(1).clamp(min=0.0) - values.mean(1)
        np.testing.assert_allclose(state["scores"][:4], expected, rtol=1e-3, atol=1e-3)
        scores.append(state["scores"])
    torch.testing.assert_close(scores[0], scores[1], rtol=1e-3, atol=1e-3)


def test_checkpoints_hold_the_curriculum_and_do_without(tmp_path: Path) -> None:
    learner, tables = curriculum_learner(tmp_path)
    learner.train(batch_of(learner, tables, trained_rows=[]))
    assert learner.save()
    resumed, restored_tables = curriculum_learner(tmp_path)
    assert resumed.env_steps == learner.env_steps and restored_tables.num_played.tolist() == [1] * NUM_ENVS
    assert restored_tables.draw(0.5) is not None
    plain = make_learner(make_cfg(tmp_path))
    assert plain.env_steps == learner.env_steps
    plain.train(make_batch(plain))
    assert plain.save()
    again, empty_tables = curriculum_learner(tmp_path)
    assert again.train_step == plain.train_step and empty_tables.num_played.tolist() == [0] * NUM_ENVS

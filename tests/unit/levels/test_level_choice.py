"""Which levels environments play, and what trajectories say about it."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from sample_factory.algo.sampling.level_choice import LevelChooser
from sample_factory.algo.sampling.non_batched_sampling import NonBatchedVectorEnvRunner
from sample_factory.algo.utils import env_info as env_info_module
from sample_factory.algo.utils.child_process import FinalError
from sample_factory.algo.utils.env_info import (
    EnvInfo,
    check_env_info,
    extract_env_info,
    obtain_env_info_in_a_separate_process,
)
from sample_factory.algo.utils.level_tables import MUTATED, NEW, REPLAYED, LevelTables, is_trained, parse_level_id
from sample_factory.algo.utils.levels import LevelSpec, level_spec_of
from sample_factory.algo.utils.make_env import make_env_func_batched, make_env_func_non_batched
from sample_factory.algo.utils.shared_buffers import BufferMgr
from sample_factory.envs.env_utils import find_level_interface
from sample_factory.utils.timing import Timing
from tests.level_env import ENV, LevelEnv, LevelEnvWithoutMutations
from tests.unit.learning.learner_setup import make_cfg

SPEC = LevelSpec((2,), np.dtype(np.int16).str, can_mutate=True, resets_itself=False)
STORED = np.array([[3, 0], [4, 1]], np.int16)


def config(*flags: str) -> Any:
    defaults = ("--num_workers=2", "--num_envs_per_worker=2", "--worker_num_splits=1", "--batch_size=16", "--rollout=8")
    return make_cfg("train_dir", f"--env={ENV}", "--decorrelate_envs_on_one_worker=False", *defaults, *flags)


def filled_tables() -> LevelTables:
    """Two stored levels, both to be replayed."""
    tables = LevelTables(SPEC, 8, 4, share=False)
    for slot, level in enumerate(STORED):
        tables.store(slot, SPEC.to_bytes(level), num_mutations=slot)
    tables.publish(np.array([0.5, 0.5]))
    return tables


def play(cfg: Any, tables: LevelTables, num_episodes: int, env_id: int = 1) -> list[tuple[int, bool, list[int]]]:
    """``(kind, is trained on, level)`` of each episode."""
    chooser, env = LevelChooser(cfg, tables, env_id), LevelEnv()
    played = []
    for _ in range(num_episodes):
        level = chooser.next_level(env)
        serial, found_env = parse_level_id(chooser.level_id, tables.num_envs)
        assert found_env == env_id and serial == tables.num_played[env_id]
        entry = tables.played(env_id, serial)
        assert entry is not None
        np.testing.assert_array_equal(tables.level(entry.data), level)
        played.append((entry.kind, bool(is_trained(chooser.level_id)), level.tolist()))
    return played


@pytest.mark.parametrize(
    ("curriculum", "robust", "trained"),
    [
        ("dr", True, {NEW: True}),
        ("plr", True, {NEW: False, REPLAYED: True}),
        ("plr", False, {NEW: True, REPLAYED: True}),
        ("accel", True, {NEW: False, REPLAYED: True, MUTATED: False}),
        ("accel", False, {NEW: True, REPLAYED: True, MUTATED: False}),
    ],
)
def test_kinds_of_levels_and_which_are_trained_on(curriculum: str, robust: bool, trained: dict[int, bool]) -> None:
    """--curriculum, --curriculum_robust"""
    cfg = config(f"--curriculum={curriculum}", f"--curriculum_robust={robust}")
    played = play(cfg, filled_tables(), 60)
    assert {kind: is_trained for kind, is_trained, _ in played} == trained
    assert all(level in STORED.tolist() for kind, _, level in played if kind == REPLAYED)


@pytest.mark.parametrize("prob", [0.0, 0.25, 0.8, 1.0])
def test_replay_probability(prob: float) -> None:
    """--curriculum_replay_prob: five standard deviations."""
    num = 2000
    played = play(config("--curriculum=plr", f"--curriculum_replay_prob={prob}"), filled_tables(), num)
    replayed = np.mean([kind == REPLAYED for kind, *_ in played])
    assert abs(replayed - prob) <= 5 * np.sqrt(prob * (1 - prob) / num)


def test_every_replay_is_followed_by_an_edit_of_that_level() -> None:
    """--curriculum=accel: the edits change the length only, so the right action tells the parent."""
    tables = filled_tables()
    played = play(config("--curriculum=accel"), tables, 60)
    follows = [(a, b) for a, b in itertools.pairwise(played) if a[0] == REPLAYED]
    assert len(follows) > 10
    assert all(b[0] == MUTATED and b[2][1] == a[2][1] for a, b in follows)
    assert sum(kind == MUTATED for kind, *_ in played[1:]) == len(follows)
    mutants = [tables.played(1, serial) for serial in range(1, 61)]
    assert {entry.num_mutations for entry in mutants if entry is not None and entry.kind == MUTATED} == {1, 2}


def test_number_of_edits() -> None:
    """--curriculum_n_mutations"""

    class Counting(LevelEnv):
        def mutate_level(self, level: Any, rng: Any, num_mutations: int) -> Any:
            seen.append(num_mutations)
            return level

    seen: list[int] = []
    chooser = LevelChooser(config("--curriculum=accel", "--curriculum_n_mutations=7"), filled_tables(), 0)
    for _ in range(20):
        chooser.next_level(Counting())
    assert set(seen) == {7}


def test_nothing_is_replayed_while_the_buffer_is_cold() -> None:
    played = play(config("--curriculum=accel", "--curriculum_replay_prob=1"), LevelTables(SPEC, 8, 4, False), 20)
    assert {kind for kind, *_ in played} == {NEW}


def test_choices_depend_on_seed_environment_and_number_alone() -> None:
    """A worker that is started again goes on where its predecessor was, and never repeats a level."""
    cfg = config("--curriculum=dr", "--seed=3")
    reference = play(cfg, filled_tables(), 30)
    tables = filled_tables()
    in_parts = play(cfg, tables, 12) + play(cfg, tables, 18)
    assert in_parts == reference
    assert play(cfg, filled_tables(), 30, env_id=2) != reference
    assert play(config("--curriculum=dr", "--seed=4"), filled_tables(), 30) != reference


def test_bad_levels_end_the_run_with_the_method_at_fault() -> None:
    class Bad(LevelEnv):
        def sample_level(self, rng: Any) -> Any:
            return np.zeros(3, np.int16)

    with pytest.raises(FinalError, match=r"level_env: sample_level has to return int16 arrays of shape \(2,\)"):
        LevelChooser(config("--curriculum=dr"), filled_tables(), 0).next_level(Bad())


# --- what the rest of the system is told ---


def env_info_of(cfg: Any) -> EnvInfo:
    return extract_env_info(make_env_func_batched(cfg, env_config=None), cfg)


def test_levels_are_looked_for_only_by_curricula() -> None:
    assert env_info_of(config()).level_spec is None
    assert env_info_of(config("--curriculum=dr")).level_spec == SPEC
    assert level_spec_of(gym.make("CartPole-v1")) is None
    assert find_level_interface(LevelEnvWithoutMutations()) is not None
    spec = level_spec_of(LevelEnvWithoutMutations())
    assert spec is not None and not spec.can_mutate


def test_environments_of_workers_have_the_same_levels() -> None:
    cfg = config("--curriculum=dr")
    check_env_info(make_env_func_non_batched(cfg, env_config=None), env_info_of(cfg), cfg)


def test_cache_of_environments_knows_no_levels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So it is neither used nor written by runs with a curriculum."""
    path = tmp_path / "cache"
    monkeypatch.setattr(env_info_module, "env_info_cache_filename", lambda _: str(path))
    monkeypatch.setattr(env_info_module._EnvProbe, "run", lambda probe: env_info_of(probe.cfg))
    monkeypatch.setattr(env_info_module._EnvProbe, "__init__", lambda probe, cfg: setattr(probe, "cfg", cfg))
    flags = ("--use_env_info_cache=True", "--curriculum=plr")
    assert obtain_env_info_in_a_separate_process(config(*flags)).level_spec == SPEC
    assert not path.exists()
    assert obtain_env_info_in_a_separate_process(config(flags[0])).level_spec is None
    assert path.exists()
    assert obtain_env_info_in_a_separate_process(config(*flags)).level_spec == SPEC


def test_trajectories_have_level_ids_only_with_a_curriculum() -> None:
    for flags, expected in (((), False), (("--curriculum=plr",), True)):
        cfg = config(*flags)
        buffers = BufferMgr(cfg, env_info_of(cfg))
        assert ("level_id" in buffers.traj_tensors_torch["cpu"]) == expected
        assert (buffers.levels is not None) == expected


# --- what environment runners write ---


class Running:
    """The environments of one worker, driven by hand through block after block."""

    def __init__(self, *flags: str, fails_at: int | None = None) -> None:
        cfg = config("--curriculum=dr", *flags)
        info = env_info_of(cfg)
        self.buffers = BufferMgr(cfg, info)
        self.runner = NonBatchedVectorEnvRunner(cfg, info, 2, 1, 0, self.buffers, "cpu", [None])
        self.runner.init(Timing())
        self.envs[0].fails_at = fails_at

    @property
    def envs(self) -> list[LevelEnv]:
        return [env.unwrapped for env in self.runner.envs]

    def block(self) -> dict[str, np.ndarray]:
        """Fill one block; returns a copy of it."""
        data, block = self.runner._data, self.runner._block
        finished: list[Any] = []
        while not finished:
            data["actions"][:, self.runner.rollout_step] = 0
            finished, _ = self.runner.advance_rollouts(Timing())
        copy = {key: np.array(data[key]) for key in ("level_id", "dones", "time_outs")}
        copy["obs"] = np.array(data["obs"]["obs"])
        assert block is not None
        self.buffers.release(0, block.idx)
        assert self.runner.update_trajectory_buffers()
        return copy

    def level_of(self, level_id: int) -> list[int]:
        assert self.buffers.levels is not None
        serial, env_id = parse_level_id(int(level_id), 4)
        entry = self.buffers.levels.played(env_id, serial)
        assert entry is not None and env_id in (2, 3)  # those of worker 1
        return self.buffers.levels.level(entry.data).tolist()


def test_every_step_names_the_level_it_is_played_on() -> None:
    running = Running()
    blocks = [running.block() for _ in range(4)]
    for block in blocks:
        for row in range(2):
            for step in range(8):
                assert running.level_of(block["level_id"][row, step]) == block["obs"][row, step].tolist()
    ids = np.concatenate([block["level_id"] for block in blocks], axis=1)
    dones = np.concatenate([block["dones"] for block in blocks], axis=1)
    assert dones.sum() > 10
    np.testing.assert_array_equal(ids[:, 1:] != ids[:, :-1], dones[:, :-1])
    assert None not in running.envs[0].levels_played


def test_episode_of_an_environment_that_raised_is_cut_off() -> None:
    running = Running(fails_at=11)
    broken = running.envs[0]
    blocks = [running.block() for _ in range(3)]
    assert running.envs[0] is not broken
    ids = np.concatenate([block["level_id"] for block in blocks], axis=1)[0]
    assert np.flatnonzero(ids < 0).tolist() == [10]
    assert np.concatenate([block["dones"] for block in blocks], axis=1)[0, 10]
    for step in range(11, 24):
        assert ids[step] != ids[9]
        obs = blocks[step // 8]["obs"][0, step % 8]
        assert running.level_of(ids[step]) == obs.tolist()


def test_first_episode_after_random_steps_is_not_judged() -> None:
    running = Running("--decorrelate_envs_on_one_worker=True")
    block = running.block()
    first_end = int(np.flatnonzero(block["dones"][1])[0])
    assert (block["level_id"][1, : first_end + 1] < 0).all() and (block["level_id"][1, first_end + 1 :] >= 0).all()
    assert (block["level_id"][0] >= 0).all()

"""One maze as a Gymnasium environment is one of the mazes of the UED package."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from sample_factory.envs.env_utils import MutableLevelInterface
from sample_factory.ued.envs.maze.env import MazeEnv
from sample_factory.ued.envs.maze.generator import RandomWalls
from sample_factory.ued.envs.maze.level import check_maze_levels, levels_from_text
from sample_factory.ued.envs.maze.metrics import maze_metrics
from sf_examples.ued.maze_gym import MAX_SIDE, MazeGymEnv, level_from_array, level_to_array

SIZES = [(13, 13, 40), (4, 7, 8), (1, 2, 0)]


@pytest.mark.parametrize(("height", "width", "n_walls"), SIZES)
def test_episodes_are_those_of_the_batched_environment(height: int, width: int, n_walls: int) -> None:
    rng = np.random.default_rng(0)
    single = MazeGymEnv(height, width, n_walls, max_episode_steps=30)
    batched = MazeEnv(height, width, 30, RandomWalls(height, width, n_walls))
    num_hits = 0
    for _ in range(40):
        level = single.sample_level(rng)
        levels = level_from_array(level, height, width)
        state = batched.reset(levels)
        obs, _ = single.reset(options={"level": level})
        metrics = maze_metrics(levels)
        for action in rng.choice([0, 1, 2, 2, 2, 3, 6], 30).tolist():
            expected = batched.observe(state)
            np.testing.assert_array_equal(obs["image"], expected["image"][0].permute(2, 0, 1))
            assert obs["direction"].argmax() == expected["agent_dir"][0] and obs["direction"].sum() == 1
            outcome = batched.step(state, torch.tensor([action]))
            obs, reward, terminated, truncated, info = single.step(action)
            assert reward == pytest.approx(float(outcome.reward[0]))
            assert (terminated or truncated, truncated) == (bool(outcome.done[0]), bool(outcome.truncated[0]))
            if terminated or truncated:
                stats = info["episode_extra_stats"]
                assert stats["curriculum/n_walls"] == metrics["n_walls"][0]
                assert stats["curriculum/passable"] == metrics["passable"][0]
                assert stats["curriculum/solved"] == terminated
                num_hits += terminated
                break
            assert info == {}
    assert num_hits > 0


def test_levels_survive_as_arrays() -> None:
    levels = levels_from_text(["#.v..\n..#.G\n....."])
    array = level_to_array(levels)
    assert array.dtype == np.uint8 and array.shape == (3 * 5 + 5,)
    for name, tensor in level_from_array(array, 3, 5).as_dict().items():
        assert torch.equal(tensor, getattr(levels, name)), name


def test_drawn_levels_are_uniform_and_playable() -> None:
    env, rng = MazeGymEnv(3, 4, n_walls=5), np.random.default_rng(1)
    num = 4000
    arrays = np.stack([env.sample_level(rng) for _ in range(num)])
    for array in arrays[:50]:
        check_maze_levels(level_from_array(array, 3, 4))
    assert (arrays[:, :12].sum(1) == 5).all()
    shares = [arrays[:, :12].mean(0) / 5]
    for x, y in ((12, 13), (15, 16)):
        shares.append(np.bincount(arrays[:, y].astype(int) * 4 + arrays[:, x], minlength=12) / num)
    for share in shares:
        assert np.abs(share - 1 / 12).max() < 5 * np.sqrt(1 / 12 / num)
    assert np.abs(np.bincount(arrays[:, 14], minlength=4) / num - 0.25).max() < 5 * np.sqrt(0.25 / num)


def test_edits_change_walls_and_goal_only_and_leave_a_playable_level() -> None:
    env, rng = MazeGymEnv(5, 5, n_walls=6), np.random.default_rng(2)
    original = env.sample_level(rng)
    kept = original.copy()
    one_edit = [env.mutate_level(original, rng, 1) for _ in range(3000)]
    np.testing.assert_array_equal(original, kept)
    kinds = {"nothing": 0, "wall": 0, "goal": 0}
    for level in one_edit:
        check_maze_levels(level_from_array(level, 5, 5))
        np.testing.assert_array_equal(level[25:28], original[25:28])  # the agent
        num_flips, moved = int((level[:25] != original[:25]).sum()), bool((level[28:] != original[28:]).any())
        assert num_flips + moved <= 1
        kinds["wall" if num_flips else "goal" if moved else "nothing"] += 1
    assert all(abs(count / 3000 - 1 / 3) < 5 * np.sqrt(2 / 9 / 3000) for count in kinds.values())
    for level in [env.mutate_level(original, rng, 50) for _ in range(100)]:
        check_maze_levels(level_from_array(level, 5, 5))


def test_edits_of_a_maze_without_room_do_nothing() -> None:
    env, rng = MazeGymEnv(1, 2, n_walls=0), np.random.default_rng(3)
    level = env.sample_level(rng)
    np.testing.assert_array_equal(env.mutate_level(level, rng, 30), level)


def test_levels_depend_on_the_generator_alone() -> None:
    envs = [MazeGymEnv(), MazeGymEnv()]
    envs[0].reset(seed=5)
    pairs = [[env.sample_level(np.random.default_rng(seed)) for env in envs] for seed in range(5)]
    assert all((a == b).all() for a, b in pairs)
    assert all((a[0] != b[0]).any() for a, b in itertools.pairwise(pairs))


def test_gymnasium_accepts_it() -> None:
    env = MazeGymEnv()
    assert isinstance(env, MutableLevelInterface)
    check_env(env, skip_render_check=True)


def test_sizes_without_room_are_refused() -> None:
    with pytest.raises(ValueError, match="n_walls has to be between 0 and 23"):
        MazeGymEnv(5, 5, n_walls=24)


def test_sides_whose_places_do_not_fit_into_a_byte_are_refused() -> None:
    env = MazeGymEnv(1, MAX_SIDE, n_walls=0)
    level = level_from_array(env.sample_level(np.random.default_rng(0)), 1, MAX_SIDE)
    check_maze_levels(level)
    assert env.reset(seed=1)[0]["image"].shape == (3, 5, 5)
    with pytest.raises(ValueError, match="sides go up to 256, got 257x3"):
        MazeGymEnv(MAX_SIDE + 1, 3)

"""Whole episodes, restarts, and what is handed to scores."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from sample_factory.ued.curricula.playing import FreshLevels, begin, play_episodes
from sample_factory.ued.envs.maze.env import MazeEnv
from sample_factory.ued.envs.maze.level import MazeLevels
from sample_factory.ued.envs.registration import make_ued_env
from tests.unit.ued.curricula.scripted import ScriptedModel, UniformModel


def small_maze(**options: Any) -> MazeEnv:
    env = make_ued_env("Maze", **(dict(height=5, width=5, n_walls=4, max_episode_steps=15) | options))
    assert isinstance(env, MazeEnv)
    return env


def seeded(seed: int) -> Generator:
    return torch.Generator().manual_seed(seed)


def reference_tally(
    env: MazeEnv, levels: MazeLevels, model: Any, num_episodes: int, max_steps: int
) -> tuple[list[float], list[int], list[int]]:
    """One level after the other, without dropping anything."""
    returns, solved, counts = [], [], []
    for i in range(len(levels)):
        level = levels[i : i + 1]
        state, carry = env.reset(level), model.initial_carry(1)
        reset = torch.zeros(1, dtype=torch.bool)
        running, total, num_solved, count = 0.0, 0.0, 0, 0
        for _ in range(max_steps):
            _, logits, carry = model.step(env.observe(state), carry, reset)
            outcome = env.step(state, logits.argmax(-1))
            running += float(outcome.reward)
            reset = outcome.done
            if bool(outcome.done):
                if count < num_episodes:
                    total, num_solved, count = total + running, num_solved + (running > 0), count + 1
                running, state = 0.0, env.reset(level)
        returns.append(total)
        solved.append(num_solved)
        counts.append(count)
    return returns, solved, counts


@pytest.mark.parametrize(("num_episodes", "max_steps"), [(1, 15), (1, 7), (3, 100), (1000, 40)])
def test_first_episodes_agree_with_a_loop_over_levels(num_episodes: int, max_steps: int) -> None:
    env = small_maze()
    levels = env.sample_levels(60, seeded(3))
    model: Any = ScriptedModel()
    tally = play_episodes(env, levels, model, num_episodes=num_episodes, max_steps=max_steps, generator=seeded(0))
    returns, solved, counts = reference_tally(env, levels, model, num_episodes, max_steps)
    assert 0 < sum(solved) < sum(counts) or max_steps < 15
    np.testing.assert_allclose(tally.total_return, returns, atol=1e-6)
    assert tally.num_solved.tolist() == solved
    assert tally.num_episodes.tolist() == counts


def test_levels_that_have_their_episodes_cost_no_more_steps() -> None:
    env = small_maze()
    levels = env.sample_levels(50, seeded(3))
    model: Any = ScriptedModel()
    tally = play_episodes(env, levels, model, num_episodes=3, max_steps=400, generator=seeded(0))
    assert (tally.num_episodes == 3).all()
    assert tally.env_steps < 50 * 100


def test_rates_without_an_episode_are_zero() -> None:
    env = small_maze(max_episode_steps=50)
    model: Any = UniformModel()
    levels = env.sample_levels(4, seeded(3))
    tally = play_episodes(env, levels, model, num_episodes=1, max_steps=1, generator=seeded(0))
    unfinished = tally.num_episodes == 0
    assert unfinished.any()
    assert (tally.solved_rate[unfinished] == 0).all() and (tally.mean_return[unfinished] == 0).all()


def test_episodes_begin_again_on_the_level_of_their_environment() -> None:
    env = small_maze()
    levels = env.sample_levels(6, seeded(1))
    state, restart = begin(env, levels, seeded(0))
    for _ in range(3):
        env.step(state, torch.full([6], 2))
    rows = torch.tensor([4, 1])
    torch.testing.assert_close(restart(rows, state).as_dict(), env.reset(levels[rows]).as_dict())


class RandomStarts(MazeEnv):
    """A maze that starts in a random direction."""

    def reset(self, levels: MazeLevels, generator: Generator | None = None) -> Any:
        direction = torch.randint(4, [len(levels)], generator=generator)
        return super().reset(MazeLevels(levels.wall_map, levels.agent_pos, direction, levels.goal_pos), generator)


def test_random_starts_are_drawn_anew() -> None:
    plain = small_maze()
    env = RandomStarts(5, 5, 15, plain.sample_levels)
    levels = env.sample_levels(1, seeded(1))
    state, restart = begin(env, levels, seeded(0))
    directions = {int(restart(torch.tensor([0]), state).agent_dir) for _ in range(40)}
    assert directions == {0, 1, 2, 3}


def test_fresh_levels_are_all_different_draws() -> None:
    env = small_maze(height=13, width=13, n_walls=40)
    fresh: FreshLevels[Any, Any] = FreshLevels(env, chunk=4, generator=seeded(0))
    state = env.reset(env.sample_levels(8, seeded(5)))
    parts: list[Tensor] = []
    for count in (1, 2, 3, 1, 8):
        starts = fresh(torch.arange(count), state)
        assert len(starts) == count
        parts.append(env.levels_of(starts).wall_map.flatten(1))
    walls = torch.cat(parts)
    assert len(walls.unique(dim=0)) == len(walls)

"""The registered mazes: how each is built from its options."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from sample_factory.ued.envs.maze.comparator import same_levels, same_levels_in_any_direction
from sample_factory.ued.envs.maze.env import MazeEnv
from sample_factory.ued.envs.maze.fixed import FixedMaze
from sample_factory.ued.envs.maze.generated import Crossing, FourRooms, PerfectMaze
from sample_factory.ued.envs.maze.generator import LevelSampler, RandomWalls
from sample_factory.ued.envs.maze.layouts import LAYOUTS
from sample_factory.ued.envs.maze.mutation import mutate
from sample_factory.ued.envs.maze.teacher import MazeTeacherEnv
from sample_factory.ued.envs.registration import is_minimax_compat, register_ued_env


def make_maze(
    *,
    height: int = 13,
    width: int = 13,
    n_walls: int = 25,
    replace_wall_pos: bool = False,
    sample_n_walls: bool = False,
    see_agent: bool = True,
    normalize_obs: bool = True,
    one_hot_obs: bool = False,
    obs_agent_pos: bool = False,
    agent_view_size: int = 5,
    max_episode_steps: int = 250,
    compat: str | None = None,
    device: torch.device | str = "cpu",
) -> MazeEnv:
    """Random mazes of any size. `compat` = minimax narrows the sampled number of walls, see :class:`RandomWalls`."""
    sampler = RandomWalls(
        height,
        width,
        n_walls,
        replace_wall_pos=replace_wall_pos,
        sample_n_walls=sample_n_walls,
        narrow_wall_count=is_minimax_compat(compat),
    )
    return MazeEnv(
        height,
        width,
        max_episode_steps,
        sampler,
        see_agent=see_agent,
        normalize_obs=normalize_obs,
        one_hot_obs=one_hot_obs,
        obs_agent_pos=obs_agent_pos,
        agent_view_size=agent_view_size,
        device=device,
    )


@dataclass(frozen=True)
class NamedMaze:
    """What tells the named mazes apart. Their tiles are drawn by ``make_sampler(random_agent_dir)``."""

    size: int
    max_episode_steps: int
    make_sampler: Callable[[bool], LevelSampler]


def make_named_maze(
    maze: NamedMaze,
    *,
    random_agent_dir: bool = False,
    see_agent: bool = True,
    normalize_obs: bool = True,
    one_hot_obs: bool = False,
    obs_agent_pos: bool = False,
    agent_view_size: int = 5,
    max_episode_steps: int | None = None,
    compat: str | None = None,
    device: torch.device | str = "cpu",
) -> MazeEnv:
    """A named square maze. `max_episode_steps`: its own limit unless given; it scales the reward.

    `random_agent_dir`: start in any direction where the maze itself says one.
    """
    if random_agent_dir and is_minimax_compat(compat):
        raise ValueError("random_agent_dir=True has no counterpart in minimax: set it to False or choose compat=none")
    return MazeEnv(
        maze.size,
        maze.size,
        maze.max_episode_steps if max_episode_steps is None else max_episode_steps,
        maze.make_sampler(random_agent_dir),
        see_agent=see_agent,
        normalize_obs=normalize_obs,
        one_hot_obs=one_hot_obs,
        obs_agent_pos=obs_agent_pos,
        agent_view_size=agent_view_size,
        device=device,
    )


def named_mazes() -> dict[str, NamedMaze]:
    """The hand-made and generated mazes by id."""
    mazes = {}
    for name in LAYOUTS:
        layout = FixedMaze.from_layout(name)
        steps = 2 * (layout.height + 2) * (layout.width + 2)
        mazes[f"Maze-{name}"] = NamedMaze(layout.height, steps, layout.with_random_direction)
    mazes["Maze-FourRooms"] = NamedMaze(17, 250, lambda _: FourRooms(17, 17))
    mazes["Maze-Crossing"] = NamedMaze(9, 4 * 11 * 11, lambda turned: Crossing(9, 9, 5, turned))
    for suffix, size in (("", 13), ("Medium", 19), ("Large", 51), ("XL", 101)):
        mazes[f"Maze-PerfectMaze{suffix}"] = NamedMaze(size, 2 * (size + 2) ** 2, _perfect(size))
    return mazes


def register_mazes() -> None:
    """Called once, when the package of environments is imported."""
    belonging: dict[str, Any] = {
        "mutators": {"default": mutate},
        "comparators": {"default": same_levels, "ignore_direction": same_levels_in_any_direction},
        "teacher": MazeTeacherEnv,
    }
    register_ued_env("Maze", make_maze, **belonging)
    for name, maze in named_mazes().items():
        register_ued_env(name, partial(make_named_maze, maze), **belonging)


def _perfect(size: int) -> Callable[[bool], LevelSampler]:
    return lambda _: PerfectMaze(size, size)

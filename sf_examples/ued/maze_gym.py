"""AMaze as an ordinary Gymnasium environment with one maze, for the asynchronous runner and its curricula.

The rules are those of ``sample_factory.ued.envs.maze``: an agent that sees 5x5 tiles in front of it looks for a goal.
"""

from __future__ import annotations

import argparse
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch

from sample_factory.envs.env_utils import MutableLevelInterface
from sample_factory.ued.envs.maze.dynamics import FORWARD, LEFT, NUM_ACTIONS, RIGHT
from sample_factory.ued.envs.maze.generator import RandomWalls
from sample_factory.ued.envs.maze.level import DIRECTIONS, NUM_DIRECTIONS, MazeLevels
from sample_factory.ued.envs.maze.mutation import FLIP_WALL, NO_EDIT
from sample_factory.ued.envs.maze.observation import tile_codes, view_offsets
from sample_factory.ued.envs.maze.state import DIR, FIRST_AGENT, GOAL, GOAL_POS, POS, WALL, MazeGrid
from sample_factory.utils.typing import Config

ENV_NAME = "maze_with_levels"
VIEW_SIZE = 5
IMAGE_KEY, DIRECTION_KEY = "image", "direction"
MAX_SIDE = 256
_NUM_PLACES = 5  # numbers of a level after its walls
_OWN_CELL = VIEW_SIZE * VIEW_SIZE - 1 - VIEW_SIZE // 2

Level = npt.NDArray[np.uint8]
Observation = dict[str, npt.NDArray[np.float32]]


def level_to_array(levels: MazeLevels) -> Level:
    """The first of these levels: walls row by row, agent (x, y), its direction, goal (x, y); uint8 ``[H * W + 5]``."""
    places = [levels.agent_pos[0], levels.agent_dir[:1], levels.goal_pos[0]]
    return torch.cat([levels.wall_map[0].flatten(), *places]).to(torch.uint8).numpy()


def level_from_array(level: Level, height: int, width: int) -> MazeLevels:
    """Inverse of :func:`level_to_array`: a batch of one."""
    walls = torch.from_numpy(level[:-_NUM_PLACES].astype(bool)).view(1, height, width)
    places = torch.from_numpy(level[-_NUM_PLACES:].astype(np.int64))[None]
    return MazeLevels(walls, places[:, :2], places[:, 2], places[:, 3:])


class MazeGymEnv(gym.Env, MutableLevelInterface):
    """Observations, float32: ``image`` ``[3, 5, 5]``, codes of tiles divided by 10; ``direction`` ``[4]``, one-hot.

    Levels are drawn and edited as by ``RandomWalls`` and ``mutate`` of the UED package, one at a time.
    """

    def __init__(self, height: int = 13, width: int = 13, n_walls: int = 25, max_episode_steps: int = 250) -> None:
        self.height, self.width, self.max_episode_steps = height, width, max_episode_steps
        self.action_space = gym.spaces.Discrete(NUM_ACTIONS)
        self.observation_space = gym.spaces.Dict(
            {
                IMAGE_KEY: gym.spaces.Box(0.0, 1.0, (3, VIEW_SIZE, VIEW_SIZE), np.float32),
                DIRECTION_KEY: gym.spaces.Box(0.0, 1.0, (NUM_DIRECTIONS,), np.float32),
            }
        )
        RandomWalls(height, width, n_walls)  # refuses sizes that leave no room
        if max(height, width) > MAX_SIDE:
            raise ValueError(f"places in a level are bytes: sides go up to {MAX_SIDE}, got {height}x{width}")
        self.n_walls = n_walls
        self._grid = MazeGrid(height, width, VIEW_SIZE - 1, "cpu")
        self._view = view_offsets(VIEW_SIZE, self._grid.padded_width).numpy()  # [4, k * k]
        self._codes = tile_codes(normalize=True).numpy()
        self._directions = np.eye(NUM_DIRECTIONS, dtype=np.float32)
        self._moves = [dx + dy * self._grid.padded_width for dx, dy in DIRECTIONS]
        self._tiles = np.zeros(self._grid.num_tiles, np.int64)
        self._start = self._pos = self._direction = self._goal = self._time = 0
        self._levels: MazeLevels | None = None

    # --- levels ---

    def sample_level(self, rng: np.random.Generator) -> Level:
        tiles = rng.permutation(self.height * self.width)
        level = np.zeros(len(tiles) + _NUM_PLACES, np.uint8)
        level[tiles[: self.n_walls]] = 1
        agent, goal = tiles[self.n_walls : self.n_walls + 2].tolist()
        level[-_NUM_PLACES:] = *self._place(agent), rng.integers(NUM_DIRECTIONS), *self._place(goal)
        return level

    def mutate_level(self, level: Level, rng: np.random.Generator, num_mutations: int) -> Level:
        level = level.copy()
        walls = level[:-_NUM_PLACES]
        agent_x, agent_y, _, goal_x, goal_y = level[-_NUM_PLACES:].tolist()
        agent, goal = agent_y * self.width + agent_x, goal_y * self.width + goal_x
        for edit in rng.integers(3, size=num_mutations).tolist():
            if edit == NO_EDIT:
                continue
            candidates = np.ones(len(walls), bool) if edit == FLIP_WALL else walls == 0
            candidates[[agent, goal]] = False
            tiles = np.flatnonzero(candidates)
            if len(tiles) == 0:
                continue
            tile = int(tiles[rng.integers(len(tiles))])
            if edit == FLIP_WALL:
                walls[tile] ^= 1
            else:
                goal = tile
        level[-2:] = self._place(goal)
        return level

    def _place(self, tile: int) -> tuple[int, int]:
        return tile % self.width, tile // self.width

    # --- episodes ---

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, dict]:
        super().reset(seed=seed)
        level = (options or {}).get("level")
        if level is None:
            level = self.sample_level(self.np_random)
        self._levels = level_from_array(level, self.height, self.width)
        state = self._grid.start(self._levels)
        walker = state.walker[0].tolist()
        self._tiles = state.tiles[0].numpy()
        self._start = self._pos = walker[POS]
        self._direction, self._goal, self._time = walker[DIR], walker[GOAL_POS], 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict]:
        is_hit = False
        if action == FORWARD:
            ahead = self._pos + self._moves[self._direction]
            tile = self._tiles[ahead]
            is_hit = bool(tile == GOAL)
            if not is_hit and tile != WALL:
                self._pos = ahead
        elif action in (LEFT, RIGHT):
            self._direction = (self._direction + (1 if action == RIGHT else -1)) % NUM_DIRECTIONS
        self._time += 1
        reward = 1.0 - 0.9 * self._time / self.max_episode_steps if is_hit else 0.0
        is_timeout = not is_hit and self._time >= self.max_episode_steps
        info = {"episode_extra_stats": self._episode_stats(is_hit)} if is_hit or is_timeout else {}
        return self._observe(), reward, is_hit, is_timeout, info

    def _observe(self) -> Observation:
        cells = self._tiles[self._pos + self._view[self._direction]]
        cells[_OWN_CELL] = FIRST_AGENT + self._direction
        image = self._codes[cells].reshape(VIEW_SIZE, VIEW_SIZE, 3).transpose(2, 0, 1)
        return {IMAGE_KEY: image, DIRECTION_KEY: self._directions[self._direction].copy()}

    def _episode_stats(self, is_solved: bool) -> dict[str, float]:
        assert self._levels is not None
        return {
            "curriculum/solved": float(is_solved),
            "curriculum/n_walls": float(self._levels.wall_map.sum()),
            "curriculum/passable": float(self._is_passable(self._start)),
        }

    def _is_passable(self, start: int) -> bool:
        """Whether there is a way to the goal: a search from the start."""
        seen, frontier = {start}, [start]
        while frontier:
            tile = frontier.pop()
            if tile == self._goal:
                return True
            ways = [tile + move for move in self._moves if tile + move not in seen and self._tiles[tile + move] != WALL]
            seen.update(ways)
            frontier += ways
        return False


def add_maze_args(parser: argparse.ArgumentParser) -> None:
    """Flags of this environment."""
    parser.add_argument("--maze_height", default=13, type=int, help="Rows of the maze.")
    parser.add_argument("--maze_width", default=13, type=int, help="Columns of the maze.")
    parser.add_argument("--maze_n_walls", default=25, type=int, help="Walls of random mazes.")
    parser.add_argument("--maze_max_episode_steps", default=250, type=int, help="Steps after which an episode ends.")


def make_maze_env(
    full_env_name: str, cfg: Config | None = None, env_config: Any = None, render_mode: str | None = None
) -> MazeGymEnv:
    assert cfg is not None
    return MazeGymEnv(cfg.maze_height, cfg.maze_width, cfg.maze_n_walls, cfg.maze_max_episode_steps)

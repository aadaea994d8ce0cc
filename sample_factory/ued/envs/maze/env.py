"""AMaze: an agent with a 5x5 view looks for a goal in a maze (after MiniGrid; arXiv 2012.02096, 2311.12716).

Seven actions, of which the first three do something: turn left, turn right, forward, pick up, drop, toggle, done. The
only reward is ``1 - 0.9 * steps / max_episode_steps`` for bumping into the goal, which ends the episode.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Generator, Tensor

from sample_factory.ued.envs.interfaces import Observations, ObservationSpec, StepOutcome
from sample_factory.ued.envs.maze.dynamics import NUM_ACTIONS, Tables, dynamics_on
from sample_factory.ued.envs.maze.generator import LevelSampler
from sample_factory.ued.envs.maze.level import NUM_DIRECTIONS, MazeLevels, check_maze_size
from sample_factory.ued.envs.maze.metrics import maze_metrics
from sample_factory.ued.envs.maze.observation import tile_codes
from sample_factory.ued.envs.maze.rendering import render_states
from sample_factory.ued.envs.maze.state import POS, MazeGrid, MazeState


class MazeEnv:
    """B mazes of one size, stepped together. Levels come from `sampler`.

    `see_agent`: the agent is part of its own view. `normalize_obs`: codes are divided by 10 (float32), otherwise they
    are bytes. `one_hot_obs`: one channel per kind of tile instead of MiniGrid's three codes. `obs_agent_pos`: adds the
    position (x, y) as float32. `agent_view_size`: odd side of the view. All tensors live on `device`.
    """

    num_actions = NUM_ACTIONS
    is_capturable = True  # on a GPU

    def __init__(
        self,
        height: int,
        width: int,
        max_episode_steps: int,
        sampler: LevelSampler,
        *,
        see_agent: bool = True,
        normalize_obs: bool = True,
        one_hot_obs: bool = False,
        obs_agent_pos: bool = False,
        agent_view_size: int = 5,
        device: torch.device | str = "cpu",
    ) -> None:
        _check_sizes(height, width, max_episode_steps, agent_view_size)
        self.height, self.width, self.max_episode_steps = height, width, max_episode_steps
        self.agent_view_size = agent_view_size
        self.device = torch.device(device)
        self.grid = MazeGrid(height, width, agent_view_size - 1, self.device)
        self._sampler, self._obs_agent_pos = sampler, obs_agent_pos
        codes = tile_codes(normalize=normalize_obs, one_hot=one_hot_obs)
        self.observation_spec = ObservationSpec(
            image=(agent_view_size, agent_view_size, codes.shape[1]),
            scalars={"agent_dir": NUM_DIRECTIONS},
            vectors={"agent_pos": 2} if obs_agent_pos else {},
        )
        tables = Tables(self.grid, max_episode_steps, agent_view_size, codes, see_agent, self.device)
        self._dynamics = dynamics_on(self.device, tables)

    def sample_levels(self, num_levels: int, generator: Generator) -> MazeLevels:
        return self._sampler(num_levels, generator)

    def reset(self, levels: MazeLevels, generator: Generator | None = None) -> MazeState:
        """Start states; nothing is random."""
        return self.grid.start(levels)

    def step(self, state: MazeState, actions: Tensor, generator: Generator | None = None) -> StepOutcome:
        """One step in place; see the module for rewards."""
        return self._dynamics.step(state, actions)

    def observe(self, state: MazeState) -> Observations:
        """``image`` [B, k, k, C] with the agent in the middle of the last row looking up; ``agent_dir`` [B] int64."""
        image, direction = self._dynamics.look(state)
        observations = {"image": image, "agent_dir": direction}
        if self._obs_agent_pos:
            observations["agent_pos"] = self.grid.position(state.walker[:, POS]).float()
        return observations

    def levels_of(self, state: MazeState) -> MazeLevels:
        return self.grid.levels(state)

    def level_metrics(self, levels: MazeLevels) -> dict[str, Tensor]:
        """``n_walls``, ``shortest_path_length`` [B] int64 (moves; 0 if there is no path) and ``passable`` [B] bool."""
        return maze_metrics(levels)

    def solved(self, episode_return: Tensor) -> Tensor:
        return episode_return > 0

    def agent_positions(self, state: MazeState) -> Tensor:
        """[B, 2] int64 (x, y) where the agents are now."""
        return self.grid.position(state.walker[:, POS])

    def render(self, state: MazeState, *, tile_px: int = 32, highlight: bool = True) -> np.ndarray:
        """[B, (H + 2) * tile_px, (W + 2) * tile_px, 3] uint8, the border of walls included."""
        return render_states(self.grid, state, tile_px, self.agent_view_size if highlight else 0)


def _check_sizes(height: int, width: int, max_episode_steps: int, agent_view_size: int) -> None:
    check_maze_size(height, width)
    if max_episode_steps < 1:
        raise ValueError(f"max_episode_steps has to be at least 1, got {max_episode_steps}")
    if agent_view_size < 3 or agent_view_size % 2 == 0:
        raise ValueError(f"agent_view_size has to be odd and at least 3, got {agent_view_size}")

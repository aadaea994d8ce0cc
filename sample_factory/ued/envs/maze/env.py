"""AMaze: an agent with a 5x5 view looks for a goal in a maze (after MiniGrid; arXiv 2012.02096, 2311.12716).

Seven actions, of which the first three do something: turn left, turn right, forward, pick up, drop, toggle, done. The
only reward is ``1 - 0.9 * steps / max_episode_steps`` for bumping into the goal, which ends the episode.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional

from sample_factory.ued.envs.interfaces import Observations, ObservationSpec, StepOutcome
from sample_factory.ued.envs.maze.generator import LevelSampler
from sample_factory.ued.envs.maze.level import DIRECTIONS, NUM_DIRECTIONS, MazeLevels, check_maze_size
from sample_factory.ued.envs.maze.metrics import maze_metrics
from sample_factory.ued.envs.maze.observation import tile_codes, view_offsets
from sample_factory.ued.envs.maze.rendering import render_states
from sample_factory.ued.envs.maze.state import DIR, EMPTY, FIRST_AGENT, GOAL, POS, TIME, MazeGrid, MazeState

LEFT, RIGHT, FORWARD, PICK_UP, DROP, TOGGLE, DONE = range(7)
NUM_ACTIONS = 7
NUM_CELL_KINDS = 3
_KEPT_BATCH_SIZES = 32


class MazeEnv:
    """B mazes of one size, stepped together. Levels come from `sampler`.

    `see_agent`: the agent is part of its own view. `normalize_obs`: codes are divided by 10 (float32), otherwise they
    are bytes. `one_hot_obs`: one channel per kind of tile instead of MiniGrid's three codes. `obs_agent_pos`: adds the
    position (x, y) as float32. `agent_view_size`: odd side of the view. All tensors live on `device`.
    """

    num_actions = NUM_ACTIONS

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
        self._sampler, self._see_agent, self._obs_agent_pos = sampler, see_agent, obs_agent_pos

        self._codes = tile_codes(normalize=normalize_obs, one_hot=one_hot_obs).to(self.device)
        self.observation_spec = ObservationSpec(
            image=(agent_view_size, agent_view_size, self._codes.shape[1]),
            scalars={"agent_dir": NUM_DIRECTIONS},
            vectors={"agent_pos": 2} if obs_agent_pos else {},
        )
        self._moves, self._changes = (table.to(self.device) for table in _transition_tables(self.grid.padded_width))
        steps = torch.arange(max_episode_steps + 1, dtype=torch.float32, device=self.device)
        self._rewards = 1.0 - 0.9 * steps / max_episode_steps  # of a hit, by the steps taken
        self._view = view_offsets(agent_view_size, self.grid.padded_width).to(self.device)  # [4, k * k]
        self._agent_in_view = torch.zeros_like(self._view)
        self._agent_in_view[:, -1 - agent_view_size // 2] = FIRST_AGENT + torch.arange(NUM_DIRECTIONS)
        self._row_starts_of_batch: dict[int, Tensor] = {}

    def sample_levels(self, num_levels: int, generator: Generator) -> MazeLevels:
        return self._sampler(num_levels, generator)

    def reset(self, levels: MazeLevels, generator: Generator | None = None) -> MazeState:
        """Start states; nothing is random."""
        return self.grid.start(levels)

    def step(self, state: MazeState, actions: Tensor, generator: Generator | None = None) -> StepOutcome:
        """One step in place; see the module for rewards.

        Few operations, because at usual batch sizes each costs more to call than to compute: the tile ahead decides
        which row of a table is added to position, direction and time. Without a forward action the tile "ahead" is the
        tile of the agent, which is free.
        """
        walker = state.walker
        action_and_dir = torch.add(walker.select(1, DIR), actions, alpha=NUM_DIRECTIONS)
        ahead = walker.select(1, POS) + self._moves.index_select(0, action_and_dir)
        cell = state.tiles.take(ahead + self._row_starts(len(walker)))
        change = torch.add(action_and_dir, cell, alpha=NUM_ACTIONS * NUM_DIRECTIONS)
        walker.narrow(1, 0, TIME + 1).add_(self._changes.index_select(0, change))

        time = walker.select(1, TIME)
        hit = cell == GOAL
        timeout = time >= self.max_episode_steps
        # rows that nobody resets go on past the limit
        reward = self._rewards.index_select(0, time.clamp(max=self.max_episode_steps)).mul_(hit)
        return StepOutcome(reward, hit | timeout, timeout > hit)

    def observe(self, state: MazeState) -> Observations:
        """``image`` [B, k, k, C] with the agent in the middle of the last row looking up; ``agent_dir`` [B] int64."""
        walker = state.walker
        direction = walker.select(1, DIR).clone()
        first = walker.select(1, POS) + self._row_starts(len(walker))
        cells = state.tiles.take(self._view.index_select(0, direction).add_(first.unsqueeze(1)))  # [B, k * k]
        if self._see_agent:
            cells += self._agent_in_view.index_select(0, direction)
        image = functional.embedding(cells, self._codes).view(-1, *self.observation_spec.image)
        observations = {"image": image, "agent_dir": direction}
        if self._obs_agent_pos:
            observations["agent_pos"] = self.grid.position(walker[:, POS]).float()
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

    def _row_starts(self, batch_size: int) -> Tensor:
        """[B] int64: where each row of the state begins in its flat storage."""
        starts = self._row_starts_of_batch.get(batch_size)
        if starts is None:
            if len(self._row_starts_of_batch) >= _KEPT_BATCH_SIZES:  # evaluations shrink their batches again and again
                self._row_starts_of_batch.clear()
            starts = torch.arange(batch_size, device=self.device) * self.grid.num_tiles
            self._row_starts_of_batch[batch_size] = starts
        return starts


def _check_sizes(height: int, width: int, max_episode_steps: int, agent_view_size: int) -> None:
    check_maze_size(height, width)
    if max_episode_steps < 1:
        raise ValueError(f"max_episode_steps has to be at least 1, got {max_episode_steps}")
    if agent_view_size < 3 or agent_view_size % 2 == 0:
        raise ValueError(f"agent_view_size has to be odd and at least 3, got {agent_view_size}")


def _transition_tables(row_length: int) -> tuple[Tensor, Tensor]:
    """(moves [A * 4], changes [kinds * A * 4, 3]), both indexed by ``action * 4 + direction`` and the kind of the tile
    ahead: the offset a forward action looks at, and what is added to position, direction and time.
    """
    moves = torch.zeros(NUM_ACTIONS, NUM_DIRECTIONS, dtype=torch.int64)
    turns = torch.zeros_like(moves)
    for direction, (dx, dy) in enumerate(DIRECTIONS):
        moves[FORWARD, direction] = dy * row_length + dx
        turns[LEFT, direction] = (direction - 1) % NUM_DIRECTIONS - direction
        turns[RIGHT, direction] = (direction + 1) % NUM_DIRECTIONS - direction
    changes = torch.zeros(NUM_CELL_KINDS, NUM_ACTIONS, NUM_DIRECTIONS, TIME + 1, dtype=torch.int64)
    changes[EMPTY, ..., POS] = moves
    changes[..., DIR] = turns
    changes[..., TIME] = 1
    return moves.flatten(), changes.flatten(0, 2)

"""How mazes move and what is seen, in two ways with the same results: by tensors, and on the host by arrays.

At usual batch sizes every operation costs more to call than to compute, and between two steps a network has pushed all
code out of the caches. So there are few operations, driven by tables, and the host calls NumPy, whose calls cost less
than half of torch's.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sample_factory.ued.envs.interfaces import StepOutcome
from sample_factory.ued.envs.maze.level import DIRECTIONS, NUM_DIRECTIONS
from sample_factory.ued.envs.maze.observation import view_offsets
from sample_factory.ued.envs.maze.state import DIR, EMPTY, FIRST_AGENT, GOAL, POS, TIME, MazeGrid, MazeState

LEFT, RIGHT, FORWARD, PICK_UP, DROP, TOGGLE, DONE = range(7)
NUM_ACTIONS = 7
NUM_CELL_KINDS = 3
_KEPT_BATCH_SIZES = 32


class Tables:
    """What steps look up; see :func:`transition_tables` and :func:`view_offsets`.

    ``rewards``: float32 ``[max_episode_steps + 1]`` of reaching the goal, by the steps taken. ``codes``: ``[7, C]`` of
    every kind of tile. ``agent_cell``: where the agent is in its own view, a column of ``view``; ``None``: unseen.
    """

    def __init__(
        self,
        grid: MazeGrid,
        max_episode_steps: int,
        view_size: int,
        codes: Tensor,
        see_agent: bool,
        device: torch.device,
    ) -> None:
        self.max_episode_steps = max_episode_steps
        self.view_size = view_size
        self.codes = codes.to(device)
        self.moves, self.changes = (table.to(device) for table in transition_tables(grid.padded_width))
        steps = torch.arange(max_episode_steps + 1, dtype=torch.float32, device=device)
        self.rewards = 1.0 - 0.9 * steps / max_episode_steps
        self.view = view_offsets(view_size, grid.padded_width).to(device)  # [4, k * k]
        self.agent_cell = view_size * view_size - 1 - view_size // 2 if see_agent else None
        self.num_tiles = grid.num_tiles


class Dynamics(Protocol):
    """Both methods take a state of B mazes."""

    def step(self, state: MazeState, actions: Tensor) -> StepOutcome:
        """One step in place. The tile ahead decides which row of a table is added to position, direction and time.
        Without a forward action the tile "ahead" is the tile of the agent, which is free. Rows that nobody resets go
        on past the limit of steps.
        """
        ...

    def look(self, state: MazeState) -> tuple[Tensor, Tensor]:
        """New tensors: codes of the tiles in view ``[B, k, k, C]``, and directions ``[B]`` int64."""
        ...


class TensorDynamics:
    """On any device."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._agent_in_view = torch.zeros_like(tables.view)
        if tables.agent_cell is not None:
            self._agent_in_view[:, tables.agent_cell] = FIRST_AGENT + torch.arange(NUM_DIRECTIONS)
        self._row_starts_of_batch: dict[int, Tensor] = {}

    def step(self, state: MazeState, actions: Tensor) -> StepOutcome:
        tables, walker = self._tables, state.walker
        action_and_dir = torch.add(walker.select(1, DIR), actions, alpha=NUM_DIRECTIONS)
        ahead = walker.select(1, POS) + tables.moves.index_select(0, action_and_dir)
        cell = state.tiles.take(ahead + self._row_starts(len(walker)))
        change = torch.add(action_and_dir, cell, alpha=NUM_ACTIONS * NUM_DIRECTIONS)
        walker.narrow(1, 0, TIME + 1).add_(tables.changes.index_select(0, change))

        time = walker.select(1, TIME)
        hit = cell == GOAL
        timeout = time >= tables.max_episode_steps
        reward = tables.rewards.index_select(0, time.clamp(max=tables.max_episode_steps)).mul_(hit)
        return StepOutcome(reward, hit | timeout, timeout > hit)

    def look(self, state: MazeState) -> tuple[Tensor, Tensor]:
        tables, walker = self._tables, state.walker
        direction = walker.select(1, DIR).clone()
        first = walker.select(1, POS) + self._row_starts(len(walker))
        cells = state.tiles.take(tables.view.index_select(0, direction).add_(first.unsqueeze(1)))  # [B, k * k]
        if tables.agent_cell is not None:
            cells += self._agent_in_view.index_select(0, direction)
        image = functional.embedding(cells, tables.codes)
        return image.view(-1, tables.view_size, tables.view_size, tables.codes.shape[1]), direction

    def _row_starts(self, batch_size: int) -> Tensor:
        """[B] int64: where each row of the state begins in its flat storage."""
        starts = self._row_starts_of_batch.get(batch_size)
        if starts is None:
            if len(self._row_starts_of_batch) >= _KEPT_BATCH_SIZES:  # evaluations shrink their batches again and again
                self._row_starts_of_batch.clear()
            starts = torch.arange(batch_size, device=self._tables.view.device) * self._tables.num_tiles
            self._row_starts_of_batch[batch_size] = starts
        return starts


class ArrayDynamics:
    """For states in the memory of the host."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        names = ("moves", "changes", "rewards", "view", "codes")
        self._moves, self._changes, self._rewards, self._view, self._codes = (
            getattr(tables, name).numpy() for name in names
        )
        self._image_shape = (-1, tables.view_size, tables.view_size, self._codes.shape[1])
        self._row_starts = np.empty(0, np.int64)
        self._last: tuple[MazeState | None, np.ndarray, np.ndarray] = (None, self._row_starts, self._row_starts)

    def step(self, state: MazeState, actions: Tensor) -> StepOutcome:
        walker, tiles = self._arrays(state)
        time = walker[:, TIME]
        action_and_dir = actions.numpy() * NUM_DIRECTIONS
        action_and_dir += walker[:, DIR]
        ahead = self._moves.take(action_and_dir)
        ahead += walker[:, POS]
        ahead += self._starts_of(walker)
        cell = tiles.take(ahead)
        change = cell * (NUM_ACTIONS * NUM_DIRECTIONS)
        change += action_and_dir
        walker[:, : TIME + 1] += self._changes.take(change, axis=0)

        hit, timeout = cell == GOAL, time >= self._tables.max_episode_steps
        reward = self._rewards.take(time, mode="clip")
        reward *= hit
        return StepOutcome(torch.from_numpy(reward), torch.from_numpy(hit | timeout), torch.from_numpy(timeout > hit))

    def look(self, state: MazeState) -> tuple[Tensor, Tensor]:
        walker, tiles = self._arrays(state)
        agent_cell = self._tables.agent_cell
        direction = walker[:, DIR].copy()
        first = walker[:, POS] + self._starts_of(walker)
        places = self._view.take(direction, axis=0)
        places += first[:, np.newaxis]
        cells = tiles.take(places)  # [B, k * k]
        if agent_cell is not None:
            np.add(direction, FIRST_AGENT, out=cells[:, agent_cell])
        image = self._codes.take(cells, axis=0).reshape(self._image_shape)
        return torch.from_numpy(image), torch.from_numpy(direction)

    def _arrays(self, state: MazeState) -> tuple[np.ndarray, np.ndarray]:
        """The walker, in the memory of the state, and the tiles as one row. A rollout always has the same state."""
        last, walker, tiles = self._last
        if state is not last:
            walker, tiles = state.walker.numpy(), state.tiles.numpy().reshape(-1)
            if state.tiles.is_contiguous():  # else the row is a copy, which would not see new levels
                self._last = (state, walker, tiles)
        return walker, tiles

    def _starts_of(self, walker: np.ndarray) -> np.ndarray:
        """[B] int64: where each row of the state begins in its flat storage."""
        if len(self._row_starts) < len(walker):
            self._row_starts = np.arange(len(walker)) * self._tables.num_tiles
        return self._row_starts[: len(walker)]


def dynamics_on(device: torch.device, tables: Tables) -> Dynamics:
    """The faster dynamics of states on this device."""
    return ArrayDynamics(tables) if device.type == "cpu" else TensorDynamics(tables)


def transition_tables(row_length: int) -> tuple[Tensor, Tensor]:
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

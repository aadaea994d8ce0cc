"""Complexity of AMaze levels."""

from __future__ import annotations

from torch import Tensor

from sample_factory.ued.envs.maze.level import MazeLevels
from sample_factory.ued.envs.shortest_paths import shortest_path_lengths


def maze_metrics(levels: MazeLevels) -> dict[str, Tensor]:
    """``n_walls``, ``shortest_path_length`` [B] int64 (0 if there is no path) and ``passable`` [B] bool."""
    lengths = shortest_path_lengths(~levels.wall_map, levels.agent_pos, levels.goal_pos)
    return {
        "n_walls": levels.wall_map.sum(dim=(1, 2)),
        "shortest_path_length": lengths,
        "passable": lengths > 0,
    }

"""When two mazes are the same level."""

from __future__ import annotations

from torch import Tensor

from sample_factory.ued.envs.maze.level import MazeLevels


def same_levels(levels: MazeLevels, others: MazeLevels) -> Tensor:
    """[N, M] bool: equal walls, goal, start position and start direction."""
    return same_levels_in_any_direction(levels, others) & (levels.agent_dir[:, None] == others.agent_dir)


def same_levels_in_any_direction(levels: MazeLevels, others: MazeLevels) -> Tensor:
    """[N, M] bool: equal walls, goal and start position, whatever the start direction (as in minimax).

    Wall maps are compared by their Hamming distance ``|a| + |b| - 2 a.b``, one matrix product of small integers, which
    float32 holds exactly.
    """
    if (levels.height, levels.width) != (others.height, others.width):
        raise ValueError("levels of different sizes cannot be compared")
    walls = levels.wall_map.flatten(1).float()
    other_walls = others.wall_map.flatten(1).float()
    distance = walls.sum(1)[:, None] + other_walls.sum(1) - 2.0 * (walls @ other_walls.T)
    agents = levels.tile_index(levels.agent_pos)[:, None] == others.tile_index(others.agent_pos)
    goals = levels.tile_index(levels.goal_pos)[:, None] == others.tile_index(others.goal_pos)
    return (distance == 0) & agents & goals

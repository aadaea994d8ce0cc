"""Random edits of AMaze levels, as used by ACCEL (arXiv 2203.01302)."""

from __future__ import annotations

import torch
from torch import Generator

from sample_factory.ued.envs.maze.level import MazeLevels, tile_pos
from sample_factory.ued.envs.sampling import draw_int, draw_tiles

NO_EDIT, FLIP_WALL, MOVE_GOAL = range(3)


def mutate(levels: MazeLevels, num_edits: int, generator: Generator) -> MazeLevels:
    """Copies of `levels` after `num_edits` successive edits, each with equal chance nothing, a wall or the goal.

    A flipped tile is uniform over all but the agent's and the goal's. A new goal is uniform over the free tiles other
    than the agent's and the present goal; where there is none, the edit does nothing. The agent stays as it is.
    """
    if num_edits < 0:
        raise ValueError(f"the number of edits has to be at least 0, got {num_edits}")
    walls = levels.wall_map.flatten(1).clone()
    agent = levels.tile_index(levels.agent_pos)[:, None]
    goal = levels.tile_index(levels.goal_pos)[:, None]
    edits = draw_int(3, (num_edits, len(levels), 1), generator)
    not_agent = torch.ones_like(walls).scatter_(1, agent, False)
    for edit in edits:
        others = not_agent.scatter(1, goal, False)
        moves = edit == MOVE_GOAL
        # candidates of a flip are all other tiles, those of a new goal the free ones among them
        candidates = others & ~(walls & moves)
        tile = draw_tiles(candidates, 1, generator)
        possible = candidates.gather(1, tile)
        walls.scatter_(1, tile, walls.gather(1, tile) ^ (possible & (edit == FLIP_WALL)))
        goal = torch.where(moves & possible, tile, goal)
    return MazeLevels(
        walls.view_as(levels.wall_map),
        levels.agent_pos.clone(),
        levels.agent_dir.clone(),
        tile_pos(goal[:, 0], levels.width),
    )

"""Levels of the lava grid: where lava is, where the agent starts, where the goal is, and how strong the wind blows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from sample_factory.ued.envs.sampling import draw_int, draw_tiles
from sample_factory.ued.envs.shortest_paths import shortest_path_lengths
from sample_factory.ued.envs.tensor_struct import TensorStruct

EDITS = TOGGLE_LAVA, MOVE_GOAL, CHANGE_WIND = range(3)


@dataclass(frozen=True)
class LavaLevels(TensorStruct):
    """B levels. Tiles are numbered ``y * width + x``."""

    lava: Tensor  # [B, H, W] bool
    agent: Tensor  # [B] int64 tile
    goal: Tensor  # [B] int64 tile
    wind: Tensor  # [B] float32, probability that a move goes astray


@dataclass(frozen=True)
class LavaSampler:
    """Between none and `max_lava` tiles of lava, agent and goal anywhere else, wind uniform in ``[0, max_wind)``."""

    height: int
    width: int
    max_lava: int
    max_wind: float

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 3:
            raise ValueError(f"height and width have to be at least 3, got {self.height} and {self.width}")
        if not 0 <= self.max_lava <= self.height * self.width - 2:
            raise ValueError(
                f"max_lava has to be between 0 and {self.height * self.width - 2}, so that there is room for the agent "
                f"and the goal, got {self.max_lava}"
            )
        if not 0 <= self.max_wind <= 1:
            raise ValueError(f"max_wind is a probability between 0 and 1, got {self.max_wind}")

    def __call__(self, num_levels: int, generator: Generator) -> LavaLevels:
        device = generator.device
        everywhere = torch.ones(num_levels, self.height * self.width, dtype=torch.bool, device=device)
        tiles = draw_tiles(everywhere, self.max_lava + 2, generator)  # [B, 2 + max_lava]: agent, goal, lava
        count = draw_int(self.max_lava + 1, (num_levels, 1), generator)
        placed = torch.arange(self.max_lava, device=device) < count
        lava = torch.zeros_like(everywhere).scatter_(1, tiles[:, 2:], placed)
        wind = self.max_wind * torch.rand(num_levels, generator=generator, device=device)
        return LavaLevels(lava.view(-1, self.height, self.width), tiles[:, 0], tiles[:, 1], wind)


def lava_metrics(levels: LavaLevels) -> dict[str, Tensor]:
    """``n_lava``, ``shortest_path_length`` around the lava (0: none), ``wind`` and ``passable``, [B] each."""
    width = levels.lava.shape[2]
    start, goal = (torch.stack([tile % width, tile // width], dim=1) for tile in (levels.agent, levels.goal))
    lengths = shortest_path_lengths(~levels.lava, start, goal)
    return {
        "n_lava": levels.lava.sum((1, 2)),
        "shortest_path_length": lengths,
        "wind": levels.wind.clone(),
        "passable": lengths > 0,
    }


def edit_lava_levels(levels: LavaLevels, num_edits: int, generator: Generator) -> LavaLevels:
    """Copies after `num_edits` edits, each with equal chance of a tile of lava, of the goal, or of the wind.

    Neither the agent's tile nor the goal's gets lava. The goal moves to a random tile without lava. Wind is multiplied
    by a number uniform in ``[0.5, 1.5)``, up to 1.
    """
    lava, goal, wind = levels.lava.flatten(1).clone(), levels.goal[:, None], levels.wind.clone()
    count, device = len(levels), generator.device
    for _ in range(num_edits):
        edit = draw_int(len(EDITS), (count, 1), generator)
        factor = 0.5 + torch.rand(count, generator=generator, device=device)
        moves = edit == MOVE_GOAL
        others = torch.ones_like(lava).scatter_(1, levels.agent[:, None], False).scatter_(1, goal, False)
        candidates = others & ~(lava & moves)
        tile = draw_tiles(candidates, 1, generator)
        possible = candidates.gather(1, tile)
        lava.scatter_(1, tile, lava.gather(1, tile) ^ (possible & (edit == TOGGLE_LAVA)))
        goal = torch.where(moves & possible, tile, goal)
        wind = torch.where((edit == CHANGE_WIND)[:, 0], (wind * factor).clamp(max=1.0), wind)
    return LavaLevels(lava.view_as(levels.lava), levels.agent.clone(), goal[:, 0].clone(), wind)


def same_lava_levels(levels: LavaLevels, others: LavaLevels) -> Tensor:
    """[N, M] bool: everything is equal."""
    same = (levels.lava.flatten(1)[:, None] == others.lava.flatten(1)).all(-1)
    for name in ("agent", "goal", "wind"):
        same &= getattr(levels, name)[:, None] == getattr(others, name)
    return same

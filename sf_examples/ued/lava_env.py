"""The lava grid: reach the goal, do not touch the lava, and mind the wind."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

from sample_factory.ued.envs.interfaces import Observations, ObservationSpec, StepOutcome
from sample_factory.ued.envs.sampling import draw_int
from sample_factory.ued.envs.tensor_struct import TensorStruct
from sf_examples.ued.lava_levels import LavaLevels, LavaSampler, lava_metrics

NUM_ACTIONS = 4  # right, down, left, up
CHANNELS = LAVA, GOAL, AGENT = range(3)
_COLOURS = np.array([[70, 70, 80], [230, 90, 20], [0, 200, 80], [80, 130, 255]], dtype=np.uint8)


@dataclass(frozen=True)
class LavaState(TensorStruct):
    """A level being played."""

    lava: Tensor  # [B, H * W] bool
    goal: Tensor  # [B] int64 tile
    wind: Tensor  # [B] float32
    start: Tensor  # [B] int64 tile
    agent: Tensor  # [B] int64 tile
    time: Tensor  # [B] int64


class LavaGridEnv:
    """The agent sees the whole grid (one channel each for lava, goal and agent) and the strength of the wind.

    With probability ``wind`` a move goes into a random direction. The border stops moves. Lava ends the episode without
    reward, the goal with ``1 - 0.9 * steps / max_episode_steps``.
    """

    num_actions = NUM_ACTIONS

    def __init__(
        self,
        *,
        height: int = 7,
        width: int = 7,
        max_lava: int = 12,
        max_wind: float = 0.3,
        max_episode_steps: int = 50,
        device: torch.device | str = "cpu",
    ) -> None:
        if max_episode_steps < 1:
            raise ValueError(f"max_episode_steps has to be at least 1, got {max_episode_steps}")
        self.height, self.width, self.max_wind = height, width, max_wind
        self.max_episode_steps = max_episode_steps
        self.device = torch.device(device)
        self._sampler = LavaSampler(height, width, max_lava, max_wind)
        self._neighbour = _neighbours(height, width).to(self.device)  # [H * W * 4]
        self.observation_spec = ObservationSpec(image=(height, width, len(CHANNELS)), scalars={}, vectors={"wind": 1})

    def sample_levels(self, num_levels: int, generator: Generator) -> LavaLevels:
        return self._sampler(num_levels, generator)

    def reset(self, levels: LavaLevels, generator: Generator) -> LavaState:
        size = levels.lava.shape[1:]
        if size != (self.height, self.width):
            raise ValueError(f"levels of {size[0]}x{size[1]} tiles in a grid of {self.height}x{self.width}")
        return LavaState(
            lava=levels.lava.flatten(1).clone(),
            goal=levels.goal.clone(),
            wind=levels.wind.clone(),
            start=levels.agent.clone(),
            agent=levels.agent.clone(),
            time=torch.zeros_like(levels.agent),
        )

    def step(self, state: LavaState, actions: Tensor, generator: Generator) -> StepOutcome:
        """One move in place; see the class."""
        batch = len(actions)
        astray = torch.rand(batch, generator=generator, device=self.device) < state.wind
        direction = torch.where(astray, draw_int(NUM_ACTIONS, (batch,), generator), actions)
        state.agent.copy_(self._neighbour[state.agent * NUM_ACTIONS + direction])
        state.time.add_(1)
        at_goal = state.agent == state.goal
        burnt = state.lava.gather(1, state.agent[:, None])[:, 0]
        timeout = state.time >= self.max_episode_steps
        reward = at_goal * (1.0 - 0.9 * state.time / self.max_episode_steps)
        ended = at_goal | burnt
        return StepOutcome(reward, ended | timeout, timeout & ~ended)

    def observe(self, state: LavaState) -> Observations:
        """``image`` [B, H, W, 3] float32 of zeros and ones, ``wind`` [B, 1]."""
        image = torch.zeros(len(state), self.height * self.width, len(CHANNELS), device=self.device)
        image[..., LAVA] = state.lava.float()
        image[..., GOAL].scatter_(1, state.goal[:, None], 1.0)
        image[..., AGENT].scatter_(1, state.agent[:, None], 1.0)
        return {"image": image.view(-1, self.height, self.width, len(CHANNELS)), "wind": state.wind[:, None].clone()}

    def levels_of(self, state: LavaState) -> LavaLevels:
        lava = state.lava.view(-1, self.height, self.width).clone()
        return LavaLevels(lava, state.start.clone(), state.goal.clone(), state.wind.clone())

    def level_metrics(self, levels: LavaLevels) -> dict[str, Tensor]:
        return lava_metrics(levels)

    def solved(self, episode_return: Tensor) -> Tensor:
        return episode_return > 0

    def render(self, state: LavaState, *, tile_px: int = 32, highlight: bool = True) -> np.ndarray:
        """[B, H * tile_px, W * tile_px, 3] uint8. The agent sees everything, so there is nothing to highlight."""
        kinds = state.lava.long()
        kinds.scatter_(1, state.goal[:, None], GOAL + 1)
        kinds.scatter_(1, state.agent[:, None], AGENT + 1)
        picture = _COLOURS[kinds.view(-1, self.height, self.width).cpu().numpy()]
        return picture.repeat(tile_px, axis=1).repeat(tile_px, axis=2)


def _neighbours(height: int, width: int) -> Tensor:
    """[H * W * 4] int64: the tile each move leads to."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    moved = [(y, (x + 1).clamp(max=width - 1)), ((y + 1).clamp(max=height - 1), x)]
    moved += [(y, (x - 1).clamp(min=0)), ((y - 1).clamp(min=0), x)]
    return torch.stack([to_y * width + to_x for to_y, to_x in moved], dim=-1).flatten()

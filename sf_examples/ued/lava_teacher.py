"""A teacher that builds levels of the lava grid, for PAIRED."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from sample_factory.ued.envs.interfaces import Observations, ObservationSpec
from sample_factory.ued.envs.tensor_struct import TensorStruct
from sf_examples.ued.lava_env import AGENT, CHANNELS, GOAL, LAVA, LavaGridEnv
from sf_examples.ued.lava_levels import LavaLevels

_WIND_STEP, _AGENT_STEP, _GOAL_STEP, _FIRST_LAVA_STEP = range(4)


@dataclass(frozen=True)
class LavaTeacherState(TensorStruct):
    choices: Tensor  # [B, episode_length] int64: wind, agent, goal, lava
    time: Tensor  # [B] int64


class LavaTeacherEnv:
    """An action is a tile: first it says how strong the wind is, then where agent, goal and `n_lava` tiles of lava go.

    A goal on the agent's tile goes to the next one. Lava under the agent or the goal is left out, so every episode ends
    with a proper level.
    """

    def __init__(self, student_env: LavaGridEnv, /, *, n_lava: int = 12, noise_dim: int = 10) -> None:
        self.height, self.width, self.max_wind = student_env.height, student_env.width, student_env.max_wind
        self.device = student_env.device
        self.num_actions = self.height * self.width
        if n_lava < 0 or noise_dim < 1:
            raise ValueError(f"n_lava has to be at least 0 and noise_dim at least 1, got {n_lava} and {noise_dim}")
        self.episode_length = _FIRST_LAVA_STEP + n_lava
        self._noise_dim = noise_dim
        self.observation_spec = ObservationSpec(
            image=(self.height, self.width, len(CHANNELS)),
            scalars={"time": self.episode_length},
            vectors={"noise": noise_dim},
        )

    def reset(self, num_levels: int, generator: Generator) -> LavaTeacherState:
        choices = torch.zeros(num_levels, self.episode_length, dtype=torch.int64, device=self.device)
        return LavaTeacherState(choices, choices[:, 0].clone())

    def step(self, state: LavaTeacherState, actions: Tensor, generator: Generator) -> None:
        state.choices.scatter_(1, state.time[:, None], actions[:, None])
        state.time.add_(1)

    def observe(self, state: LavaTeacherState, generator: Generator) -> Observations:
        """``image`` [B, H, W, 3] of what has been placed, ``time`` [B] and fresh ``noise`` [B, noise_dim]."""
        batch = len(state)
        levels = self.decode(state)
        image = torch.zeros(batch, self.num_actions, len(CHANNELS), device=self.device)
        image[..., LAVA] = levels.lava.flatten(1).float()
        for channel, tile, step in ((AGENT, levels.agent, _AGENT_STEP), (GOAL, levels.goal, _GOAL_STEP)):
            image[..., channel].scatter_(1, tile[:, None], (state.time > step).float()[:, None])
        return {
            "image": image.view(batch, self.height, self.width, len(CHANNELS)),
            "time": state.time.clone(),
            "noise": torch.rand(batch, self._noise_dim, generator=generator, device=self.device),
        }

    def decode(self, state: LavaTeacherState) -> LavaLevels:
        choices = state.choices
        agent, goal = choices[:, _AGENT_STEP], choices[:, _GOAL_STEP]
        goal = torch.where(goal == agent, (goal + 1) % self.num_actions, goal)
        steps = torch.arange(_FIRST_LAVA_STEP, self.episode_length, device=self.device)
        nowhere = self.num_actions
        tiles = choices[:, _FIRST_LAVA_STEP:].where(steps < state.time[:, None], nowhere)
        lava = torch.zeros(len(state), nowhere + 1, dtype=torch.bool, device=self.device)
        lava.scatter_(1, tiles, True).scatter_(1, agent[:, None], False).scatter_(1, goal[:, None], False)
        wind = self.max_wind * choices[:, _WIND_STEP] / (self.num_actions - 1)
        return LavaLevels(lava[:, :-1].reshape(-1, self.height, self.width), agent.clone(), goal, wind)

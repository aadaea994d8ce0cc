"""How an episode looks."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Generator

from sample_factory.ued.envs.interfaces import UedEnv
from sample_factory.ued.envs.pictures import require_renderable
from sample_factory.ued.models.actor_critic import ActorCritic
from sample_factory.ued.steps import gumbel_noise


@torch.no_grad()
def episode_frames(
    env: UedEnv[Any, Any], model: ActorCritic, generator: Generator, *, tile_px: int = 16
) -> list[np.ndarray]:
    """Pictures [height, width, 3] uint8 of one episode on a random level, the first and the last state included.

    Actions are sampled. ValueError if the environment cannot be drawn.
    """
    drawable = require_renderable(env)
    state = env.reset(env.sample_levels(1, generator), generator)
    carry = model.initial_carry(1)
    reset = torch.zeros(1, dtype=torch.bool, device=generator.device)
    frames = [drawable.render(state, tile_px=tile_px)[0]]
    for _ in range(env.max_episode_steps):
        _, logits, carry = model.step(env.observe(state), carry, reset)
        actions = (logits + gumbel_noise(list(logits.shape), generator)).argmax(-1)
        outcome = env.step(state, actions, generator)
        frames.append(drawable.render(state, tile_px=tile_px)[0])
        if bool(outcome.done[0]):
            break
    return frames

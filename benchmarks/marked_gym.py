"""Train a Gymnasium environment with Sample Factory or the original, leaving a mark when the first step is made.

Run by the Python of either, with the path of the mark in the environment variable FIRST_STEP_MARK. Uses names both
packages have in public, and nothing else: the same program is measured twice. ``--env=vector_<id>`` is a vector of
environments in one object, which speaks torch, for ``--batched_sampling=True``.
"""

from __future__ import annotations

import contextlib
import os
import sys

import gymnasium as gym
import torch

from sample_factory.cfg.arguments import parse_full_cfg, parse_sf_args
from sample_factory.envs.env_utils import register_env
from sample_factory.train import run_rl


class MarkFirstStep(gym.Wrapper):
    """Creates the file at the first step of the process, unless another process was faster."""

    is_marked = False

    def step(self, action):
        if not MarkFirstStep.is_marked:
            MarkFirstStep.is_marked = True
            with contextlib.suppress(FileExistsError):
                os.close(os.open(os.environ["FIRST_STEP_MARK"], os.O_CREAT | os.O_EXCL))
        return self.env.step(action)


class TensorVectorEnv(gym.Env):
    """``num_agents`` environments of this id as one, data in tensors."""

    is_multiagent = True
    num_agents = 64

    def __init__(self, env_id):
        self.envs = gym.vector.SyncVectorEnv([lambda: gym.make(env_id)] * self.num_agents)
        self.observation_space = self.envs.single_observation_space
        self.action_space = self.envs.single_action_space

    def reset(self, **kwargs):
        obs, info = self.envs.reset(seed=kwargs.get("seed"))
        return torch.as_tensor(obs), info

    def step(self, actions):
        actions = torch.as_tensor(actions).reshape(self.num_agents).cpu().numpy()
        obs, rewards, terminated, truncated, _ = self.envs.step(actions)
        rewards = torch.as_tensor(rewards, dtype=torch.float32)
        return torch.as_tensor(obs), rewards, torch.as_tensor(terminated), torch.as_tensor(truncated), {}


def make_env(full_env_name, cfg=None, env_config=None, render_mode=None):
    if full_env_name.startswith("vector_"):
        return TensorVectorEnv(full_env_name.removeprefix("vector_"))
    return MarkFirstStep(gym.make(full_env_name, render_mode=render_mode))


def main() -> int:
    parser, partial_cfg = parse_sf_args(sys.argv[1:])
    register_env(partial_cfg.env, make_env)
    return run_rl(parse_full_cfg(parser, sys.argv[1:]))


if __name__ == "__main__":
    sys.exit(main())

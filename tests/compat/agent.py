"""One script for both versions: trains an agent, or records what a trained one answers.

It uses nothing but names that exist in Sample Factory 2 and here, and is run as a file, so that each interpreter
imports the package installed in its own environment.

    python agent.py train --env=... --experiment=... --train_dir=... [flags]
    python agent.py probe --env=... --experiment=... --train_dir=... --output=answers.npz
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch

from sample_factory.algo.learning.learner import Learner
from sample_factory.algo.utils.env_info import extract_env_info
from sample_factory.algo.utils.make_env import make_env_func_batched
from sample_factory.algo.utils.rl_utils import prepare_and_normalize_obs
from sample_factory.cfg.arguments import parse_full_cfg, parse_sf_args
from sample_factory.envs.env_utils import register_env
from sample_factory.model.actor_critic import create_actor_critic
from sample_factory.model.model_utils import get_rnn_size
from sample_factory.train import run_rl
from sample_factory.utils.attr_dict import AttrDict

NUM_PROBES = 16


class PixelEnv(gym.Env):
    """Noise of the size of stacked Atari frames; the bright quarter of the picture says which action is rewarded."""

    observation_space = gym.spaces.Box(0, 255, (4, 84, 84), np.uint8)
    action_space = gym.spaces.Discrete(4)
    episode_len = 25

    def __init__(self, render_mode=None):
        self.render_mode = render_mode
        self.steps = 0
        self.target = 0

    def _observe(self):
        self.target = int(self.np_random.integers(4))
        obs = self.np_random.integers(0, 60, self.observation_space.shape, dtype=np.uint8)
        row, column = divmod(self.target, 2)
        obs[:, 42 * row : 42 * (row + 1), 42 * column : 42 * (column + 1)] += 180
        return obs

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self._observe(), {}

    def step(self, action):
        reward = float(action == self.target)
        self.steps += 1
        return self._observe(), reward, self.steps >= self.episode_len, False, {}


def make_gym_env(full_env_name, cfg=None, env_config=None, render_mode=None):
    return gym.make(full_env_name, render_mode=render_mode)


def make_pixel_env(full_env_name, cfg=None, env_config=None, render_mode=None):
    return PixelEnv(render_mode)


def register_envs() -> None:
    for name in ("CartPole-v1", "Pendulum-v1"):
        register_env(name, make_gym_env)
    register_env("pixels", make_pixel_env)


def train(argv: list[str]) -> int:
    parser, _ = parse_sf_args(argv)
    return run_rl(parse_full_cfg(parser, argv))


def probe(argv: list[str]) -> int:
    """Load the newest checkpoint as an evaluation script would, and answer fixed observations."""
    parser = argparse.ArgumentParser()
    for name in ("--env", "--experiment", "--train_dir", "--output"):
        parser.add_argument(name, required=True)
    args = parser.parse_args(argv)
    cfg = AttrDict(json.loads((Path(args.train_dir) / args.experiment / "config.json").read_text()))

    env = make_env_func_batched(cfg, env_config=AttrDict(worker_index=0, vector_index=0, env_id=0))
    env_info = extract_env_info(env, cfg)
    actor_critic = create_actor_critic(cfg, env_info.obs_space, env_info.action_space)
    actor_critic.eval()
    actor_critic.model_to_device(torch.device("cpu"))
    directory = Learner.checkpoint_dir(AttrDict({**cfg, "train_dir": args.train_dir, "experiment": args.experiment}), 0)
    checkpoint = Learner.load_checkpoint(Learner.get_checkpoints(directory, "checkpoint_*"), torch.device("cpu"))
    actor_critic.load_state_dict(checkpoint["model"])

    rng = np.random.RandomState(0)
    space = env_info.obs_space["obs"]
    if space.dtype == np.uint8:
        obs = rng.randint(0, 256, (NUM_PROBES, *space.shape)).astype(np.uint8)
    else:
        obs = rng.uniform(-2, 2, (NUM_PROBES, *space.shape)).astype(np.float32)
    rnn_states = rng.uniform(-1, 1, (NUM_PROBES, get_rnn_size(cfg))).astype(np.float32)
    with torch.no_grad():
        normalized = prepare_and_normalize_obs(actor_critic, {"obs": torch.from_numpy(obs)})
        out = actor_critic(normalized, torch.from_numpy(rnn_states))
    answers = {key: out[key].numpy() for key in ("values", "action_logits", "new_rnn_states")}
    answers["entropy"] = actor_critic.action_distribution().entropy().numpy()
    progress = {key: checkpoint[key] for key in ("train_step", "env_steps", "curr_lr")}
    np.savez(args.output, **answers, **progress)
    return 0


def main() -> int:
    register_envs()
    command = {"train": train, "probe": probe}[sys.argv[1]]
    return command(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())

"""Tiny environments that write down what happens to them, and experiments with untrained weights to evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces

from sample_factory.algo.utils.make_env import make_env_func_batched
from sample_factory.cfg.arguments import cfg_dict, parse_full_cfg, parse_sf_args, save_config
from sample_factory.envs.env_utils import register_env
from sample_factory.model.actor_critic import create_actor_critic


class CountdownEnv(gym.Env):
    """Episodes of `episode_len` steps with reward 1; every frame of a step counts against the length."""

    metadata = {"render_modes": ["human", "rgb_array"], "render_fps": 30}
    observation_space: spaces.Space = spaces.Box(-1, 1, (3,), np.float32)
    action_space: spaces.Space = spaces.Discrete(2)

    def __init__(self, journal: list[Any], episode_len: int = 5, render_mode: str | None = None) -> None:
        self.journal = journal
        self.episode_len = episode_len
        self.render_mode = render_mode
        self.num_steps = 0
        self.reset_on_init = True

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.journal.append(("reset", seed))
        self.num_steps = 0
        return self._obs(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        self.journal.append(("step", action))
        self.num_steps += 1
        is_over = self.num_steps >= self.episode_len
        return self._obs(), 1.0, is_over, False, {}

    def render(self) -> np.ndarray:
        self.journal.append(("render", self.render_mode))
        return np.full((4, 4, 3), self.num_steps, dtype=np.uint8)

    def close(self) -> None:
        self.journal.append(("close", None))

    def _obs(self) -> Any:
        return self.observation_space.sample()


class MaskedEnv(CountdownEnv):
    """Only action 2 is allowed."""

    observation_space = spaces.Dict(
        obs=spaces.Box(-1, 1, (3,), np.float32), action_mask=spaces.Box(0, 1, (4,), np.float32)
    )
    action_space = spaces.Discrete(4)

    def _obs(self) -> Any:
        return {"obs": np.zeros(3, np.float32), "action_mask": np.array([0, 0, 1, 0], np.float32)}


class TeamEnv(gym.Env):
    """Two agents, list interface; agent 1 has twice the reward, both finish together. Actions: Discrete and Box."""

    observation_space = spaces.Box(-1, 1, (3,), np.float32)
    action_space = spaces.Tuple([spaces.Discrete(3), spaces.Box(-1, 1, (2,), np.float32)])
    num_agents = 2
    is_multiagent = True

    def __init__(self, journal: list[Any]) -> None:
        self.journal = journal
        self.num_steps = 0

    def reset(self, **kwargs: Any) -> tuple[list, list]:
        self.num_steps = 0
        return self._obs(), [{}, {}]

    def step(self, actions: Any) -> tuple[list, list, list, list, list]:
        self.journal.append(("step", actions))
        self.num_steps += 1
        is_over = self.num_steps >= 3
        if is_over:
            self.num_steps = 0
        return self._obs(), [1.0, 2.0], [is_over] * 2, [False] * 2, [{}, {"true_objective": 50.0}]

    def render(self) -> None: ...

    def close(self) -> None: ...

    def _obs(self) -> list[np.ndarray]:
        return [self.observation_space.sample() for _ in range(2)]


def register(name: str, env_class: Any, journal: list[Any], **kwargs: Any) -> None:
    def make(full_env_name: str, cfg: Any = None, env_config: Any = None, render_mode: str | None = None) -> Any:
        journal.append(("make", render_mode, cfg.env_frameskip))
        extra = {"render_mode": render_mode} if issubclass(env_class, CountdownEnv) else {}
        return env_class(journal, **kwargs, **extra)

    register_env(name, make)


def parse_eval(env: str, train_dir: Path, *options: str) -> Any:
    argv = [f"--env={env}", f"--train_dir={train_dir}", "--experiment=run", "--device=cpu", *options]
    parser, _ = parse_sf_args(argv, evaluation=True)
    return parse_full_cfg(parser, argv)


def make_experiment(env_name: str, train_dir: Path, *options: str, kind: str = "checkpoint", seed: int = 0) -> None:
    """Folder of a finished training: config.json and one checkpoint of policy 0 with random weights."""
    argv = [f"--env={env_name}", f"--train_dir={train_dir}", "--experiment=run", "--encoder_mlp_layers", "8", *options]
    parser, _ = parse_sf_args(argv)
    cfg = cfg_dict(parse_full_cfg(parser, argv))
    folder = train_dir / "run"
    save_config(cfg, folder / "config.json")

    torch.manual_seed(seed)
    env = make_env_func_batched(cfg, env_config=None)
    actor_critic = create_actor_critic(cfg, env.observation_space, env.action_space)
    env.close()
    name = "checkpoint_000000010_1000.pth" if kind == "checkpoint" else "best_000000005_500_reward_1.000.pth"
    (folder / "checkpoint_p0").mkdir(exist_ok=True)
    checkpoint = dict(
        train_step=10, env_steps=1000, best_performance=0.0, model=actor_critic.state_dict(), optimizer={}, curr_lr=1e-4
    )
    torch.save(checkpoint, folder / "checkpoint_p0" / name)

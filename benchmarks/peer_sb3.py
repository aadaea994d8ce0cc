"""Stable-Baselines3 PPO in the setting of the workload W1; prints the same progress lines as this project.

    /path/to/python peer_sb3.py --seconds=30

Run by a Python that has stable-baselines3 installed. Its own logging is off.
"""

from __future__ import annotations

import argparse
import time

import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv


class Reporter(BaseCallback):
    """A progress line per second after an iteration, and the end of the run."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._start = time.monotonic()
        self._next_report, self._seconds = 1.0, seconds
        self._is_over = False

    def _on_step(self) -> bool:
        return not self._is_over

    def _on_rollout_start(self) -> None:
        elapsed = time.monotonic() - self._start
        self._is_over = elapsed >= self._seconds
        if elapsed >= self._next_report:
            self._next_report = elapsed + 1.0
            print(f"Total num frames: {self.num_timesteps}. Policy #0 lag: (min: 0.0, avg: 0.0, max: 0.0)", flush=True)
            rewards = [info["r"] for info in self.model.ep_info_buffer or []]
            if rewards:
                print(f"Avg episode reward: [(0, '{sum(rewards) / len(rewards):.3f}')]", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--num_envs", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = PPO(
        "MlpPolicy",
        make_vec_env("CartPole-v1", n_envs=args.num_envs, seed=args.seed, vec_env_cls=DummyVecEnv),
        n_steps=32,
        batch_size=1024,
        n_epochs=1,
        learning_rate=1e-4,
        clip_range=0.1,
        ent_coef=0.003,
        max_grad_norm=4.0,
        # Two layers of 64, one network each for policy and value: this library shares no layers.
        policy_kwargs={"net_arch": [64, 64], "activation_fn": torch.nn.ELU},
        device="cpu",
        seed=args.seed,
    )
    model.learn(total_timesteps=10**10, callback=Reporter(args.seconds), log_interval=None)


if __name__ == "__main__":
    main()

"""An opponent without a framework: PPO in one process, one file and one loop over ordinary environments.

    python plain_ppo.py --seconds=30

Written the way one writes it when speed matters and generality does not: one forward pass for all environments per
step, preallocated arrays, a fused optimiser. Observations and returns are normalised like in W1, so that it learns as
much from a frame. Needs gymnasium, NumPy and PyTorch only.
"""

from __future__ import annotations

import argparse
import time
from collections import deque
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

GAMMA, GAE_LAMBDA, CLIP, VALUE_COEFF, ENTROPY_COEFF, MAX_GRAD_NORM, LR = 0.99, 0.95, 0.1, 0.5, 0.003, 4.0, 1e-4


class Network(nn.Module):
    """Two layers of 64 shared by policy and value, as in the workload W1."""

    def __init__(self, num_inputs: int, num_actions: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(num_inputs, 64), nn.ELU(), nn.Linear(64, 64), nn.ELU())
        self.policy, self.value = nn.Linear(64, num_actions), nn.Linear(64, 1)

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Observations ``[n, obs]`` -> log-probabilities of all actions ``[n, actions]`` and values ``[n]``."""
        features = self.body(obs)
        return self.policy(features).log_softmax(1), self.value(features).squeeze(1)


class Envs:
    """Ordinary environments one after another; finished ones are reset at once."""

    def __init__(self, num: int) -> None:
        self.envs = [gym.make("CartPole-v1") for _ in range(num)]
        self.obs = np.stack([env.reset(seed=idx)[0] for idx, env in enumerate(self.envs)])  # [envs, 4]
        self.returns = [0.0] * num
        self.finished: deque[float] = deque(maxlen=100)

    def step(self, actions: list[int], rewards: np.ndarray, dones: np.ndarray) -> None:
        """Writes observations, rewards ``[envs]`` and dones ``[envs]`` in place."""
        for idx, (env, action) in enumerate(zip(self.envs, actions, strict=True)):
            obs, reward, terminated, truncated, _ = env.step(action)
            self.returns[idx] += float(reward)
            rewards[idx] = reward
            done = terminated or truncated
            dones[idx] = done
            if done:
                self.finished.append(self.returns[idx])
                self.returns[idx] = 0.0
                obs, _ = env.reset()
            self.obs[idx] = obs


class VectorEnvs:
    """The same through the vector environment of gymnasium or PufferLib, as most single-file programs do it."""

    def __init__(self, num: int, kind: str) -> None:
        self.env = _gymnasium_vector_env(num) if kind == "gymnasium" else _pufferlib_vector_env(num)
        self.obs = self.env.reset(seed=0)[0]  # [envs, 4]
        self.returns = np.zeros(num)  # [envs]
        self.finished: deque[float] = deque(maxlen=100)

    def step(self, actions: list[int], rewards: np.ndarray, dones: np.ndarray) -> None:
        """Writes rewards ``[envs]`` and dones ``[envs]`` in place."""
        self.obs, rewards[:], terminated, truncated, _ = self.env.step(np.asarray(actions))
        over = terminated | truncated
        dones[:] = over
        self.returns += rewards
        if over.any():
            self.finished.extend(self.returns[over].tolist())
            self.returns[over] = 0.0


def _gymnasium_vector_env(num: int) -> Any:
    if not hasattr(gym.vector, "AutoresetMode"):  # before Gymnasium 1.0 there was this mode only
        return gym.vector.SyncVectorEnv([lambda: gym.make("CartPole-v1") for _ in range(num)])
    mode = gym.vector.AutoresetMode.SAME_STEP
    return gym.make_vec("CartPole-v1", num, "sync", vector_kwargs={"autoreset_mode": mode})


def _pufferlib_vector_env(num: int) -> Any:
    import pufferlib.emulation
    import pufferlib.vector

    def make() -> Any:
        return pufferlib.emulation.GymnasiumPufferEnv(env=gym.make("CartPole-v1"))

    return pufferlib.vector.make(make, num_envs=num, backend=pufferlib.vector.Serial)


class Normalizer:
    """Running mean and standard deviation of rows."""

    def __init__(self, *shape: int) -> None:
        self.mean, self.variance, self.count = torch.zeros(shape), torch.ones(shape), 1.0
        self.std = torch.ones(shape)

    def update(self, values: Tensor) -> None:
        """Rows ``[n, ...]``."""
        num = len(values)
        delta, total = values.mean(0) - self.mean, self.count + num
        spread = self.variance * self.count + values.var(0) * num + delta.square() * self.count * num / total
        self.mean = self.mean + delta * num / total
        self.variance, self.count = spread / total, total
        self.std = (self.variance + 1e-5).sqrt()


class Rollout:
    """Arrays of one iteration, ordered by step, then environment."""

    def __init__(self, num_steps: int, num_envs: int) -> None:
        self.of_obs, self.of_returns = Normalizer(4), Normalizer()
        shape = (num_steps, num_envs)
        self.obs = torch.zeros(*shape, 4)
        self.actions = torch.zeros(shape, dtype=torch.long)
        self.log_probs, self.values = torch.zeros(shape), torch.zeros(num_steps + 1, num_envs)
        self.rewards, self.dones = np.zeros(shape, np.float32), np.zeros(shape, np.float32)

    def collect(self, envs: Envs | VectorEnvs, network: Network) -> None:
        mean, scale = self.of_obs.mean, 1.0 / self.of_obs.std
        with torch.inference_mode():
            for step in range(len(self.rewards)):
                obs = self.obs[step] = ((torch.from_numpy(envs.obs) - mean) * scale).clamp_(-5.0, 5.0)
                log_probs, self.values[step] = network(obs)
                noise = torch.empty_like(log_probs).exponential_().log_()
                actions = (log_probs - noise).argmax(1)  # the Gumbel trick: a sample of the policy
                self.actions[step] = actions
                self.log_probs[step] = log_probs.gather(1, actions[:, None]).squeeze(1)
                envs.step(actions.tolist(), self.rewards[step], self.dones[step])
            last = ((torch.from_numpy(envs.obs) - mean) * scale).clamp_(-5.0, 5.0)
            self.values[-1] = network(last)[1]
            self.values.mul_(self.of_returns.std).add_(self.of_returns.mean)
            self.of_obs.update(self.obs.flatten(0, 1) * self.of_obs.std + mean)

    def advantages(self) -> Tensor:
        """Generalised advantage estimation, ``[steps, envs]``."""
        values = self.values.numpy()
        result, following = np.empty_like(self.rewards), np.zeros(self.rewards.shape[1], np.float32)
        for step in reversed(range(len(self.rewards))):
            keeps = 1.0 - self.dones[step]
            delta = self.rewards[step] + GAMMA * values[step + 1] * keeps - values[step]
            following = delta + GAMMA * GAE_LAMBDA * keeps * following
            result[step] = following
        return torch.from_numpy(result)


def train(network: Network, optimizer: torch.optim.Optimizer, rollout: Rollout, minibatch: int, epochs: int) -> None:
    """PPO on a rollout, in random minibatches."""
    advantages = rollout.advantages().flatten()
    returns = advantages + rollout.values[:-1].flatten()
    rollout.of_returns.update(returns)
    returns = (returns - rollout.of_returns.mean) / rollout.of_returns.std
    columns = (rollout.obs.flatten(0, 1), rollout.actions.flatten(), rollout.log_probs.flatten(), advantages, returns)
    for _ in range(epochs):
        for rows in torch.randperm(len(advantages)).split(minibatch):
            obs, actions, old_log_probs, advantage, target = (column[rows] for column in columns)
            log_probs, values = network(obs)
            ratio = (log_probs.gather(1, actions[:, None]).squeeze(1) - old_log_probs).exp()
            advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
            policy_loss = -torch.min(ratio * advantage, ratio.clamp(1 - CLIP, 1 + CLIP) * advantage).mean()
            entropy = -(log_probs.exp() * log_probs).sum(1).mean()
            loss = policy_loss + VALUE_COEFF * (values - target).square().mean() - ENTROPY_COEFF * entropy
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), MAX_GRAD_NORM)
            optimizer.step()


def main(argv: list[str] | None = None) -> None:
    args = _parse_args(argv)
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    envs = Envs(args.num_envs) if args.envs == "list" else VectorEnvs(args.num_envs, args.envs)
    network = Network(4, 2)
    optimizer = torch.optim.Adam(network.parameters(), lr=args.learning_rate, fused=True)
    rollout = Rollout(args.rollout, args.num_envs)
    start = time.monotonic()
    next_report, num_frames = 1.0, 0
    while (elapsed := time.monotonic() - start) < args.seconds:
        rollout.collect(envs, network)
        train(network, optimizer, rollout, args.minibatch, args.epochs)
        num_frames += args.num_envs * args.rollout
        if elapsed >= next_report:
            next_report = elapsed + 1.0
            print(f"Total num frames: {num_frames}. Policy #0 lag: (min: 0.0, avg: 0.0, max: 0.0)", flush=True)
            if envs.finished:
                print(f"Avg episode reward: [(0, '{np.mean(envs.finished):.3f}')]", flush=True)


def _parse_args(argv: list[str] | None) -> Any:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--num_envs", type=int, default=64)
    parser.add_argument("--envs", choices=("list", "gymnasium", "pufferlib"), default="list", help="what steps them")
    parser.add_argument("--rollout", type=int, default=32)
    parser.add_argument("--minibatch", type=int, default=1024)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--learning_rate", type=float, default=LR)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()

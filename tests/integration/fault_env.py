"""An environment that breaks on request: ``FAULT=kind:step[:worker]`` (no variable: it works).

Train on it with ``--env=fault_env --env_module=tests.integration.fault_env``.
"""

from __future__ import annotations

import os
import signal

import gymnasium as gym
import numpy as np

from sample_factory.envs.env_utils import register_env


class FaultEnv(gym.Env):
    """Episodes of 10 steps, reward 1 per step."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (4,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, env_config) -> None:
        kind, step, worker = [*os.environ.get("FAULT", "none:0").split(":"), ""][:3]
        is_probe = env_config is None
        is_concerned = not is_probe and (not worker or int(worker) == env_config["worker_index"])
        self.kind = kind if is_concerned or kind.startswith("init") else "none"
        self.fault_step, self.num_steps, self.episode_step = int(step), 0, 0
        if kind == "init_raise" or (kind == "init_raise_in_worker" and is_concerned):
            raise RuntimeError("the environment cannot be built")
        if kind == "init_kill":
            os.kill(os.getpid(), signal.SIGKILL)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode_step = 0
        return self._observation(), {}

    def step(self, action):
        self.num_steps += 1
        self.episode_step += 1
        if self.num_steps >= self.fault_step:
            self._break()
        return self._observation(), 1.0, self.episode_step >= 10, False, {}

    def _break(self) -> None:
        if self.kind == "raise":
            raise ZeroDivisionError("the environment broke in step")
        if self.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.kind == "exit":
            os._exit(3)

    def _observation(self):
        return self.np_random.uniform(-1, 1, 4).astype(np.float32)


def make_fault_env(full_env_name, cfg=None, env_config=None, render_mode=None):
    return FaultEnv(env_config)


register_env("fault_env", make_fault_env)

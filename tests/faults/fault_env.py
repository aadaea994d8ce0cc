"""Environments that break on request.

``FAULT=kind:at[:worker]`` says what breaks and when; several faults are separated by commas, no variable means none.
``at`` is the step of an environment object (counted from its construction, over all episodes) from which on the fault
happens; with ``worker`` it happens in this rollout worker only. ``FAULT_ONCE=<file>``: each fault happens once in the
whole run, in the process that creates ``<file>.<kind>`` first.

=============== =========================================================================================
kind            what happens
=============== =========================================================================================
init_raise      the constructor raises (also in the test instance, unless a worker is given)
init_kill       the constructor kills its process by SIGKILL (same)
init_hang       the constructor never returns (same)
raise           ``step`` raises ZeroDivisionError
raise_p         ``step`` raises with the probability ``at``
raise_reset     ``reset`` raises, from the ``at``-th reset on
hang            ``step`` never returns
hang_p          ``step`` never returns, with the probability ``at``
exit            the process ends by ``os._exit(3)``
kill            the process ends by SIGKILL
nan_obs         one value of the observation is NaN
inf_obs         one value of the observation is infinite
wrong_shape     the observation has one value too many
wrong_dtype     the observation is complex
missing_key     the observation lacks the key "extra" (only with this fault observations are dictionaries)
nan_reward      the reward is NaN
inf_reward      the reward is infinite
print           every step prints a line
slow            every step takes ``at`` seconds
close_raise     ``close`` raises (also that of the test instance)
children        the constructor starts two processes that only multiprocessing, or nobody, ends
=============== =========================================================================================

``FAULT_MEMORY=<file>``: the main process takes 64 MB of memory when the file appears.

Two environments: ``fault_env`` (episodes of 10 steps, reward 1) and ``fault_cartpole`` (CartPole-v1, learnable).
Train with ``--env=fault_env --env_module=tests.faults.fault_env``.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import subprocess
import threading
import time
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from sample_factory.envs.env_utils import register_env

PROBABILITIES = ("raise_p", "hang_p")


@dataclass(frozen=True)
class Fault:
    kind: str
    at: float
    worker: int | None

    def concerns(self, env_config: Any) -> bool:
        """True in the process this environment lives in. The test instance has no ``env_config``."""
        if self.worker is not None:
            return env_config is not None and env_config["worker_index"] == self.worker
        return env_config is not None or self.kind.startswith("init") or self.kind in ("children", "close_raise")


def parse_faults(text: str) -> list[Fault]:
    faults = []
    for part in filter(None, text.split(",")):
        kind, at, worker = [*part.split(":"), "", ""][:3]
        faults.append(Fault(kind, float(at or 0), int(worker) if worker else None))
    return faults


def is_first(kind: str) -> bool:
    """With FAULT_ONCE: True for one caller per kind in the whole run. Without: always."""
    marker = os.environ.get("FAULT_ONCE")
    if marker is None:
        return True
    try:
        os.close(os.open(f"{marker}.{kind}", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def hang() -> None:
    print("Starting to hang", flush=True)
    threading.Event().wait()


class StubEnv(gym.Env):
    """Episodes of 10 steps, reward 1 per step, random observations."""

    action_space = gym.spaces.Discrete(2)

    def __init__(self, is_dict: bool) -> None:
        box = gym.spaces.Box(-1.0, 1.0, (4,), np.float32)
        self.observation_space = gym.spaces.Dict({"obs": box, "extra": box}) if is_dict else box
        self.is_dict = is_dict
        self.episode_step = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode_step = 0
        return self._observation(), {}

    def step(self, action):
        self.episode_step += 1
        return self._observation(), 1.0, self.episode_step >= 10, False, {}

    def _observation(self):
        values = self.np_random.uniform(-1, 1, 4).astype(np.float32)
        return {"obs": values, "extra": values.copy()} if self.is_dict else values


class FaultyEnv(gym.Wrapper):
    """Puts the faults into an environment that has none."""

    def __init__(self, env: gym.Env, faults: list[Fault]) -> None:
        super().__init__(env)
        self.faults = faults
        self.num_steps = 0
        self.num_resets = 0
        self.rng = np.random.default_rng()

    def reset(self, *, seed=None, options=None):
        self.num_resets += 1
        if self._happens("raise_reset", self.num_resets):
            raise ZeroDivisionError("the environment broke in reset")
        return self.env.reset(seed=seed, options=options)

    def step(self, action):
        self.num_steps += 1
        self._break()
        obs, reward, terminated, truncated, info = self.env.step(action)
        return self._broken_observation(obs), self._broken_reward(reward), terminated, truncated, info

    def close(self):
        super().close()
        if self._happens("close_raise", 0):
            raise ZeroDivisionError("the environment broke in close")

    def _happens(self, kind: str, count: float | None = None) -> bool:
        count = self.num_steps if count is None else count
        for fault in self.faults:
            if fault.kind == kind:
                is_due = self.rng.random() < fault.at if kind in PROBABILITIES else count >= fault.at
                return bool(is_due) and is_first(kind)
        return False

    def _break(self) -> None:
        for fault in self.faults:
            if fault.kind == "print":
                print("a line of the environment")
            if fault.kind == "slow":
                time.sleep(fault.at)
        if self._happens("raise") or self._happens("raise_p"):
            raise ZeroDivisionError("the environment broke in step")
        if self._happens("hang") or self._happens("hang_p"):
            hang()
        if self._happens("exit"):
            os._exit(3)
        if self._happens("kill"):
            os.kill(os.getpid(), signal.SIGKILL)

    def _broken_observation(self, obs: Any) -> Any:
        if isinstance(obs, dict):
            if self._happens("missing_key"):
                obs = {key: value for key, value in obs.items() if key != "extra"}
            return obs
        for kind, value in (("nan_obs", math.nan), ("inf_obs", math.inf)):
            if self._happens(kind):
                obs = obs.copy()
                obs[0] = value
        if self._happens("wrong_shape"):
            obs = np.append(obs, obs[:1])
        if self._happens("wrong_dtype"):
            obs = obs.astype(np.complex64) + 1j
        return obs

    def _broken_reward(self, reward: float) -> float:
        if self._happens("nan_reward"):
            return math.nan
        if self._happens("inf_reward"):
            return math.inf
        return reward


def start_children() -> None:
    """As vector environments do, and those with a simulator."""
    multiprocessing.get_context("fork").Process(target=time.sleep, args=(1000,), daemon=True).start()
    subprocess.Popen(["sleep", "1000"])


def make_fault_env(full_env_name, cfg=None, env_config=None, render_mode=None):
    all_faults = parse_faults(os.environ.get("FAULT", ""))
    faults = [fault for fault in all_faults if fault.concerns(env_config)]
    kinds = {fault.kind for fault in faults}
    if "init_raise" in kinds and is_first("init_raise"):
        raise RuntimeError("the environment cannot be built")
    if "init_kill" in kinds and is_first("init_kill"):
        os.kill(os.getpid(), signal.SIGKILL)
    if "init_hang" in kinds and is_first("init_hang"):
        hang()
    if "children" in kinds:
        start_children()
    if full_env_name == "fault_cartpole":
        return FaultyEnv(gym.make("CartPole-v1", render_mode=render_mode), faults)
    # The space is the same in all processes, whichever the fault concerns.
    return FaultyEnv(StubEnv(is_dict=any(fault.kind == "missing_key" for fault in all_faults)), faults)


register_env("fault_env", make_fault_env)
register_env("fault_cartpole", make_fault_env)


def _take_memory(trigger: str) -> None:
    while not os.path.exists(trigger):
        time.sleep(0.05)
    _taken.append(b"x" * (64 << 20))


_taken: list[bytes] = []
if os.environ.get("FAULT_MEMORY") and multiprocessing.parent_process() is None:
    threading.Thread(target=_take_memory, args=(os.environ["FAULT_MEMORY"],), daemon=True).start()

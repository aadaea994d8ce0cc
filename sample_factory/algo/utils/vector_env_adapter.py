"""One contract for vectorised environments: same-step automatic reset.

Gymnasium 0.29 vector environments reset a finished sub-environment within the step that ended its episode. 1.x offers
three modes and by default spends the *next* step on the reset: the action of that step is ignored, its reward is 0.
Treated as an ordinary transition that is wrong data, so the mode is found out once, when the environment is created.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from sample_factory.algo.utils.gymnasium_utils import get_env_attr
from sample_factory.utils.typing import Env

GYMNASIUM_VERSION = tuple(int(part) for part in gym.__version__.split(".")[:2])

# Where an info dict keeps what belonged to the finished episode (1.x, 0.29).
_FINAL_INFO_KEYS = ("final_info",)
_FINAL_OBS_KEYS = ("final_obs", "final_observation")


class AutoresetMode(Enum):
    """What a vector environment does with a finished sub-environment; same values as in Gymnasium 1.1 and later."""

    NEXT_STEP = "NextStep"
    SAME_STEP = "SameStep"
    DISABLED = "Disabled"


def autoreset_mode(env: Any) -> AutoresetMode | None:
    """The mode a vector environment declares or is known to have; ``None`` if unknown."""
    declared = (get_env_attr(env, "metadata", None) or {}).get("autoreset_mode") or getattr(env, "autoreset_mode", None)
    if declared is not None:
        text = str(getattr(declared, "value", declared)).replace("_", "").lower()
        return next((mode for mode in AutoresetMode if mode.value.lower() == text), None)
    if _is_envpool(env):
        return AutoresetMode.NEXT_STEP
    if isinstance(env, gym.vector.VectorEnv):
        if GYMNASIUM_VERSION < (1, 0):
            return AutoresetMode.SAME_STEP
        if GYMNASIUM_VERSION == (1, 0):  # fixed in this version, and not declared
            return AutoresetMode.NEXT_STEP
    return None


def _is_envpool(env: Any) -> bool:
    return type(env).__module__.split(".")[0] == "envpool"


def is_vector_env(env: Any) -> bool:
    """Whether ``env`` is a Gymnasium vector environment that nobody made multi-agent for us already."""
    is_vectorised = isinstance(env, gym.vector.VectorEnv) or _is_envpool(env)
    return is_vectorised and get_env_attr(env, "num_agents", None) is None


def adapt_vector_env(env: Env) -> Env:
    """Vector environments become a :class:`VectorEnvAdapter`, everything else is returned as it is."""
    return VectorEnvAdapter(env) if is_vector_env(env) else env


class VectorEnvAdapter(gym.Env):
    """Presents a Gymnasium vector environment as a multi-agent environment for batched sampling.

    Observations, rewards and flags keep the leading dimension ``[num_envs]``. Infos become a list with one dict per
    sub-environment; only those of sub-environments that finished an episode in this step have entries (masks of the
    vectorised info are honoured, ``final_info`` wins over the info of the new episode).

    :raises ValueError: the auto-reset mode cannot be brought to same-step semantics.
    """

    is_multiagent = True

    def __init__(self, env: Any):
        self.env = env
        self.mode = _checked_mode(env)
        self.num_agents: int = env.num_envs
        self.observation_space = env.single_observation_space
        self.action_space = env.single_action_space
        self.metadata = getattr(env, "metadata", {})
        self.render_mode = getattr(env, "render_mode", None)
        self._no_infos: list[dict[str, Any]] = [{} for _ in range(self.num_agents)]

    @property
    def unwrapped(self) -> Any:
        return getattr(self.env, "unwrapped", self.env)

    def reset(  # type: ignore[override]
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, list[dict]]:
        obs, _ = self.env.reset(seed=seed, options=options)
        return obs, [{} for _ in range(self.num_agents)]

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, list[dict]]:  # type: ignore[override]
        obs, rewards, terminated, truncated, infos = self.env.step(actions)
        done = terminated | truncated
        if not done.any():
            return obs, rewards, terminated, truncated, self._no_infos
        done = np.asarray(done.cpu() if isinstance(done, torch.Tensor) else done, dtype=bool)
        agent_infos = self._finished_infos(infos, done)
        if self.mode is AutoresetMode.DISABLED:
            for agent_idx in np.flatnonzero(done).tolist():
                agent_infos[agent_idx]["final_obs"] = _take(obs, agent_idx)
            obs, _ = self.env.reset(options={"reset_mask": done})
        return obs, rewards, terminated, truncated, agent_infos

    def render(self) -> Any:
        frames = self.env.render()  # of all sub-environments: the first one is shown
        return frames[0] if isinstance(frames, (list, tuple)) and len(frames) > 0 else frames

    def close(self) -> None:
        self.env.close()

    def _finished_infos(self, infos: Any, done: np.ndarray) -> list[dict[str, Any]]:
        agent_infos: list[dict[str, Any]] = [{} for _ in range(self.num_agents)]
        if not isinstance(infos, dict):  # already a list with one dict per sub-environment
            for agent_idx in np.flatnonzero(done).tolist():
                agent_infos[agent_idx].update(infos[agent_idx])
            return agent_infos
        for agent_idx in np.flatnonzero(done).tolist():
            agent_infos[agent_idx].update(_agent_info(infos, agent_idx))
            for key in _FINAL_INFO_KEYS:
                final_info = agent_infos[agent_idx].pop(key, None)
                if isinstance(final_info, dict):
                    agent_infos[agent_idx].update(final_info)
            for key in _FINAL_OBS_KEYS:
                if key in agent_infos[agent_idx]:
                    agent_infos[agent_idx]["final_obs"] = agent_infos[agent_idx].pop(key)
        return agent_infos


def _checked_mode(env: Any) -> AutoresetMode:
    mode = autoreset_mode(env)
    if mode is None:
        raise ValueError(
            f"{env} does not say how it resets finished sub-environments: "
            'set metadata["autoreset_mode"] to gymnasium.vector.AutoresetMode.SAME_STEP (or DISABLED)'
        )
    if mode is AutoresetMode.NEXT_STEP:
        raise ValueError(
            f"{env} resets finished sub-environments in the step after the end of an episode (NEXT_STEP), which would "
            "put one invalid transition per episode into the training data. Create it with "
            "vector_kwargs={'autoreset_mode': gymnasium.vector.AutoresetMode.SAME_STEP}, or wrap it so that it resets "
            "at once and declares SAME_STEP (for EnvPool: sf_examples.envpool.envpool_wrappers.EnvPoolResetFixWrapper)"
        )
    return mode


def _take(values: Any, agent_idx: int) -> Any:
    """Entry of one sub-environment, copied, from (nested dicts of) arrays with a leading dimension."""
    if isinstance(values, dict):
        return {key: _take(value, agent_idx) for key, value in values.items()}
    entry = values[agent_idx]
    return entry.copy() if isinstance(entry, np.ndarray) else entry


def _agent_info(infos: dict[str, Any], agent_idx: int) -> dict[str, Any]:
    """Entries of one sub-environment. ``_key`` is the mask of ``key``: where it is False, the value is padding."""
    result: dict[str, Any] = {}
    for key, value in infos.items():
        is_mask = key.startswith("_") and key[1:] in infos
        mask = infos.get(f"_{key}")
        if is_mask or (mask is not None and not np.asarray(mask)[agent_idx]):
            continue
        if isinstance(value, dict):
            result[key] = _agent_info(value, agent_idx)
        elif isinstance(value, (np.ndarray, torch.Tensor, list, tuple)) and len(value) > agent_idx:
            result[key] = value[agent_idx]
        else:
            result[key] = value
    return result

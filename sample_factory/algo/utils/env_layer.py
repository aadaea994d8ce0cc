"""Base of the wrappers that give every environment the form samplers expect."""

from __future__ import annotations

import traceback
from typing import Any

import gymnasium as gym

from sample_factory.algo.utils.gymnasium_utils import get_env_attr
from sample_factory.utils.logging import log
from sample_factory.utils.typing import Env

OBS_KEY = "obs"  # of observations that are no dicts
RESET_INFO_KEY = "reset_info"  # in the info of the last step: the info of the reset that followed


def get_multiagent_info(env: Env) -> tuple[bool, int]:
    """``(is_multiagent, num_agents)``. Defaults: one agent; multi-agent if there is more than one."""
    num_agents = get_env_attr(env, "num_agents", 1)
    is_multiagent = get_env_attr(env, "is_multiagent", num_agents > 1)
    assert is_multiagent or num_agents == 1, f"{env} is not multi-agent, but has {num_agents=}"
    return is_multiagent, num_agents


def is_multiagent_env(env: Env) -> bool:
    return get_multiagent_info(env)[0]


def close_env(env: Env) -> None:
    """Close an environment that has served its purpose: what goes wrong there is logged, and is no reason to fail."""
    try:
        env.close()
    except Exception:
        log.error(f"An environment could not be closed:\n{traceback.format_exc()}")


# The layers return lists and tensors per agent, which `gym.Env` has no types for.
_EnvBase: Any = gym.Env


class EnvLayer(_EnvBase):
    """Base of the wrappers below.

    Not a ``gym.Wrapper``: that refuses inner objects that are no ``gym.Env`` and, since Gymnasium 1.0, forwards no
    attributes. Here unknown attributes are those of the inner environment.
    """

    def __init__(self, env: Env):
        self.env = env
        self.observation_space = env.observation_space
        self.action_space = env.action_space
        self.is_multiagent, self.num_agents = get_multiagent_info(env)

    def __getattr__(self, name: str) -> Any:
        if name == "env" or name.startswith("__"):
            raise AttributeError(name)
        missing = object()
        value = get_env_attr(self.env, name, missing)
        if value is missing:
            raise AttributeError(f"{type(self).__name__} and its inner environments have no attribute {name!r}")
        return value

    @property
    def unwrapped(self) -> Any:
        return getattr(self.env, "unwrapped", self.env)

    @property
    def render_mode(self) -> str | None:
        return get_env_attr(self.env, "render_mode", None)

    @property
    def spec(self) -> Any:
        return get_env_attr(self.env, "spec", None)

    @property
    def metadata(self) -> dict[str, Any]:
        return get_env_attr(self.env, "metadata", {})

    def reset(self, **kwargs: Any) -> Any:
        return self.env.reset(**kwargs)

    def step(self, action: Any) -> Any:
        return self.env.step(action)

    def render(self, *args: Any, **kwargs: Any) -> Any:
        return self.env.render(*args, **kwargs)

    def close(self) -> None:
        self.env.close()

    def __str__(self) -> str:
        return f"<{type(self).__name__}{self.env}>"

    __repr__ = __str__

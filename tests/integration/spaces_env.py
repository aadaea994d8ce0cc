"""One environment per kind of observation and action space."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from sample_factory.algo.utils.spaces.discretized import Discretized
from sample_factory.envs.env_utils import register_env

ACTION_SPACES = {
    "discrete": spaces.Discrete(3),
    "discrete_from_two": spaces.Discrete(3, start=2),
    "multi_discrete": spaces.MultiDiscrete([3, 2]),
    "box": spaces.Box(-1.0, 1.0, (2,), np.float32),
    "tuple_of_discrete": spaces.Tuple([spaces.Discrete(2), spaces.Discrete(3)]),
    "mixed_tuple": spaces.Tuple([spaces.Discrete(2), spaces.Box(-1.0, 1.0, (2,), np.float32)]),
    "discretized": Discretized(5, min_action=-1.0, max_action=1.0),
}
OBSERVATION_SPACES = {
    "vector": spaces.Box(-1.0, 1.0, (3,), np.float32),
    "image": spaces.Box(0, 255, (3, 42, 42), np.uint8),
    "dict": spaces.Dict(
        obs=spaces.Box(0, 255, (3, 42, 42), np.uint8), measurements=spaces.Box(-1.0, 1.0, (7,), np.float32)
    ),
}


class SpacesEnv(gym.Env):
    """Checks every action it gets; observations are random."""

    def __init__(self, observation: str, action: str) -> None:
        self.observation_space, self.action_space = OBSERVATION_SPACES[observation], ACTION_SPACES[action]
        self.checks = getattr(self, f"check_{action}")
        self.steps = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        self.checks(action)
        self.steps += 1
        return self.observation_space.sample(), 1.0, self.steps >= 10, False, {}

    def check_discrete(self, action):
        assert isinstance(action, int | np.int32) and 0 <= action < 3  # the latter in batched mode

    def check_discrete_from_two(self, action):
        assert isinstance(action, int) and 2 <= action < 5

    def check_multi_discrete(self, action):
        assert action.dtype == np.int32 and action.shape == (2,) and (action < [3, 2]).all() and (action >= 0).all()

    def check_box(self, action):
        assert action.dtype == np.float32 and action.shape == (2,)

    def check_tuple_of_discrete(self, action):
        assert action.dtype == np.int32 and action.shape == (2,) and (action < [2, 3]).all() and (action >= 0).all()

    def check_mixed_tuple(self, action):
        assert isinstance(action, list) and isinstance(action[0], int) and action[0] in (0, 1)
        assert action[1].shape == (2,)

    def check_discretized(self, action):
        assert -1.0 <= self.action_space.to_continuous(action) <= 1.0


def make_spaces_env(full_env_name, cfg=None, env_config=None, render_mode=None):
    _, observation, action = full_env_name.split(":")
    return SpacesEnv(observation, action)


def register(observation: str, action: str) -> str:
    name = f"spaces:{observation}:{action}"
    register_env(name, make_spaces_env)
    return name

"""Agents that sit out: nobody acts for them, they repeat their last action, and their steps are nobody's experience."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from sample_factory.envs.env_utils import register_env
from sample_factory.utils.timing import Timing
from tests.unit.flags.sampling_setup import make_env_runner, sampling_cfg

ENV = "pair_with_absences"
# What the infos after each step say about the second agent; an empty info means that it takes part.
ABSENT = {"is_active": False}
INFOS: list[dict[str, Any]] = [{}, ABSENT, ABSENT, {"is_active": True}, ABSENT, {}]


class PairWithAbsences(gym.Env):
    num_agents, is_multiagent = 2, True
    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Discrete(10)

    def __init__(self) -> None:
        self.actions: list[list[int]] = []

    def reset(self, **kwargs: Any) -> Any:
        return [np.zeros(2, np.float32)] * 2, [{}, {}]

    def step(self, actions: Any) -> Any:
        info = INFOS[len(self.actions)]
        self.actions.append([int(a) for a in actions])
        return [np.zeros(2, np.float32)] * 2, [1.0, 2.0], [False, False], [False, False], [{}, dict(info)]


def make_pair(full_env_name: str, cfg: Any = None, env_config: Any = None, render_mode: Any = None) -> Any:
    return PairWithAbsences()


def make_runner(num_steps: int) -> Any:
    register_env(ENV, make_pair)
    flags = (f"--env={ENV}", "--num_workers=1", "--num_envs_per_worker=1", "--use_rnn=True", "--rnn_size=3")
    cfg = sampling_cfg(*flags, f"--rollout={num_steps}", f"--batch_size={2 * num_steps}", "--recurrence=1")
    cfg.decorrelate_envs_on_one_worker = False
    return make_env_runner(cfg)


def test_absent_agents_repeat_their_action_and_their_steps_belong_to_nobody() -> None:
    runner = make_runner(len(INFOS))
    data, env = runner._data, runner.envs[0].unwrapped
    told, asked = [], []
    for t in range(len(INFOS)):
        asked.append(runner.generate_policy_request())
        told.append(runner.channel.agent_policy[0, 0].tolist())
        data["actions"][:, t] = t + 1
        present = [row for row in range(2) if told[-1][row] >= 0]
        data["rnn_states"][present, t + 1] = t + 1
        runner.advance_rollouts(Timing())
    assert told == [[0, 0], [0, 0], [0, -1], [0, -1], [0, 0], [0, -1]]
    assert asked == [[0]] * len(INFOS)
    assert data["policy_id"].tolist() == [[0] * 6, [0, 0, -1, -1, 0, -1]]
    assert env.actions == [[1, 1], [2, 2], [3, 2], [4, 2], [5, 5], [6, 5]]
    assert data["rnn_states"][1, 1:, 0].tolist() == [1, 2, 2, 2, 5, 5], "an absent agent keeps its memory"
    assert data["rnn_states"][0, 1:, 0].tolist() == [1, 2, 3, 4, 5, 6]
    assert runner.channel.agent_policy[0, 0].tolist() == [0, 0], "the last info was empty: it is back"

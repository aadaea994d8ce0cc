from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from sample_factory.algo.utils.make_env import NonBatchedVecEnv
from sample_factory.envs.pettingzoo_envs import (
    PettingZooParallelEnv,
    all_equal,
    normalize_info,
    normalize_observation,
    normalize_observation_space,
)


class ParallelGame:
    """The parallel interface of PettingZoo: agent ``b`` leaves after the first step, ``a`` after the third."""

    metadata = {"name": "game"}
    possible_agents = ["a", "b"]
    max_num_agents = 2
    render_mode = None

    def __init__(self, action_spaces: Any = None) -> None:
        self.agents: list[str] = []
        self.num_steps = 0
        self.num_resets = 0
        self.last_actions: dict[str, Any] = {}
        self.action_spaces = action_spaces or {agent: spaces.Discrete(3) for agent in self.possible_agents}

    def observation_space(self, agent: str) -> Any:
        board = spaces.Box(0, 10, (1,), np.float32)
        return spaces.Dict({"observation": board, "action_mask": spaces.Box(0, 1, (3,), np.int8)})

    def action_space(self, agent: str) -> Any:
        return self.action_spaces[agent]

    def obs(self) -> dict[str, Any]:
        mask = np.ones(3, np.int8)
        return {a: {"observation": np.full(1, self.num_steps, np.float32), "action_mask": mask} for a in self.agents}

    def reset(self, seed: int | None = None, options: dict | None = None) -> Any:
        self.num_steps, self.num_resets = 0, self.num_resets + 1
        self.agents = list(self.possible_agents)
        return self.obs(), {agent: {"seed": seed} for agent in self.agents}

    def step(self, actions: dict[str, Any]) -> Any:
        self.last_actions = actions
        self.num_steps += 1
        acted = list(self.agents)
        obs = self.obs()
        terminated = {a: (a == "b" or self.num_steps == 3) for a in acted}
        self.agents = [a for a in acted if not terminated[a]]
        infos = {a: {"active_agent": "a"} for a in acted}
        return obs, dict.fromkeys(acted, 1.0), terminated, dict.fromkeys(acted, False), infos

    def render(self) -> str:
        return "picture"

    def close(self) -> None:
        self.agents = []


def test_helpers() -> None:
    assert all_equal([]) and all_equal([1, 1]) and not all_equal([1, 2])
    assert normalize_observation(3) == 3
    assert normalize_observation({"observation": 1, "action_mask": 2}) == {"obs": 1, "action_mask": 2}
    assert set(normalize_observation_space(ParallelGame().observation_space("a"))) == {"obs", "action_mask"}
    assert normalize_observation_space(spaces.Discrete(2)) == spaces.Discrete(2)
    assert normalize_info(None, "a") == {"is_active": False}
    assert normalize_info({"x": 1}, "a") == {"x": 1}
    assert normalize_info({"active_agent": "a"}, "a")["is_active"] is True
    assert normalize_info({"active_agent": "a"}, "b")["is_active"] is False


def test_spaces_must_be_equal() -> None:
    with pytest.raises(ValueError, match="action spaces"):
        PettingZooParallelEnv(ParallelGame({"a": spaces.Discrete(3), "b": spaces.Discrete(4)}))


def test_parallel_env_as_lists_with_reset_at_the_end() -> None:
    game = ParallelGame()
    env = NonBatchedVecEnv(PettingZooParallelEnv(game))
    assert env.num_agents == 2 and env.is_multiagent and env.action_space == spaces.Discrete(3)
    obs, infos = env.reset(seed=5)
    assert [o["obs"].item() for o in obs] == [0, 0] and infos == [{"seed": 5}, {"seed": 5}]

    obs, rewards, terminated, truncated, infos = env.step([1, 2])
    assert game.last_actions == {"a": 1, "b": 2}
    assert rewards == [1.0, 1.0] and terminated == [False, True] and truncated == [False, False]
    assert [info["is_active"] for info in infos] == [True, False]

    obs, rewards, terminated, _, infos = env.step([1, 2])
    assert game.last_actions == {"a": 1}, "agents that left do not act"
    assert [o["obs"].item() for o in obs] == [2, 1], "the last observation of an agent that left"
    assert infos[1] == {"is_active": False} and rewards[1] == 0.0

    obs, rewards, terminated, _, infos = env.step([0, 0])
    assert terminated[0] and game.num_resets == 2
    assert [o["obs"].item() for o in obs] == [0, 0] and infos == [{"seed": None}, {"seed": None}]
    assert env.render() == "picture"


def test_tictactoe() -> None:
    pytest.importorskip("pettingzoo")
    pytest.importorskip("pygame")
    from sf_examples.train_pettingzoo_env import make_pettingzoo_env

    env = make_pettingzoo_env("tictactoe_v3")
    assert env.num_agents == 2 and set(env.observation_space) == {"obs", "action_mask"}
    obs, infos = env.reset(seed=0)
    num_games, rewards_at_end = 0, []
    rng = np.random.default_rng(0)
    for _ in range(60):
        actions = [int(rng.choice(np.flatnonzero(o["action_mask"]))) if o["action_mask"].any() else 0 for o in obs]
        obs, rewards, terminated, _, infos = env.step(actions)
        assert all(env.observation_space.contains(o) for o in obs)
        if any(terminated):
            num_games += 1
            rewards_at_end.append(rewards)
        else:
            assert sum(info["is_active"] for info in infos) == 1, "one player at a time"
    assert num_games >= 5 and any(rewards == [1, -1] for rewards in rewards_at_end)
    env.close()


def test_action_mask_reaches_the_observation_dict() -> None:
    env = NonBatchedVecEnv(PettingZooParallelEnv(ParallelGame()))
    obs, _ = env.reset()
    assert isinstance(env.observation_space, spaces.Dict) and obs[0]["action_mask"].tolist() == [1, 1, 1]

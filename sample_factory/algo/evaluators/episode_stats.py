"""Episode accounting of an evaluation: what finished, how good it was, and what an evaluation returns."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, SupportsIndex, overload

import numpy as np

from sample_factory.utils.typing import StatusCode

# Console lines average over this many recent episodes of an agent; results cover all episodes.
REPORT_WINDOW = 100


class EvaluationOutcome(int):
    """Result of `enjoy`: unpacks as ``(status, average_reward)`` and is the status for ``sys.exit``.

    Scripts written for Sample Factory both unpack the result and pass it to ``sys.exit`` unopened. A tuple would make
    Python exit with code 1 after a successful evaluation, so the pair is an integer that behaves like a pair.
    """

    average_reward: float

    def __new__(cls, status: StatusCode, average_reward: float) -> EvaluationOutcome:
        outcome = super().__new__(cls, status)
        outcome.average_reward = average_reward
        return outcome

    @property
    def status(self) -> StatusCode:
        return int(self)

    def _pair(self) -> tuple[StatusCode, float]:
        return int(self), self.average_reward

    def __iter__(self) -> Iterator[Any]:
        return iter(self._pair())

    def __len__(self) -> int:
        return 2

    @overload
    def __getitem__(self, index: SupportsIndex) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Any, ...]: ...
    def __getitem__(self, index: SupportsIndex | slice) -> Any:
        return self._pair()[index]

    def __eq__(self, other: object) -> bool:
        if isinstance(other, (tuple, EvaluationOutcome)):
            return self._pair() == tuple(other)
        return int(self) == other

    def __hash__(self) -> int:
        return hash(int(self))

    def __reduce__(self) -> tuple[Any, ...]:
        return EvaluationOutcome, self._pair()

    def __repr__(self) -> str:
        return repr(self._pair())

    __str__ = __repr__


class EpisodeStats:
    """Rewards of the episodes of `num_agents` agents.

    An episode *counts* (towards the episode limit, with its *score*) when an agent is done, or, with
    `use_record_episode_statistics`, when Gymnasium's wrapper of that name reports the end of a whole game, which may
    consist of several lives. Rewards are stored for every done agent in both cases.
    """

    def __init__(self, num_agents: int, use_record_episode_statistics: bool) -> None:
        self.use_record_episode_statistics = use_record_episode_statistics
        self.num_agents = num_agents
        self.running_reward = np.zeros(num_agents)
        self.recent_rewards: list[deque[float]] = [deque(maxlen=REPORT_WINDOW) for _ in range(num_agents)]
        self.recent_true_objectives: list[deque[float]] = [deque(maxlen=REPORT_WINDOW) for _ in range(num_agents)]
        self.rewards: list[float] = []
        self.true_objectives: list[float] = []
        self.scores: list[float] = []
        self._finished_since_report = np.zeros(num_agents, dtype=bool)

    @property
    def num_episodes(self) -> int:
        """Episodes that count."""
        return len(self.scores)

    @property
    def average_reward(self) -> float:
        """Mean over all stored episodes; NaN if none finished."""
        return float(np.mean(self.rewards)) if self.rewards else float("nan")

    def add_step(self, rewards: np.ndarray, dones: np.ndarray, infos: Any) -> None:
        """One environment step: `rewards` and `dones` [A], `infos` a list of dicts or a dict of values over agents."""
        self.running_reward += rewards
        for agent_idx in np.flatnonzero(dones):
            self._finish_episode(int(agent_idx), infos)

    def pop_report(self) -> str | None:
        """Averages as a line of text, once every agent finished at least one episode since the last report."""
        if not self._finished_since_report.all():
            return None
        self._finished_since_report[:] = False
        return (
            f"Avg episode rewards: {_per_agent(self.recent_rewards)}, "
            f"true rewards: {_per_agent(self.recent_true_objectives)}\n"
            f"Avg episode reward: {_mean_of(self.recent_rewards):.3f}, "
            f"avg true_objective: {_mean_of(self.recent_true_objectives):.3f}"
        )

    def _finish_episode(self, agent_idx: int, infos: Any) -> None:
        reward = float(self.running_reward[agent_idx])
        self.running_reward[agent_idx] = 0.0
        info = agent_info(infos, agent_idx, self.num_agents)
        true_objective = float(info.get("true_objective", reward))
        self.rewards.append(reward)
        self.true_objectives.append(true_objective)
        self.recent_rewards[agent_idx].append(reward)
        self.recent_true_objectives[agent_idx].append(true_objective)
        self._finished_since_report[agent_idx] = True

        if not self.use_record_episode_statistics:
            self.scores.append(true_objective)
        elif "episode" in info:
            self.scores.append(float(np.asarray(info["episode"]["r"]).reshape(-1)[0]))


def agent_info(infos: Any, agent_idx: int, num_agents: int) -> Mapping[str, Any]:
    """The info dict of one agent; vectorised environments give one dict whose values run over agents."""
    if isinstance(infos, (list, tuple)):
        return infos[agent_idx]
    return {key: _agent_value(value, agent_idx, num_agents) for key, value in infos.items()}


def _agent_value(value: Any, agent_idx: int, num_agents: int) -> Any:
    if isinstance(value, Mapping):
        return {key: _agent_value(v, agent_idx, num_agents) for key, v in value.items()}
    if hasattr(value, "shape") and len(value.shape) > 0 and value.shape[0] == num_agents:
        return value[agent_idx]
    return value


def _per_agent(windows: Sequence[deque[float]]) -> str:
    return ", ".join(f"#{agent_idx}: {np.mean(window):.3f}" for agent_idx, window in enumerate(windows))


def _mean_of(windows: Sequence[deque[float]]) -> float:
    return float(np.mean([np.mean(window) for window in windows]))

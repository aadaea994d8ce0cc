"""What the runner hears: messages of all components, sorted into metrics, summaries and the handlers of users."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from signal_slot.signal_slot import EventLoop, EventLoopObject

from sample_factory.algo.runners.summaries import SummaryReporter
from sample_factory.algo.sampling.stats import (
    samples_stats_handler,
    stats_msg_handler,
    time_shares_msg_handler,
    timing_msg_handler,
)
from sample_factory.algo.utils.misc import (
    CURRICULUM_STATS,
    EPISODIC,
    FAULTS,
    LEARNER_ENV_STEPS,
    SAMPLES_COLLECTED,
    STATS_KEY,
    TIME_SHARES,
    TIMING_STATS,
    TRAIN_STATS,
)
from sample_factory.algo.utils.run_metrics import FPS_WINDOWS_REPORTS, RunMetrics
from sample_factory.utils.typing import Config, PolicyID

if TYPE_CHECKING:
    from sample_factory.algo.runners.runner import Runner

MsgHandler = Callable[["Runner", dict], None]
PolicyMsgHandler = Callable[["Runner", dict, PolicyID], None]


class MessageHub(EventLoopObject):
    """Base of the runner: owns the numbers of a run and the registry of message handlers."""

    summaries: SummaryReporter

    def __init__(self, event_loop: EventLoop, name: str, cfg: Config) -> None:
        super().__init__(event_loop, name)
        self.metrics = RunMetrics(cfg.num_policies, cfg.stats_avg)
        self.msg_handlers: dict[str, list[MsgHandler]] = {
            TIMING_STATS: [timing_msg_handler],
            STATS_KEY: [stats_msg_handler],
            TIME_SHARES: [time_shares_msg_handler],
            FAULTS: [_faults_handler],
        }
        self.policy_msg_handlers: dict[str, list[PolicyMsgHandler]] = {
            LEARNER_ENV_STEPS: [_learner_steps_handler],
            EPISODIC: [_episodic_stats_handler],
            TRAIN_STATS: [_train_stats_handler],
            CURRICULUM_STATS: [_curriculum_stats_handler],
            SAMPLES_COLLECTED: [samples_stats_handler],
        }

    # --- numbers, at the names scripts use ---

    @property
    def env_steps(self) -> dict[PolicyID, int]:
        return self.metrics.env_steps

    @property
    def env_steps_since_resume(self) -> dict[PolicyID, int]:
        """Of each policy, since its first report."""
        return self.metrics.env_steps_since_resume

    @property
    def total_env_steps_since_resume(self) -> int:
        """Of all policies; 0 before they have reported."""
        return self.metrics.frames_since_resume()

    @property
    def samples_collected(self) -> list[int]:
        return self.metrics.samples_collected

    @property
    def policy_avg_stats(self) -> dict[str, list[deque]]:
        return self.metrics.policy_avg_stats

    @property
    def policy_lag(self) -> list[dict[str, float]]:
        return self.metrics.policy_lag

    @property
    def stats(self) -> dict[str, float]:
        return self.metrics.stats

    @property
    def avg_stats(self) -> dict[str, deque]:
        return self.metrics.avg_stats

    @property
    def avg_stats_intervals(self) -> tuple[int, ...]:
        """Over how many reports each number of ``fps`` is taken."""
        return FPS_WINDOWS_REPORTS

    @property
    def fps_stats(self) -> deque[tuple[float, int]]:
        """Time of each report, and the env steps of all policies since resume at that time."""
        return self.metrics.frames_history

    @property
    def throughput_stats(self) -> list[deque[tuple[float, int]]]:
        """For each policy: time of each report, and the samples collected at that time."""
        return self.metrics.samples_history

    # --- registration ---

    def register_msg_handler(self, key: str, func: MsgHandler) -> None:
        """``func(runner, msg)`` for every message that has this key, besides the built-in handlers."""
        self.msg_handlers.setdefault(key, []).append(func)

    def register_policy_msg_handler(self, key: str, func: PolicyMsgHandler) -> None:
        """``func(runner, msg, policy_id)`` for every message of a policy that has this key."""
        self.policy_msg_handlers.setdefault(key, []).append(func)

    def register_episodic_stats_handler(self, func: PolicyMsgHandler) -> None:
        self.register_policy_msg_handler(EPISODIC, func)

    # --- messages ---

    def _process_msg(self, msgs: dict | list | tuple) -> None:
        """Slot for ``report_msg`` of all components."""
        for msg in [msgs] if isinstance(msgs, dict) else msgs:
            for key in msg:
                for handler in self.msg_handlers.get(key, ()):
                    handler(self, msg)  # type: ignore[arg-type]
                if "policy_id" in msg:
                    for policy_handler in self.policy_msg_handlers.get(key, ()):
                        policy_handler(self, msg, msg["policy_id"])  # type: ignore[arg-type]


def _faults_handler(runner: Runner, msg: dict) -> None:
    runner.faults.update(msg[FAULTS])


def _learner_steps_handler(runner: Runner, msg: dict, policy_id: PolicyID) -> None:
    runner.metrics.add_env_steps(policy_id, msg[LEARNER_ENV_STEPS])


def _episodic_stats_handler(runner: Runner, msg: dict, policy_id: PolicyID) -> None:
    runner.metrics.add_episodic_stats(policy_id, msg[EPISODIC])


def _train_stats_handler(runner: Runner, msg: dict, policy_id: PolicyID) -> None:
    runner.metrics.add_train_stats(policy_id, msg[TRAIN_STATS])
    runner.summaries.write_train_stats(policy_id, msg[TRAIN_STATS])


def _curriculum_stats_handler(runner: Runner, msg: dict, policy_id: PolicyID) -> None:
    runner.summaries.write_stats(policy_id, msg[CURRICULUM_STATS])

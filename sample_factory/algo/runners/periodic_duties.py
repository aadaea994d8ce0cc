"""What the runner does every few seconds: report, write summaries, ask learners to save, tell environments."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from signal_slot.signal_slot import signal

from sample_factory.algo.runners.heartbeats import Heartbeats
from sample_factory.algo.runners.message_hub import MessageHub
from sample_factory.algo.runners.summaries import SummaryReporter
from sample_factory.algo.utils.periodic_timer import PeriodicTimer
from sample_factory.algo.utils.poll_loop import PollingEventLoop
from sample_factory.algo.utils.run_metrics import Rates
from sample_factory.utils.logging import log
from sample_factory.utils.typing import Config, PolicyID

if TYPE_CHECKING:
    from sample_factory.algo.runners.runner import Runner


class RunView(Protocol):
    """What shows the progress of a run to a person."""

    def start(self) -> None: ...

    def report(self, runner: Runner, rates: Rates) -> None: ...

    def finish(self, runner: Runner, rates: Rates) -> None:
        """The last state of the run, to be left on the screen."""

    def stop(self) -> None: ...


class PeriodicDuties(MessageHub):
    """Base of the runner: timers and what they trigger. How a run starts and ends is the runner's own business."""

    cfg: Config
    heartbeats: Heartbeats
    summaries: SummaryReporter

    def __init__(self, event_loop: PollingEventLoop, name: str, cfg: Config) -> None:
        super().__init__(event_loop, name, cfg)
        self.view: RunView | None = None
        self.fps: tuple[float, ...] = ()
        self.rates = Rates((math.nan,), {})
        self.reward_shaping: list[dict | None] = [None] * cfg.num_policies
        self.report_interval_sec = 5.0
        self.update_training_info_every_sec = 5.0
        self.timers: list[PeriodicTimer] = []
        self._is_metric_checked = False
        self.start_time = time.time()
        self._training_since = self.start_time

    @property
    def total_train_seconds(self) -> float:
        """Seconds since training started, which ``--train_for_seconds`` limits; before that, since ``start_time``."""
        return time.time() - self._training_since

    # --- signals ---

    @signal
    def save_periodic(self) -> None: ...

    @signal
    def save_best(self) -> None: ...

    @signal
    def save_milestone(self) -> None: ...

    @signal
    def update_training_info(self) -> None: ...

    def _create_timers(self) -> None:
        cfg = self.cfg
        self._add_timer(self.report_interval_sec, self._report)
        self._add_timer(cfg.experiment_summaries_interval, self._write_summaries)
        self._add_timer(cfg.save_every_sec, self._save_periodic)
        self._add_timer(cfg.save_best_every_sec, self._save_best_policies)
        if cfg.save_milestones_sec > 0:
            self._add_timer(cfg.save_milestones_sec, self._save_milestones)
        self._add_timer(self.update_training_info_every_sec, self._propagate_training_info)
        self._add_timer(cfg.heartbeat_reporting_interval, self._check_heartbeats)
        self._add_timer(1.0, self._check_deadlines)

    def _add_timer(self, interval_sec: float, slot: Callable[[], None]) -> None:
        timer = PeriodicTimer(self.event_loop, interval_sec)
        timer.timeout.connect(slot)
        self.timers.append(timer)

    # --- periodic work ---

    def _report(self) -> None:
        self.rates = self.metrics.tick()
        self.fps = self.rates.fps
        if self.view is not None:
            self.view.report(self, self.rates)  # type: ignore[arg-type]

    def _stop_view(self) -> None:
        """With the numbers of the end: up to five seconds have passed since the last report."""
        if self.view is None:
            return
        try:
            self.view.finish(self, self.metrics.tick())  # type: ignore[arg-type]
        except Exception as exc:  # there are processes to be stopped, whatever the display does
            log.warning(f"The last report could not be shown: {type(exc).__name__}: {exc}")
        self.view.stop()

    def _write_summaries(self) -> None:
        self.summaries.write(self.rates, lambda *args: self._call_observers("extra_summaries", *args))

    def _save_periodic(self) -> None:
        self.save_periodic.emit()

    def _save_milestones(self) -> None:
        self.save_milestone.emit()

    def _save_best_policies(self) -> None:
        """Offer each policy's score to its learner, which saves it if it is the best so far."""
        if len(self.env_steps) < self.cfg.num_policies:
            return
        metric = self.cfg.save_best_metric
        self._warn_of_unknown_metric(metric)
        for policy_id, env_steps in self.env_steps.items():
            value = self.metrics.mean(metric, policy_id)
            if env_steps >= self.cfg.save_best_after and value is not None:
                self.save_best.emit(policy_id, metric, value)

    def _warn_of_unknown_metric(self, metric: str) -> None:
        known = self.metrics.policy_avg_stats
        if self._is_metric_checked or not known:
            return
        self._is_metric_checked = True
        if metric not in known:
            log.warning(
                f"--save_best_metric={metric}: no episode has reported it so far, and no best policy is saved without "
                f"it; episodes report {', '.join(sorted(known))}"
            )

    def update_reward_shaping(self, policy_id: PolicyID, reward_shaping: dict | None) -> None:
        self.reward_shaping[policy_id] = reward_shaping
        self._propagate_training_info()

    def _propagate_training_info(self) -> None:
        info = {
            policy_id: {
                "policy_id": policy_id,
                "approx_total_training_steps": self.env_steps.get(policy_id, 0),
                "reward_shaping": self.reward_shaping[policy_id],
            }
            for policy_id in range(self.cfg.num_policies)
        }
        self.update_training_info.emit(info)

    def _check_heartbeats(self) -> None:
        self._stop_if_stalled(self.heartbeats.check())

    def _check_deadlines(self) -> None:
        self._stop_if_done()
        self._stop_if_stalled(self.heartbeats.check_startup())

    # --- decided by the runner ---

    def _call_observers(self, hook: str, *args: Any) -> None:
        raise NotImplementedError

    def _stop_if_done(self) -> None:
        raise NotImplementedError

    def _stop_if_stalled(self, problem: str | None) -> None:
        raise NotImplementedError

"""Who has been heard of lately. Deaths are the supervisor's business; this is about components that hang."""

from __future__ import annotations

import time
from collections import defaultdict

from sample_factory.utils.utils import debug_log_every_n, log

_LONG_QUEUE = 5


class Heartbeats:
    """Last-seen times per component type and id; the first life sign of all must come within the start-up time."""

    def __init__(
        self, expected: list[tuple[str, str]], reporting_interval_sec: float, startup_timeout_sec: float
    ) -> None:
        self._interval_sec = reporting_interval_sec
        self._startup_timeout_sec = startup_timeout_sec
        self._created = time.time()
        self._last_seen: dict[str, dict[str, float | None]] = defaultdict(dict)
        for component_type, object_id in expected:
            self._last_seen[component_type][object_id] = None

    def receive(self, component_type: type, object_id: str, process_name: str, queue_size: int) -> None:
        """Slot for the ``heartbeat`` signal of all components."""
        seen = self._last_seen[component_type.__name__]
        previous, seen[object_id] = seen.get(object_id), time.time()
        if previous is None:
            log.info(f"Heartbeat connected on {object_id}")
        elif time.time() - previous > self._interval_sec:
            log.info(f"Heartbeat reconnected after {int(time.time() - previous)} seconds from {object_id}")
        if queue_size > _LONG_QUEUE:
            debug_log_every_n(50, f"{process_name} has a queue of {queue_size} messages")

    def forget(self, object_id: str) -> None:
        """This component has stopped."""
        for seen in self._last_seen.values():
            seen.pop(object_id, None)

    def _not_started(self) -> list[str]:
        return [o for seen in self._last_seen.values() for o, t in seen.items() if t is None]

    def check_startup(self) -> str | None:
        """Why the run cannot go on: components that have never been heard of although they had time enough."""
        waited = time.time() - self._created
        not_started = self._not_started() if waited > self._startup_timeout_sec else []
        if not not_started:
            return None
        return (
            f"components {', '.join(not_started)} did not start within {waited:.0f} seconds "
            f"(--startup_timeout={self._startup_timeout_sec:g})"
        )

    def check(self) -> str | None:
        """Log who is silent; returns why the run cannot go on, if it cannot."""
        now = time.time()
        not_started = self._not_started()
        if not_started:
            waited = now - self._created
            log.debug(f"Components not started: {', '.join(not_started)}, wait_time={waited:.1f} seconds")
        for component_type, seen in self._last_seen.items():
            silent = [o for o, t in seen.items() if t is not None and now - t > self._interval_sec]
            if silent:
                log.error(f"No heartbeat for components: {', '.join(silent)}")
            if silent and len(silent) == len(seen):
                return f"all components of type {component_type} have stopped responding"
        return None

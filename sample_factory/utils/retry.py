"""Trying again: functions that fail now and then, queues that are full or empty for a while."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from queue import Empty, Full
from typing import Any, TypeVar

from sample_factory.utils.logging import log

F = TypeVar("F", bound=Callable[..., Any])

MAX_SLEEP_SEC = 10.0


def retry(
    times: int,
    exceptions: type[BaseException] | tuple[type[BaseException], ...],
    sleep: Callable[[float], None] = time.sleep,
) -> Callable[[F], F]:
    """Decorator: call up to `times` times while `exceptions` are raised, then one last time unguarded.

    Between the calls it sleeps min(2**attempt, 10) seconds.
    """

    def decorator(func: F) -> F:
        @functools.wraps(func)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            for attempt in range(times):
                try:
                    return func(*args, **kwargs)
                except exceptions as exc:
                    log.warning("%s failed (attempt %d of %d): %r", func.__name__, attempt + 1, times + 1, exc)
                    sleep(min(2.0**attempt, MAX_SLEEP_SEC))
            return func(*args, **kwargs)

        return wrapper  # type: ignore[return-value]

    return decorator


def safe_get(q: Any, timeout: float = 1e6, msg: str = "Queue timeout") -> Any:
    """Next item of the queue; logs `msg` each time `timeout` seconds pass without one and goes on waiting."""
    while True:
        try:
            return q.get(timeout=timeout)
        except Empty:
            log.warning(msg)


def safe_put(q: Any, msg: Any, attempts: int = 3, queue_name: str = "") -> bool:
    """Put one item; returns False (with an error in the log) if the queue stayed full."""
    return _put_patiently(lambda: q.put(msg), attempts, queue_name)


def safe_put_many(q: Any, msgs: Sequence[Any], attempts: int = 3, queue_name: str = "") -> bool:
    """Put a list of items at once; returns False (with an error in the log) if the queue stayed full."""
    return _put_patiently(lambda: q.put_many(msgs), attempts, queue_name)


def _put_patiently(put: Callable[[], Any], attempts: int, queue_name: str) -> bool:
    for attempt in range(attempts):
        try:
            put()
            return True
        except Full:
            log.warning("Could not put a message into queue %r, attempt %d of %d", queue_name, attempt + 1, attempts)
    log.error("Queue %r is full, its reader is too slow or dead: the message is lost", queue_name)
    return False

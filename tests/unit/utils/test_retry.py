from __future__ import annotations

import queue

import pytest

from sample_factory.utils.utils import retry, safe_get, safe_put, safe_put_many


class Flaky:
    __name__ = "flaky"

    def __init__(self, num_failures: int) -> None:
        self.num_failures = num_failures
        self.num_calls = 0

    def __call__(self, value: int) -> int:
        self.num_calls += 1
        if self.num_calls <= self.num_failures:
            raise ValueError("not yet")
        return value


def test_retries_with_growing_pauses():
    pauses: list[float] = []
    flaky = Flaky(5)
    assert retry(5, ValueError, sleep=pauses.append)(flaky)(7) == 7
    assert pauses == [1, 2, 4, 8, 10]


def test_the_last_attempt_is_not_guarded():
    flaky = Flaky(100)
    with pytest.raises(ValueError, match="not yet"):
        retry(2, (ValueError, KeyError), sleep=lambda _: None)(flaky)(7)
    assert flaky.num_calls == 3


def test_other_exceptions_pass_at_once():
    flaky = Flaky(1)
    with pytest.raises(ValueError):
        retry(5, KeyError, sleep=lambda _: None)(flaky)(7)
    assert flaky.num_calls == 1


class ManyQueue(queue.Queue):
    def __init__(self, maxsize: int = 0) -> None:
        super().__init__(maxsize)

    def put(self, item, block=False, timeout=None):
        super().put(item, block, timeout)

    def put_many(self, items):
        for item in items:
            self.put(item)


def test_queues():
    q = ManyQueue(maxsize=2)
    assert safe_put(q, 1) and not safe_put_many(q, [2, 3], queue_name="small")
    assert (safe_get(q), safe_get(q)) == (1, 2)


def test_safe_get_goes_on_waiting():
    class LateQueue:
        num_calls = 0

        def get(self, timeout):
            self.num_calls += 1
            if self.num_calls < 3:
                raise queue.Empty
            return "late"

    assert safe_get(LateQueue(), timeout=0.01) == "late"

"""Timers of the runner."""

from __future__ import annotations

from signal_slot import signal_slot
from signal_slot.signal_slot import EventLoop, EventLoopObject

from sample_factory.algo.utils.periodic_timer import PeriodicTimer


class Listener(EventLoopObject):
    def __init__(self, loop):
        super().__init__(loop, "listener")
        self.num_calls = 0

    def on_timeout(self):
        self.num_calls += 1


def timer_on_a_clock(monkeypatch, interval_sec):
    """A loop with a timer, who counts its calls, and the time in seconds as a list of one."""
    now = [1000.0]
    monkeypatch.setattr(signal_slot.time, "time", lambda: now[0])
    loop = EventLoop("loop", serial_mode=True)
    listener = Listener(loop)
    PeriodicTimer(loop, interval_sec).timeout.connect(listener.on_timeout)
    return loop, listener, now


def test_q48_a_blocked_loop_does_not_make_up_for_missed_periods(monkeypatch):
    loop, listener, now = timer_on_a_clock(monkeypatch, 10.0)

    now[0] += 95.0  # nine periods went by in one long call
    for _ in range(20):
        loop.process_events()
    assert listener.num_calls == 1
    now[0] += 10.0
    for _ in range(20):
        loop.process_events()
    assert listener.num_calls == 2


def test_the_interval_zero_leaves_the_loop_time_to_sleep(monkeypatch):
    loop, listener, now = timer_on_a_clock(monkeypatch, 0)
    for _ in range(1000):
        now[0] += 0.01
        loop.process_events()
    assert 90 <= listener.num_calls <= 100

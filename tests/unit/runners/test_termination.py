"""Signals as the runner sees them; each test sends real ones to this process."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

import pytest

from sample_factory.algo.runners.termination import TerminationRequested, TerminationSignals


@pytest.fixture(autouse=True)
def nothing_is_ignored() -> Iterator[None]:
    """As in a terminal: `nohup make test`, and `make test &` in a script, start processes that ignore one of them."""
    defaults = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {sig: signal.signal(sig, handler) for sig, handler in defaults.items()}
    yield
    for sig, handler in before.items():
        signal.signal(sig, handler)


def send(*signals: signal.Signals) -> None:
    for sig in signals:
        os.kill(os.getpid(), sig)


@pytest.mark.parametrize(
    ("sig", "code"), [(signal.SIGINT, 2), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=["int", "term", "hup"]
)
def test_first_signal_decides_the_exit_code(sig, code):
    with TerminationSignals() as signals:
        assert not signals.stop_requested()
        send(sig, signal.SIGTERM, signal.SIGHUP)
    assert signals.stop_requested() and not signals.kill_requested()
    assert (signals.status(), signals.describe()) == (code, sig.name)


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGUSR1])
def test_requeue_exit_code(sig):
    """--requeue_exit_code"""
    with TerminationSignals(requeue_exit_code=85) as signals:
        send(sig)
    assert signals.stop_requested() and signals.status() == 85


@pytest.mark.parametrize(("sig", "code"), [(signal.SIGINT, 2), (signal.SIGHUP, 129)])
def test_only_schedulers_requeue(sig, code):
    with TerminationSignals(requeue_exit_code=85) as signals:
        send(sig)
    assert signals.status() == code


def test_sigusr1_asks_for_one_checkpoint_each():
    with TerminationSignals() as signals:
        assert not signals.take_save_request()
        send(signal.SIGUSR1)
        assert signals.take_save_request() and not signals.take_save_request()
        send(signal.SIGUSR1)
        assert signals.take_save_request() and not signals.stop_requested()
        send(signal.SIGTERM)
    assert signals.status() == 143


def test_second_ctrl_c_gives_up_waiting():
    with TerminationSignals() as signals:
        send(signal.SIGINT, signal.SIGTERM)
        assert not signals.kill_requested()
        send(signal.SIGINT)
    assert signals.kill_requested() and signals.status() == 2


def test_preparation_is_interrupted_once():
    with TerminationSignals() as signals:
        cleaned_up = False
        with pytest.raises(TerminationRequested, match="SIGTERM"), signals.raising():
            try:
                send(signal.SIGTERM)
                raise AssertionError("not reached")
            finally:
                send(signal.SIGHUP)
                cleaned_up = True
        assert cleaned_up
        send(signal.SIGTERM)  # afterwards signals are only recorded
    assert signals.status() == 143


def test_signal_that_was_swallowed_is_raised_at_the_end():
    signals = TerminationSignals()
    with (
        signals,
        pytest.raises(TerminationRequested),
        signals.raising(),
        contextlib.suppress(TerminationRequested),  # as a destructor or a callback of a C library would do
    ):
        send(signal.SIGTERM)


def test_signal_before_the_preparation_ends_it_at_once():
    with TerminationSignals() as signals:
        send(signal.SIGINT)
        with pytest.raises(TerminationRequested), signals.raising():
            raise AssertionError("not reached")


def test_handlers_are_put_back_by_the_outermost():
    before = signal.getsignal(signal.SIGTERM)
    signals = TerminationSignals()
    with signals:
        with signals:
            pass
        send(signal.SIGTERM)
    assert signals.received == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) is before


def test_ignored_signals_stay_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with TerminationSignals() as signals:
            send(signal.SIGHUP)
        assert signals.received == []
    finally:
        signal.signal(signal.SIGHUP, before)

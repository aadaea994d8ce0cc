"""Rows S: signals, at every moment of a run."""

from __future__ import annotations

import signal

import pytest

pytestmark = pytest.mark.multiproc


def test_S1_first_ctrl_c_saves_and_stops(start_run):
    run = start_run()
    run.wait_for_training()
    run.send(signal.SIGINT)
    assert run.finish() == 2
    run.assert_clean_end(2, "SIGINT")
    assert run.saved_env_steps() >= run.result()["env_steps"]["0"] > 0

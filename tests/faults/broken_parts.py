"""Parts of the framework that break on request, in whatever process they live: train with
``--env_module=tests.faults.broken_parts`` and ``BROKEN=part:after``. Also registers the environments of ``fault_env``.

The replacements keep the names of what they replace: slots are connected by name.

=============== =========================================================================================
part            what happens
=============== =========================================================================================
batcher         the batcher (a thread of the learner's process) raises after so many messages
learner         the learner raises in the middle of training, after so many batches
slow_learner    every training iteration takes ``after`` seconds longer; workers and batcher print what they sent and
                received when they stop
=============== =========================================================================================
"""

from __future__ import annotations

import os
import time
from functools import wraps
from typing import Any

from sample_factory.algo.learning.batcher import Batcher
from sample_factory.algo.learning.learner import Learner
from sample_factory.algo.sampling.rollout_worker import RolloutWorker
from sample_factory.envs.env_utils import register_env
from tests.faults.fault_env import make_fault_env


def make_env(*args: Any, **kwargs: Any) -> Any:
    """Of this module, so that every process imports it."""
    return make_fault_env(*args, **kwargs)


register_env("fault_env", make_env)

part, _, after = os.environ.get("BROKEN", "").partition(":")
calls = 0


def is_due() -> bool:
    global calls
    calls += 1
    return calls > float(after)


def rows_of(finished: list[Any]) -> int:
    return sum(rollouts.rows.stop - rollouts.rows.start for rollouts in finished)


if part == "batcher":
    whole_message = Batcher.on_new_trajectories

    @wraps(whole_message)
    def broken_message(self: Batcher, *args: Any) -> None:
        if is_due():
            raise ZeroDivisionError("the batcher broke")
        whole_message(self, *args)

    Batcher.on_new_trajectories = broken_message  # type: ignore[method-assign]

if part == "learner":
    whole_train = Learner.train

    @wraps(whole_train)
    def broken_train(self: Learner, batch: Any) -> Any:
        if is_due():
            raise ZeroDivisionError("the learner broke")
        return whole_train(self, batch)

    Learner.train = broken_train  # type: ignore[method-assign]

if part == "slow_learner":
    fast_train, count_sent = Learner.train, RolloutWorker._send_finished_rollouts
    stop_worker, stop_batcher, receive = RolloutWorker.on_stop, Batcher.on_stop, Batcher.on_new_trajectories
    num_rows = 0

    @wraps(fast_train)
    def slow_train(self: Learner, batch: Any) -> Any:
        time.sleep(float(after))
        return fast_train(self, batch)

    @wraps(count_sent)
    def send_and_count(self: RolloutWorker, finished: list[Any]) -> None:
        global num_rows
        num_rows += rows_of(finished)
        count_sent(self, finished)

    @wraps(receive)
    def receive_and_count(self: Batcher, finished: list[Any], device: Any) -> None:
        global num_rows
        num_rows += rows_of(finished)
        receive(self, finished, device)

    @wraps(stop_worker)
    def stop_worker_and_tell(self: RolloutWorker, *args: Any) -> None:
        print(f"rows sent: {num_rows}", flush=True)
        stop_worker(self, *args)

    @wraps(stop_batcher)
    def stop_batcher_and_tell(self: Batcher, *args: Any) -> None:
        print(f"rows received: {num_rows}", flush=True)
        stop_batcher(self, *args)

    Learner.train = slow_train  # type: ignore[method-assign]
    RolloutWorker._send_finished_rollouts = send_and_count  # type: ignore[method-assign]
    Batcher.on_new_trajectories = receive_and_count  # type: ignore[method-assign]
    RolloutWorker.on_stop = stop_worker_and_tell  # type: ignore[method-assign]
    Batcher.on_stop = stop_batcher_and_tell  # type: ignore[method-assign]

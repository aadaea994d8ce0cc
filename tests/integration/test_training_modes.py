"""Every mode of operation, with real environments and real processes."""

from __future__ import annotations

import json
import math
import re

import psutil
import pytest

from sample_factory.algo.learning.learner import Learner
from sample_factory.algo.utils.misc import ExperimentStatus
from sample_factory.algo.utils.thread_counts import (
    ThreadCounts,
    num_row_threads,
    num_threads_from_environment,
    num_usable_cores,
    set_threads,
    threads_now,
)
from tests.integration.harness import MODES, SERIAL, SYNC, CountIterations, checkpoints, experiment, result_of, train

pytestmark = pytest.mark.multiproc


@pytest.fixture(autouse=True)
def no_worker_left_behind():
    yield
    # Workers are children of the fork server, which is a child of this process.
    workers = [worker for child in psutil.Process().children() for worker in child.children()]
    _, alive = psutil.wait_procs(workers, timeout=5)
    assert not alive


def check_run(tmp_path, status, runner, num_policies=1):
    assert status == ExperimentStatus.SUCCESS, result_of(tmp_path)
    assert result_of(tmp_path)["exit_code"] == 0
    for policy_id in range(num_policies):
        assert runner.env_steps[policy_id] > 2000
        assert checkpoints(tmp_path, policy_id)
        lag = runner.policy_lag[policy_id]
        assert 0 <= lag["version_diff_min"] <= lag["version_diff_avg"] <= lag["version_diff_max"]
    assert runner.metrics.mean("reward", 0) > 0
    assert not runner.supervisor.running


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_mode_and_sampling(tmp_path, mode, batched):
    observer = CountIterations()
    status, runner = train(tmp_path, *MODES[mode], f"--batched_sampling={batched}", observer=observer)
    check_run(tmp_path, status, runner)
    assert observer.hooks == ["on_init", "on_connect_components", "on_start", "on_stop"]
    assert observer.num_iterations >= 2000 // 64


@pytest.mark.parametrize("splits", [1, 3])
def test_number_of_splits(tmp_path, splits):
    status, runner = train(tmp_path, f"--worker_num_splits={splits}", "--num_envs_per_worker=6")
    check_run(tmp_path, status, runner)
    assert len(runner.sampler.rollout_workers) == 2


def test_synchronous_training_is_on_policy(tmp_path):
    status, runner = train(tmp_path, *SYNC)
    check_run(tmp_path, status, runner)
    assert runner.policy_lag[0]["version_diff_max"] == 0


@pytest.mark.parametrize("mode", ["async", "sync", "serial_sync"])
@pytest.mark.parametrize(
    "model",
    [
        ("--rnn_type=gru",),
        ("--rnn_type=lstm", "--rnn_num_layers=2"),
        ("--rnn_type=gru", "--actor_critic_share_weights=False"),
        ("--rnn_type=lstm", "--with_vtrace=True", "--normalize_returns=False", "--actor_critic_share_weights=False"),
    ],
)
def test_recurrent_models(tmp_path, mode, model):
    status, runner = train(tmp_path, *MODES[mode], "--use_rnn=True", *model)
    check_run(tmp_path, status, runner)


@pytest.mark.skipif(num_threads_from_environment() is not None, reason="OMP_NUM_THREADS asks for something else")
def test_learner_shares_rows_among_threads(tmp_path):
    large = ("--use_rnn=True", "--rnn_size=512", "--rollout=16", "--recurrence=16", "--batch_size=256")
    status, _ = train(tmp_path, *large, "--num_envs_per_worker=8", "--train_for_env_steps=2000")
    assert status == ExperimentStatus.SUCCESS
    console = (experiment(tmp_path) / "sf_log.txt").read_text()
    found = re.search(r"torch uses (\d+) threads, rows are shared by (\d+)\n", console)
    assert found is not None
    of_operations, sharing_rows = map(int, found.groups())
    # On a machine with many cores there are some left for threads of operations.
    assert sharing_rows == (num_row_threads(num_usable_cores(), learners=1) if of_operations == 1 else 1)
    assert checkpoints(tmp_path)


def test_small_models_have_one_thread_in_serial_mode_and_the_process_its_own_afterwards(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before, seen = threads_now(), set()
    plain_train = Learner.train
    monkeypatch.setattr(Learner, "train", lambda *args: (seen.add(threads_now()), plain_train(*args))[1])
    try:
        set_threads(ThreadCounts(3, 1))
        status, _ = train(tmp_path, *SERIAL, "--train_for_env_steps=500")
        assert status == ExperimentStatus.SUCCESS
        assert seen == {ThreadCounts(1, num_row_threads(num_usable_cores(), learners=1))}
        assert threads_now() == (3, 1)
    finally:
        set_threads(before)


@pytest.mark.parametrize("mode", ["async", "serial_sync"])
def test_several_epochs_and_shuffled_minibatches(tmp_path, mode):
    extra = ("--num_batches_per_epoch=2", "--num_epochs=2", "--shuffle_minibatches=True", "--batch_size=32")
    status, runner = train(tmp_path, *MODES[mode], *extra)
    check_run(tmp_path, status, runner)
    train_step, env_steps = map(int, checkpoints(tmp_path)[-1].stem.split("_")[1:])
    assert train_step == env_steps // 32 * 2


@pytest.mark.parametrize("mode", ["async", "serial_async"])
def test_several_inference_workers(tmp_path, mode):
    status, runner = train(tmp_path, *MODES[mode], "--policy_workers_per_policy=2")
    check_run(tmp_path, status, runner)
    assert len(runner.sampler.inference_workers[0]) == 2


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_two_policies(tmp_path, mode, batched):
    extra = ("--num_policies=2", f"--batched_sampling={batched}")
    batch = () if "sync" not in mode or "async" in mode else ("--batch_size=32",)
    status, runner = train(tmp_path, *MODES[mode], *extra, *batch)
    check_run(tmp_path, status, runner, num_policies=2)


def test_continuous_actions(tmp_path):
    status, runner = train(tmp_path, "--adaptive_stddev=False", env="Pendulum-v1")
    assert status == ExperimentStatus.SUCCESS
    assert runner.metrics.mean("len", 0) in (None, 200.0)


def test_observers_handlers_and_summaries(tmp_path):
    """Q14: user handlers are added to the built-in ones."""
    from sample_factory.algo.runners.runner import AlgoObserver

    seen = {"stats": 0, "episodic": 0, "summaries": []}

    class Observer(AlgoObserver):
        def on_init(self, runner):
            runner.register_msg_handler("stats", lambda runner, msg: seen.update(stats=seen["stats"] + 1))
            runner.register_episodic_stats_handler(
                lambda runner, msg, policy_id: seen.update(episodic=seen["episodic"] + 1)
            )

        def extra_summaries(self, runner, policy_id, writer, env_steps):
            seen["summaries"].append((policy_id, env_steps))
            writer.add_scalar("custom/value", 1.0, env_steps)

    status, runner = train(tmp_path, *SERIAL, observer=Observer())
    check_run(tmp_path, status, runner)
    assert seen["stats"] > 0 and seen["episodic"] > 0
    assert seen["summaries"][-1] == (0, runner.env_steps[0])


def test_files_of_an_experiment(tmp_path):
    status, runner = train(tmp_path)
    check_run(tmp_path, status, runner)
    directory = experiment(tmp_path)
    config = json.loads((directory / "config.json").read_text())
    assert config["env"] == "CartPole-v1" and config["recurrence"] == 1
    assert config["cli_args"]["rollout"] == 8
    assert (directory / "sf_log.txt").stat().st_size > 0
    assert list((directory / ".summary" / "0").glob("events.out.tfevents.*"))
    train_step, env_steps = map(int, checkpoints(tmp_path)[-1].stem.split("_")[1:])
    assert env_steps == runner.env_steps[0] and train_step == math.ceil(env_steps / 64)


def test_resume_continues_the_counts_exactly(tmp_path):
    status, first = train(tmp_path)
    steps_before = first.env_steps[0]
    status, second = train(tmp_path, "--train_for_env_steps=4000")
    assert status == ExperimentStatus.SUCCESS
    assert second.env_steps[0] - second.total_env_steps_since_resume == steps_before
    assert second.env_steps[0] > 4000
    train_step, env_steps = map(int, checkpoints(tmp_path)[-1].stem.split("_")[1:])
    assert env_steps == train_step * 64


def test_q03_short_runs_have_reward_curves(tmp_path):
    """A few episodes in a few seconds are enough; the window of 100 episodes need not be full."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    status, runner = train(tmp_path, *SERIAL, "--train_for_env_steps=1000")
    assert status == ExperimentStatus.SUCCESS
    assert 0 < len(runner.policy_avg_stats["reward"][0]) < 100
    events = EventAccumulator(str(experiment(tmp_path) / ".summary" / "0"))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert {"reward/reward", "reward/reward_min", "len/len_max", "policy_stats/avg_true_objective"} <= tags
    assert {"train/loss", "train/entropy", "train/kl_divergence", "train/version_diff_avg"} <= tags
    assert {"stats/master_process_memory_mb", "stats/memory_learner"} <= tags


def test_q15_extra_summaries_is_declared_as_it_is_called():
    import inspect

    from sample_factory.algo.runners.runner import AlgoObserver

    assert list(inspect.signature(AlgoObserver.extra_summaries).parameters)[1:] == [
        "runner",
        "policy_id",
        "writer",
        "env_steps",
    ]


@pytest.mark.parametrize("hook", ["on_start", "on_training_step", "on_stop"])
@pytest.mark.parametrize("mode", ["async", "serial_sync"])
def test_raising_observer_ends_the_run(tmp_path, mode, hook):
    class Raises(CountIterations):
        pass

    def raise_error(self, *args):
        raise LookupError("a mistake of the user")

    setattr(Raises, hook, raise_error)
    status, runner = train(tmp_path, *MODES[mode], observer=Raises())
    assert status == ExperimentStatus.FAILURE
    assert result_of(tmp_path)["cause"] == "LookupError: a mistake of the user"
    assert not runner.supervisor.running
    if hook != "on_start":
        assert checkpoints(tmp_path)

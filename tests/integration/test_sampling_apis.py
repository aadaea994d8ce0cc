"""Sampling without a learner: trajectories on demand and fast evaluation."""

from __future__ import annotations

import csv
import threading

import pytest

from sample_factory.algo.sampling.evaluation_sampling_api import EvalSamplingAPI
from sample_factory.algo.sampling.sync_sampling_api import SyncSamplingAPI
from sample_factory.algo.utils.env_info import obtain_env_info_in_a_separate_process
from sample_factory.algo.utils.misc import ExperimentStatus
from sample_factory.algo.utils.rl_utils import samples_per_trajectory
from sample_factory.cfg.arguments import checkpoint_override_defaults, parse_full_cfg, parse_sf_args
from sample_factory.envs.env_resolution import resolve_env
from sample_factory.eval import _write_csv, do_eval
from sample_factory.utils.attr_dict import AttrDict
from tests.integration.harness import SERIAL, SYNC, TINY, experiment, parse, train

pytestmark = pytest.mark.multiproc


def sample(cfg, num_samples: int):
    resolve_env(cfg)
    api = SyncSamplingAPI(cfg, obtain_env_info_in_a_separate_process(cfg))
    api.start()
    trajectories, collected = [], 0
    while collected < num_samples:
        trajectory = api.get_trajectories_sync()
        assert trajectory is not None, "the sampler ended by itself"
        collected += samples_per_trajectory(trajectory)
        trajectories.append(trajectory)
    assert api.stop() == ExperimentStatus.SUCCESS
    return trajectories


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("mode", [(), ("--inference_placement=separate",), SERIAL])  # serial without a learner: Q21
def test_q21_trajectories_on_demand(tmp_path, mode, batched):
    cfg = parse(tmp_path, *TINY, *mode, f"--batched_sampling={batched}")
    num_rows = 2 if "--inference_placement=separate" in mode else 4  # a group of the four environments, or all
    for trajectory in sample(cfg, 500):
        assert trajectory["rewards"].shape == (num_rows, 8)
        assert trajectory["obs"]["obs"].shape == (num_rows, 9, 4)
        assert (trajectory["rewards"] == 1).all()
        assert set(trajectory["actions"].unique().tolist()) <= {0.0, 1.0}


def test_q21_two_policies(tmp_path):
    trajectories = sample(parse(tmp_path, *TINY, "--num_policies=2"), 2000)
    assert {int(p) for t in trajectories for p in t["policy_id"].unique()} == {0, 1}


def test_worker_death_ends_the_sampler_instead_of_blocking(tmp_path, monkeypatch):
    monkeypatch.setenv("FAULT", "kill:50:0")
    args = ("--env_module=tests.integration.fault_env",)
    cfg = parse(tmp_path, *TINY, *args, env="fault_env")
    resolve_env(cfg)
    api = SyncSamplingAPI(cfg, obtain_env_info_in_a_separate_process(cfg))
    api.start()
    while api.get_trajectories_sync() is not None:
        pass
    assert api.stop() == ExperimentStatus.FAILURE


def evaluate(tmp_path, *args):
    argv = ["--env=CartPole-v1", f"--train_dir={tmp_path}", "--experiment=test", "--sample_env_episodes=16", *args]
    parser, cfg = parse_sf_args(argv, evaluation=True)
    checkpoint_override_defaults(cfg, parser)
    return do_eval(parse_full_cfg(parser, argv))


@pytest.mark.parametrize(
    "args", [(), ("--batched_sampling=True",), ("--serial_mode=True",), ("--eval_deterministic=True",)]
)
def test_fast_evaluation_writes_one_row_per_episode(tmp_path, args):
    """Q20: batched mode reports the same keys; Q21: serial mode needs no learner."""
    train(tmp_path, *SERIAL, *SYNC)
    assert evaluate(tmp_path, *args) == ExperimentStatus.SUCCESS
    with open(experiment(tmp_path) / "eval_p0.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) >= 16
    assert {"", "reward", "len", "episode_number", "true_objective"} <= set(rows[0])
    # 8 environments, 2 episodes of each: none contributes more than the others.
    assert sorted({int(float(row["episode_number"])) for row in rows}) == [0, 1]
    assert len(rows) == 16
    assert all(float(row["reward"]) == float(row["len"]) for row in rows)


@pytest.mark.parametrize("args", [(), ("--serial_mode=True", "--batched_sampling=True")])
def test_fast_evaluation_of_a_population_ends(tmp_path, args):
    """No single policy plays all the episodes that the environments are allowed to contribute."""
    train(tmp_path, *SERIAL, *SYNC, "--num_policies=2")
    assert evaluate(tmp_path, "--async_rl=True", *args) == ExperimentStatus.SUCCESS
    num_episodes = []
    for policy_id in range(2):
        with open(experiment(tmp_path) / f"eval_p{policy_id}.csv") as file:
            num_episodes.append(len(list(csv.DictReader(file))))
    assert sum(num_episodes) == 2 * 16
    assert all(num > 0 for num in num_episodes)


def test_samples_are_counted_before_the_first_report_of_the_workers(tmp_path):
    """Workers report every three seconds, which is long for a fast evaluation."""
    train(tmp_path, *SERIAL, *SYNC)
    argv = ["--env=CartPole-v1", f"--train_dir={tmp_path}", "--experiment=test", *SERIAL]
    parser, cfg = parse_sf_args(argv, evaluation=True)
    checkpoint_override_defaults(cfg, parser)
    cfg = parse_full_cfg(parser, argv)
    cfg.episode_counter = True
    api = EvalSamplingAPI(cfg, obtain_env_info_in_a_separate_process(cfg))
    num_samples: list[int] = []
    has_episode = threading.Event()

    def on_episode(policy_id, stats):
        num_samples.append(api.total_samples)
        has_episode.set()

    api.sampling_loop.on_episode = on_episode
    api.init()
    api.start()
    has_episode.wait()
    assert api.stop() == ExperimentStatus.SUCCESS
    assert num_samples[0] >= cfg.rollout


def test_fast_evaluation_without_a_checkpoint_fails_with_a_message(tmp_path, caplog):
    train(tmp_path, *SERIAL)
    for file in (experiment(tmp_path) / "checkpoint_p0").iterdir():
        file.unlink()
    assert evaluate(tmp_path) == ExperimentStatus.FAILURE


def evaluated_actions(tmp_path, deterministic: bool) -> set[float]:
    """Actions of one untrained policy for one constant observation."""
    from tests.integration.masked_env import register_custom_components

    register_custom_components()
    cfg = parse(tmp_path, *TINY, *SERIAL, f"--eval_deterministic={deterministic}", env="constant_env", evaluation=True)
    return {float(a) for t in sample(cfg, 300) for a in t["actions"].unique()}


def test_q23_deterministic_evaluation_takes_the_most_likely_action(tmp_path):
    assert len(evaluated_actions(tmp_path, deterministic=True)) == 1
    assert len(evaluated_actions(tmp_path, deterministic=False)) == 3


def test_q51_statistics_of_different_lengths_share_a_table(tmp_path):
    cfg = AttrDict(train_dir=str(tmp_path), experiment="test", csv_folder_name="evaluation")
    _write_csv(cfg, {"reward": [[1.0, 2.0]], "optional": [[5.0]]}, policy_id=0)
    with open(experiment(tmp_path) / "evaluation" / "eval_p0.csv") as file:
        assert list(csv.reader(file)) == [["", "reward", "optional"], ["0", "1.0", "5.0"], ["1", "2.0", ""]]

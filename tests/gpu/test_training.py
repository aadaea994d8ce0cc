"""Real trainings on a GPU, in every arrangement of processes; what was learned shows that nothing was mixed up."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sample_factory.algo.utils.misc import ExperimentStatus
from sample_factory.enjoy import enjoy
from tests.integration.harness import SERIAL, SYNC, checkpoints, parse, result_of, train

pytestmark = [pytest.mark.multiproc, pytest.mark.timeout(180)]

GPU = ("--device=gpu", "--train_for_env_steps=60000", "--learning_rate=0.003", "--normalize_returns=False")
SIGNS = (
    "--env_module=tests.gpu.signs_env",
    "--batched_sampling=True",
    "--num_workers=1",
    "--num_envs_per_worker=1",
    "--worker_num_splits=1",
    "--batch_size=512",
    "--gamma=0.0",
)
ON_GPU = ("--actor_worker_gpus", "0", "--env_gpu_actions=True", "--env_gpu_observations=True")
MODES = {
    "separate": ("--inference_placement=separate",),
    "rollout": ("--inference_placement=rollout",),
    "sync": ("--async_rl=False", "--num_batches_per_epoch=1"),
    "serial": SERIAL,
}


@pytest.mark.parametrize("graphs", ["auto", "never"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("env", ["signs_cuda", "signs_cpu"])
def test_vectorised_environments(tmp_path: Path, env: str, mode: str, graphs: str) -> None:
    where = ON_GPU if env == "signs_cuda" else ()
    status, runner = train(tmp_path, *GPU, *SIGNS, *where, *MODES[mode], f"--cuda_graphs={graphs}", env=env)
    assert status == ExperimentStatus.SUCCESS
    rewards = list(runner.policy_avg_stats["reward"][0])[-20:]
    assert sum(rewards) / len(rewards) > 9.0  # of 10; without looking 5


@pytest.mark.parametrize("mode, flags", [("async", ()), ("sync", SYNC), ("serial", SERIAL)])
@pytest.mark.parametrize("core", [(), ("--use_rnn=True", "--recurrence=8")])
def test_ordinary_environments(tmp_path: Path, mode: str, flags: tuple[str, ...], core: tuple[str, ...]) -> None:
    args = ("--device=gpu", "--train_for_env_steps=20000", *flags, *core)
    status, _ = train(tmp_path, *args)
    assert status == ExperimentStatus.SUCCESS
    assert result_of(tmp_path)
    state = torch.load(checkpoints(tmp_path)[-1], map_location="cpu", weights_only=True)
    assert all(not value.is_cuda for value in state["model"].values())
    status, _ = enjoy(parse(tmp_path, "--device=cpu", "--no_render", "--max_num_episodes=2", evaluation=True))
    assert status == ExperimentStatus.SUCCESS


def test_two_policies_share_a_gpu(tmp_path: Path) -> None:
    status, _ = train(tmp_path, "--device=gpu", "--num_policies=2", "--train_for_env_steps=4000")
    assert status == ExperimentStatus.SUCCESS
    assert checkpoints(tmp_path, 0) and checkpoints(tmp_path, 1)

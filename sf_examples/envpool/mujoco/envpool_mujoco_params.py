"""Parameters for MuJoCo in EnvPool: what differs from ``sf_examples.mujoco.mujoco_params``."""

from __future__ import annotations

import argparse
from typing import Any

from sf_examples.envpool.envpool_utils import add_envpool_common_args
from sf_examples.mujoco.mujoco_params import mujoco_override_defaults

# Chosen here (not taken from a publication): larger networks for robots with more joints.
_PER_ENV: dict[str, dict[str, Any]] = {
    "mujoco_ant": dict(encoder_mlp_layers=[256, 128, 64]),
    "mujoco_halfcheetah": dict(encoder_mlp_layers=[256, 128, 64], num_epochs=5),
    "mujoco_humanoid": dict(encoder_mlp_layers=[512, 256, 128]),
    "mujoco_hopper": dict(encoder_mlp_layers=[64, 64], rollout=64, num_epochs=2, num_batches_per_epoch=4),
    "mujoco_walker": dict(encoder_mlp_layers=[256, 128, 64], rollout=64),
}


def add_mujoco_env_args(env: str, parser: argparse.ArgumentParser, evaluation: bool = False) -> None:
    parser.add_argument(
        "--env_agents", default=1 if evaluation else 64, type=int, help="Robots stepped together in one environment"
    )
    add_envpool_common_args(env, parser)


def mujoco_envpool_override_defaults(env: str, parser: argparse.ArgumentParser) -> None:
    mujoco_override_defaults(env, parser)
    parser.set_defaults(
        batched_sampling=True,
        num_workers=1,
        num_envs_per_worker=1,
        worker_num_splits=1,
        encoder_mlp_layers=[256, 128, 64],
        nonlinearity="elu",
        reward_scale=0.1,
        max_grad_norm=1.0,
        num_epochs=4,
        num_batches_per_epoch=2,
        batch_size=2048,
        value_loss_coeff=2.0,
        learning_rate=3e-4,
        lr_schedule="kl_adaptive_epoch",
        lr_schedule_kl_threshold=0.008,
        experiment_summaries_interval=15,
        save_best_every_sec=15,
        serial_mode=True,
    )
    parser.set_defaults(**_PER_ENV.get(env, {}))

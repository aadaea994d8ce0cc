"""Collect trajectories without a learner, for algorithms of your own.

python -m sf_examples.sampler.use_simplified_sampling_api --env=CartPole-v1 --experiment=sampling --device=cpu
"""

from __future__ import annotations

import sys
import time

from sample_factory.algo.sampling.sync_sampling_api import SyncSamplingAPI
from sample_factory.algo.utils.env_info import EnvInfo, obtain_env_info_in_a_separate_process
from sample_factory.algo.utils.rl_utils import samples_per_trajectory
from sample_factory.envs.env_resolution import resolve_env
from sample_factory.utils.typing import Config, StatusCode
from sf_examples.train_gym_env import parse_custom_args, register_custom_components

_PRINT_INTERVAL_SEC = 1.0


def generate_trajectories(cfg: Config, env_info: EnvInfo, sample_env_steps: int = 1_000_000) -> StatusCode:
    """Sample with a randomly initialised policy until ``sample_env_steps`` samples were seen; print the throughput."""
    sampler = SyncSamplingAPI(cfg, env_info)
    sampler.start()

    num_samples, start = 0, time.time()
    last_samples, last_print = 0, start
    while num_samples < sample_env_steps:
        trajectories = sampler.get_trajectories_sync()
        if trajectories is None:  # sampling has ended by itself; the status says why
            break
        num_samples += samples_per_trajectory(trajectories)
        now = time.time()
        if now - last_print >= _PRINT_INTERVAL_SEC:
            fps = (num_samples - last_samples) / (now - last_print)
            print(f"Samples collected: {num_samples}, {fps:.1f} FPS (average {num_samples / (now - start):.1f} FPS)")
            last_samples, last_print = num_samples, now
    return sampler.stop()


def main() -> StatusCode:
    register_custom_components()
    cfg = parse_custom_args()
    resolve_env(cfg)
    env_info = obtain_env_info_in_a_separate_process(cfg)
    return generate_trajectories(cfg, env_info)


if __name__ == "__main__":
    sys.exit(main())

"""Sample in an environment of the throughput benchmarks without a learner, with a policy that stays as it was created.

    python /path/to/benchmarks/sample_script.py --env=bench_pong --experiment=e --train_dir=/tmp/t ...

Prints the progress lines of a training. One program for this project and for the original, like train_script.py.
"""

from __future__ import annotations

import sys
import time

from envs import ENV_NAMES, make_env

from sample_factory.algo.utils.env_info import obtain_env_info_in_a_separate_process
from sample_factory.algo.utils.rl_utils import samples_per_trajectory
from sample_factory.cfg.arguments import parse_full_cfg, parse_sf_args
from sample_factory.envs.env_utils import register_env

try:
    from sample_factory.algo.sampling.sync_sampling_api import SyncSamplingAPI
except ModuleNotFoundError:  # its name in the published wheel of the original
    from sample_factory.algo.sampling.simplified_sampling_api import SyncSamplingAPI

_REPORT_INTERVAL_SEC = 2.0


def main() -> int:
    for name in ENV_NAMES:
        register_env(name, make_env)
    parser, _ = parse_sf_args()
    cfg = parse_full_cfg(parser)
    sampler = SyncSamplingAPI(cfg, obtain_env_info_in_a_separate_process(cfg))
    sampler.start()
    num_samples, next_report = 0, time.monotonic()
    while (trajectories := sampler.get_trajectories_sync()) is not None:
        num_samples += samples_per_trajectory(trajectories)
        if time.monotonic() >= next_report:
            next_report = time.monotonic() + _REPORT_INTERVAL_SEC
            print(f"Total num frames: {num_samples}. Policy #0 lag: (min: 0.0, avg: 0.0, max: 0.0)", flush=True)
    return 1


if __name__ == "__main__":
    sys.exit(main())

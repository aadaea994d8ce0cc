"""Microseconds per inference call: normalise, forward, sample, store.

    python -m benchmarks.inference_latency

Calls what rollout and inference workers call for one request, on one thread and on trajectory memory as they have it.
The median of batches of calls is reported. There is no opponent: the original cannot be called from outside.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from benchmarks.results_io import Row, write_result
from sample_factory.algo.sampling.actors import make_actor
from sample_factory.algo.utils.env_info import ENV_INFO_PROTOCOL_VERSION, EnvInfo
from sample_factory.algo.utils.policy_channel import PolicyRequest
from sample_factory.algo.utils.shared_buffers import BufferMgr
from sample_factory.cfg.arguments import parse_full_cfg, parse_sf_args
from sample_factory.model.actor_critic import ActorCritic, create_actor_critic
from sample_factory.utils.typing import Config

ROLLOUT = 32
VECTOR_OBS = spaces.Box(-1.0, 1.0, (4,), np.float32)
IMAGE_OBS = spaces.Box(0, 255, (4, 84, 84), np.uint8)
_CALLS_PER_SAMPLE = 20


@dataclass(frozen=True)
class Case:
    """A model and the numbers of environments to serve with one call."""

    name: str
    obs_space: spaces.Box
    num_actions: int
    flags: tuple[str, ...]
    batch_sizes: tuple[int, ...]


CASES = (
    Case("MLP 64x64", VECTOR_OBS, 2, ("--use_rnn=False", "--encoder_mlp_layers", "64", "64"), (8, 16, 32, 64, 128)),
    Case("default MLP 512x2 and GRU 512", VECTOR_OBS, 2, (), (2, 8, 32)),
    Case(
        "convnet_atari",
        IMAGE_OBS,
        6,
        ("--use_rnn=False", "--encoder_conv_architecture=convnet_atari", "--obs_scale=255"),
        (8, 32),
    ),
)


def make_cfg(flags: tuple[str, ...], num_envs: int) -> Config:
    argv = ["--env=benchmark", "--device=cpu", "--serial_mode=True", f"--rollout={ROLLOUT}", *flags]
    argv += ["--num_workers=1", f"--num_envs_per_worker={num_envs}", "--worker_num_splits=1"]
    parser, _ = parse_sf_args(argv)
    return parse_full_cfg(parser, argv)


class ModelOnly:
    """What an actor needs of a parameter client."""

    policy_version = 1

    def __init__(self, actor_critic: ActorCritic):
        self.actor_critic = actor_critic


def make_call(cfg: Config, model: ActorCritic, buffer_mgr: BufferMgr) -> Callable[[int], None]:
    """The only contact with the code under test: serve one request of a whole split at this rollout step."""
    client: Any = ModelOnly(model)
    actor = make_actor(cfg, buffer_mgr, 0, 0, client, torch.device("cpu"))

    def call(step: int) -> None:
        actor.serve([PolicyRequest(0, 0, block_idx=0, rollout_step=step, partial=False, number=1)])

    return call


def microseconds(case: Case, num_envs: int, seconds: float) -> float:
    """Median time of one call."""
    cfg = make_cfg(case.flags, num_envs)
    obs_space, action_space = spaces.Dict({"obs": case.obs_space}), spaces.Discrete(case.num_actions)
    info = EnvInfo(obs_space, action_space, 1, False, True, None, None, 1, None, ENV_INFO_PROTOCOL_VERSION)
    buffer_mgr = BufferMgr(cfg, info)
    obs = buffer_mgr.traj_tensors_torch["cpu"]["obs"]["obs"]
    obs.copy_(
        torch.randint(0, 256, obs.shape, dtype=torch.uint8) if obs.dtype == torch.uint8 else torch.randn(obs.shape)
    )
    model = create_actor_critic(cfg, obs_space, action_space).eval()
    call = make_call(cfg, model, buffer_mgr)
    samples: list[float] = []
    with torch.inference_mode():
        for step in range(ROLLOUT):  # caches, allocator
            call(step)
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or len(samples) < 5:
            start = time.perf_counter()
            for step in range(_CALLS_PER_SAMPLE):
                call(step)
            samples.append((time.perf_counter() - start) / _CALLS_PER_SAMPLE)
    return statistics.median(samples) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.0, help="length of one measurement")
    parser.add_argument("--no_write", action="store_true", help="print only")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for case in CASES:
        for num_envs in case.batch_sizes:
            value = microseconds(case, num_envs, args.seconds)
            rows.append(Row(f"{case.name}, {num_envs} environments", value, "us per call"))
            print(f"{rows[-1].label}: {value:.0f} us, {value / num_envs:.1f} us per environment", flush=True)
    if not args.no_write:
        print(write_result("inference_latency", rows))


if __name__ == "__main__":
    main()

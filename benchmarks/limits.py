"""What this machine could do at most: environments, model and learner without any framework between them.

    python -m benchmarks.limits --workloads W1 W1d64

Measures in one minute

- pure simulation: as many processes as the workload has workers step its environments with random actions,
- the CPU time of a frame there, from which pure simulation follows unless the environment waits instead of computing,
- the CPU time of a frame in the forward pass: normalisation, network and sampling for all agents of a worker at once,
- the CPU time of a frame in the learner: forward, loss, backward and optimiser with the minibatches of the workload.

The latter two on one core while nothing else runs, with this project's model and with the same network in bare PyTorch
and NumPy (see limit_models.py): the fastest counts. ``limit = cores / (env + forward + epochs * learn)``, but not more
than pure simulation. Serial mode has one core.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.envs import make_env
from benchmarks.workloads import EVERY_WORKLOAD, Workload, workload_names

if TYPE_CHECKING:
    from sample_factory.utils.typing import Config

_TIMEOUT_SEC = 180.0
_WARM_UP_SHARE = 0.2
_NUM_PARTS = 3


@dataclass(frozen=True)
class Limits:
    """Microseconds per frame on one core of each part, and the frames per second that follow from them."""

    env_us: float
    env_cpu_us: float
    forward_us: float
    learn_us: float
    epochs: int
    cores: int
    simulation_frames_per_sec: float
    frames_per_sec: float
    sampling_frames_per_sec: float

    def as_dict(self) -> dict[str, Any]:
        """The numbers as they are stored with a result, with `limit_` before their names."""
        return {f"limit_{key}": round(value, 3) for key, value in asdict(self).items()}

    def of(self, workload: Workload) -> float:
        """The frames per second that count for a workload: with a learner, or without."""
        return self.sampling_frames_per_sec if workload.is_sampling else self.frames_per_sec

    def useful_cpu_us(self, workload: Workload) -> float:
        """CPU microseconds of a frame that no framework can save."""
        return self.env_cpu_us + self.forward_us + (0.0 if workload.is_sampling else self.epochs * self.learn_us)

    @staticmethod
    def median(limits: Sequence[Limits]) -> Limits:
        """Field by field."""
        values = [asdict(one) for one in limits]
        return Limits(**{key: statistics.median(one[key] for one in values) for key in values[0]})


@dataclass(frozen=True)
class Probe:
    """What one process found, in seconds per frame: wall and CPU time of stepping, CPU time of acting and learning.

    Only one of the processes measures the latter two; they are None at the others.
    """

    env_sec: float
    env_cpu_sec: float
    forward_sec: float | None = None
    learn_sec: float | None = None


def combine(probes: Sequence[Probe], cores: int, num_epochs: int, env_waits: bool) -> Limits:
    """The limits of the whole machine from what the processes found; their environments ran at the same time.

    CPU time where something is computed: it does not depend on what else the machine does.
    """
    env_sec = statistics.mean(probe.env_sec for probe in probes)
    env_cpu_sec = statistics.mean(probe.env_cpu_sec for probe in probes)
    forward_sec = next(probe.forward_sec for probe in probes if probe.forward_sec is not None)
    learn_sec = next(probe.learn_sec for probe in probes if probe.learn_sec is not None)
    if env_waits:
        simulation = sum(1.0 / probe.env_sec for probe in probes)
    else:
        simulation = min(len(probes), cores) / env_cpu_sec
    return Limits(
        env_us=env_sec * 1e6,
        env_cpu_us=env_cpu_sec * 1e6,
        forward_us=forward_sec * 1e6,
        learn_us=learn_sec * 1e6,
        epochs=num_epochs,
        cores=cores,
        simulation_frames_per_sec=simulation,
        frames_per_sec=min(simulation, cores / (env_cpu_sec + forward_sec + num_epochs * learn_sec)),
        sampling_frames_per_sec=min(simulation, cores / (env_cpu_sec + forward_sec)),
    )


def measure_limits(workload: Workload, seconds: float = 2.0) -> Limits:
    """Measure now; each part runs for this long.

    :raises RuntimeError: a process died or took too long.
    """
    is_serial = workload.flag("serial_mode", "False") == "True"
    num_processes = int(workload.flag("num_workers", "1"))
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(num_processes)
    receiver, sender = context.Pipe(duplex=False)
    arguments = (workload.name, num_processes, seconds, barrier, sender)
    processes = [
        context.Process(target=_probe_main, args=(idx, *arguments), daemon=True) for idx in range(num_processes)
    ]
    for process in processes:
        process.start()
    probes: list[Probe] = []
    num_epochs = 1
    deadline = time.monotonic() + _TIMEOUT_SEC
    while len(probes) < num_processes:
        if receiver.poll(1.0):
            num_epochs, probe = receiver.recv()
            probes.append(probe)
        elif time.monotonic() > deadline or any(process.exitcode not in (None, 0) for process in processes):
            raise RuntimeError(f"{workload.name}: a process that measures the limits failed")
    for process in processes:
        process.join()
    return combine(probes, 1 if is_serial else os.cpu_count() or 1, num_epochs, workload.env_waits)


def _probe_main(idx: int, name: str, num_processes: int, seconds: float, barrier: Any, sender: Any) -> None:
    """One process: steps environments at the same time as the others; the first then measures the model alone."""
    import torch

    from benchmarks.limit_models import model_functions

    torch.set_num_threads(1)
    torch.manual_seed(idx)
    workload = EVERY_WORKLOAD[name]
    cfg = _config(workload)
    step_envs = _env_stepper(workload, cfg, idx, num_processes)
    barrier.wait(_TIMEOUT_SEC)
    _call_repeatedly(step_envs, seconds * _WARM_UP_SHARE)
    env_sec, env_cpu_sec = _call_repeatedly(step_envs, seconds)
    barrier.wait(_TIMEOUT_SEC)
    if idx > 0:
        sender.send((cfg.num_epochs, Probe(env_sec, env_cpu_sec)))
        return
    env = make_env(workload.env, cfg)
    num_rows = num_agents_per_process(cfg, getattr(env.unwrapped, "num_agents", 1), num_processes)
    acting, learning = model_functions(cfg, env.observation_space, env.action_space, num_rows)
    forward_sec = min(_fastest_cpu_sec(function, seconds) for function in acting)
    learn_sec = min(_fastest_cpu_sec(function, seconds) for function in learning)
    sender.send((cfg.num_epochs, Probe(env_sec, env_cpu_sec, forward_sec, learn_sec)))


def _fastest_cpu_sec(function: Callable[[], int], seconds: float) -> float:
    """CPU seconds per frame in the best part of the time, after a warm-up."""
    _call_repeatedly(function, seconds * _WARM_UP_SHARE)
    return min(_call_repeatedly(function, seconds / _NUM_PARTS)[1] for _ in range(_NUM_PARTS))


def _call_repeatedly(function: Callable[[], int], seconds: float) -> tuple[float, float]:
    """(wall, CPU) seconds per frame of a function that returns how many frames a call was."""
    start, start_cpu = time.perf_counter(), time.process_time()
    num_frames = 0
    while (elapsed := time.perf_counter() - start) < seconds or num_frames == 0:
        num_frames += function()
    return elapsed / num_frames, (time.process_time() - start_cpu) / num_frames


def _config(workload: Workload) -> Config:
    from sample_factory.cfg.arguments import parse_full_cfg, parse_sf_args

    argv = [*workload.arguments, "--experiment=limits", "--device=cpu"]  # the figures are those of the processor
    parser, _ = parse_sf_args(argv)
    return parse_full_cfg(parser, argv)


def num_agents_per_process(cfg: Config, num_agents_per_env: int, num_processes: int) -> int:
    """How many agents of the workload fall to each process, at least one."""
    return max(1, cfg.num_workers * cfg.num_envs_per_worker * num_agents_per_env // num_processes)


def _env_stepper(workload: Workload, cfg: Config, idx: int, num_processes: int) -> Callable[[], int]:
    """A function that steps each environment of a process once with random actions and returns the agent steps."""
    import numpy as np

    first = make_env(workload.env, cfg)
    num_agents = getattr(first.unwrapped, "num_agents", 1)
    num_envs = max(1, cfg.num_workers * cfg.num_envs_per_worker // num_processes)
    envs = [
        first,
        *(make_env(workload.env, cfg, argparse.Namespace(env_id=idx * num_envs + i)) for i in range(1, num_envs)),
    ]
    for seed, env in enumerate(envs):
        env.reset(seed=seed)
    rng = np.random.default_rng(idx)
    shape = (997,) if not getattr(first.unwrapped, "is_multiagent", False) else (97, num_agents)
    actions = rng.integers(first.action_space.n, size=shape)  # [997], [97, agents]
    drawn = actions if cfg.batched_sampling else actions.tolist()
    self_resetting = bool(getattr(first.unwrapped, "is_multiagent", False))
    cursor = 0

    def step() -> int:
        nonlocal cursor
        for env in envs:
            _, _, terminated, truncated, _ = env.step(drawn[cursor])
            cursor = cursor + 1 if cursor + 1 < len(drawn) else 0
            if not self_resetting and (terminated or truncated):
                env.reset()
        return num_envs * num_agents

    return step


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", nargs="+", choices=["all", *EVERY_WORKLOAD], default=["W1"], metavar="NAME")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of each of the three parts")
    args = parser.parse_args(argv)
    for name in workload_names(args.workloads):
        limits = measure_limits(EVERY_WORKLOAD[name], args.seconds)
        print(
            f"{name}: env {limits.env_us:.2f} us ({limits.env_cpu_us:.2f} CPU), forward {limits.forward_us:.2f} us, "
            f"learner {limits.learn_us:.2f} us per frame and core; {limits.cores} cores: limit "
            f"{limits.frames_per_sec:,.0f} frames/s, sampling {limits.sampling_frames_per_sec:,.0f}, "
            f"pure simulation {limits.simulation_frames_per_sec:,.0f}",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What is measured: one table of workloads, each a list of flags that this project and the original both understand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# No part of the program may be busy with anything but training, and no run ends by itself.
COMMON = (
    "--with_wandb=False",
    "--save_every_sec=100000",
    "--experiment_summaries_interval=10",
    "--decorrelate_experience_max_seconds=0",
    "--decorrelate_envs_on_one_worker=False",
    "--train_for_env_steps=10000000000",
    "--device=cpu",
)

_LEARNING = ("--rollout=32", "--batch_size=1024", "--num_epochs=1")
_MLP = ("--use_rnn=False", "--encoder_mlp_layers", "64", "64")
_TWO_BY_32 = ("--num_workers=2", "--num_envs_per_worker=32", "--worker_num_splits=2")
_ASYNC = ("--batched_sampling=False", "--async_rl=True")
_W1 = (*_MLP, *_LEARNING, *_ASYNC, *_TWO_BY_32)
_SERIAL = (
    "--serial_mode=True",
    "--async_rl=False",
    "--num_workers=1",
    "--num_envs_per_worker=64",
    "--worker_num_splits=1",
    "--num_batches_per_epoch=2",
)


_ATARI = (
    "--use_rnn=False",
    "--encoder_conv_architecture=convnet_atari",
    "--obs_scale=255.0",
    "--nonlinearity=relu",
    *_LEARNING,
    *_ASYNC,
    "--num_workers=2",
    "--num_envs_per_worker=8",
    "--worker_num_splits=2",
)


@dataclass(frozen=True)
class Workload:
    """Flags beyond the common ones, what the figure is about, and the figure that is aimed at.

    `asked` is a ratio to the original, `asked_fraction` a share of what the machine could do at most (see limits.py).
    `has_pure_simulation` says that the share of stepping environments alone is the interesting one, `env_waits` that a
    step of the environment takes time, but no CPU, `is_sampling` that there is no learner. `seconds_factor` lengthens
    runs that make few batches in the usual time.
    """

    name: str
    description: str
    env: str
    flags: tuple[str, ...]
    asked: float | None = None
    asked_fraction: float | None = None
    has_pure_simulation: bool = False
    seconds_factor: float = 1.0
    env_waits: bool = False
    is_sampling: bool = False

    @property
    def arguments(self) -> list[str]:
        """The command line except for experiment, folder and seed."""
        return [f"--env={self.env}", *COMMON, *self.flags]

    @property
    def script(self) -> str:
        """The program in this folder that runs it."""
        return "sample_script.py" if self.is_sampling else "train_script.py"

    def flag(self, name: str, default: str) -> str:
        """The value of a flag of this workload that has one value."""
        found = [flag.split("=", 1)[1] for flag in self.flags if flag.startswith(f"--{name}=")]
        return found[-1] if found else default


def _batched(num_agents: int, batch_size: int, asked: float) -> Workload:
    flags = (
        *_MLP,
        "--rollout=32",
        f"--batch_size={batch_size}",
        "--num_epochs=1",
        "--batched_sampling=True",
        "--async_rl=True",
        "--num_workers=1",
        "--num_envs_per_worker=1",
        "--worker_num_splits=1",
    )
    description = f"batched environment at no cost, {num_agents} agents"
    return Workload(f"W4_{num_agents}", description, f"bench_batched_{num_agents}", flags, asked)


_ALL = (
    Workload("W1", "CartPole, MLP 64x64, 2 workers x 32 environments", "CartPole-v1", _W1, 8.0, 0.4),
    Workload("W1s", "CartPole, MLP 64x64, serial", "CartPole-v1", (*_MLP, *_LEARNING, *_SERIAL), 5.0),
    Workload("W1z_vector", "environment at no cost, 4 floats", "bench_zero_vector", _W1, 10.0),
    Workload("W1z_image", "environment at no cost, 84x84x4 bytes", "bench_zero_image", _W1, 3.0),
    Workload(
        "W1d4", "CartPole, all defaults, 2 workers", "CartPole-v1", ("--num_workers=2",), 2.0, 0.8, seconds_factor=2.0
    ),
    Workload(
        "W1d64",
        "CartPole, all defaults, 2 workers x 32 environments",
        "CartPole-v1",
        ("--num_workers=2", "--num_envs_per_worker=32"),
        1.5,
        0.8,
    ),
    Workload(
        "W2_1ms", "environment that sleeps 1 ms", "bench_sleep", _W1, 1.2, 0.9, has_pure_simulation=True, env_waits=True
    ),
    Workload(
        "W2_lognormal",
        "environment that sleeps 0.2 to 20 ms, unevenly",
        "bench_sleep_lognormal",
        _W1,
        1.2,
        0.9,
        has_pure_simulation=True,
        env_waits=True,
        seconds_factor=2.5,
    ),
    _batched(64, 1024, 4.0),
    _batched(1024, 8192, 3.0),
    _batched(8192, 32768, 2.0),
    Workload(
        "W9",
        "four agents per environment, two policies",
        "bench_four_agents",
        (
            *_MLP,
            *_LEARNING,
            *_ASYNC,
            "--num_policies=2",
            "--num_workers=2",
            "--num_envs_per_worker=8",
            "--worker_num_splits=2",
        ),
        3.0,
    ),
    Workload(
        "Pong",
        "Atari Pong, convolutional network, 1 epoch",
        "bench_pong",
        _ATARI,
        has_pure_simulation=True,
        env_waits=True,
        seconds_factor=2.5,
    ),
    Workload(
        "Pong_sampling",
        "Atari Pong, convolutional network, no learner",
        "bench_pong",
        _ATARI,
        asked_fraction=0.9,
        has_pure_simulation=True,
        is_sampling=True,
        seconds_factor=1.5,
    ),
)

# Ends the name of a result that was not measured with one thread per process.
OTHER_THREADS_SUFFIX = "_threads"

WORKLOADS: dict[str, Workload] = {workload.name: workload for workload in _ALL}


def _batched_on_gpu(num_agents: int, batch_size: int) -> Workload:
    workload = _batched(num_agents, batch_size, 3.0)
    flags = (*workload.flags, "--device=gpu", "--actor_worker_gpus", "0", "--env_gpu_actions=True")
    env = workload.env.replace("bench_batched_", "bench_batched_cuda_")
    return Workload(f"W4_cuda_{num_agents}", f"{workload.description}, on a GPU", env, flags, 3.0)


# For a machine with a GPU and 16 cores; not part of "all".
GPU_WORKLOADS: dict[str, Workload] = {
    workload.name: workload
    for workload in (
        Workload(
            "W3",
            "Atari Pong, 16 workers x 16 environments, GPU",
            "bench_pong",
            (
                *_ATARI,
                "--device=gpu",
                "--num_workers=16",
                "--num_envs_per_worker=16",
                "--batch_size=4096",
            ),
            asked_fraction=0.9,
            has_pure_simulation=True,
        ),
        _batched_on_gpu(1024, 8192),
        _batched_on_gpu(8192, 32768),
    )
}
EVERY_WORKLOAD = {**WORKLOADS, **GPU_WORKLOADS}


def workload_names(chosen: Sequence[str]) -> list[str]:
    """The names given on a command line: "all" stands for every workload of the CPU, "gpu" for those of a GPU."""
    groups = {"all": list(WORKLOADS), "gpu": list(GPU_WORKLOADS)}
    return [name for choice in chosen for name in groups.get(choice, [choice])]


def result_names() -> list[str]:
    """Names that results of workloads may have, in the order of the table."""
    return [name + suffix for suffix in ("", OTHER_THREADS_SUFFIX) for name in EVERY_WORKLOAD]

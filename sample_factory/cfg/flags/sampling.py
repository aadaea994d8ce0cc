"""Flags about the process tree: how experience is collected and how it reaches the learner."""

from __future__ import annotations

import os

from sample_factory.cfg.flags.flag import Flag, Section, at_least, between, finite, positive, str2bool


def default_num_workers() -> int:
    return os.cpu_count() or 1


REGIME = Section(
    "regime",
    "Processes and data flow",
    (
        Flag(
            "num_policies",
            int,
            1,
            "Number of policies trained at the same time, for self-play and population-based training.",
            bounds=at_least(1),
        ),
        Flag(
            "async_rl",
            str2bool,
            True,
            "Collect experience while the learner is training. False: collect one dataset, train on it, repeat.",
        ),
        Flag("serial_mode", str2bool, False, "Run everything in the main process, one component after the other."),
        Flag(
            "batched_sampling",
            str2bool,
            False,
            "Treat the environments of a worker as one vector environment. Meant for vectorised simulators and for "
            "many cheap environments; needs one policy per worker and agents that are always active.",
        ),
        Flag(
            "num_batches_to_accumulate",
            int,
            2,
            "Datasets that may wait for the learner before collection is paused. Always 1 with --async_rl=False.",
            bounds=at_least(1),
        ),
        Flag(
            "worker_num_splits",
            int,
            2,
            "Groups the environments of a worker are divided into: while one group waits for actions another one "
            "steps (2 = double buffering, 1 = off). Must divide --num_envs_per_worker.",
            bounds=at_least(1),
        ),
        Flag(
            "policy_workers_per_policy",
            int,
            1,
            "Inference processes per policy.",
            bounds=at_least(1),
        ),
        Flag(
            "inference_placement",
            str,
            "auto",
            "Where policies act. separate: in inference processes, which collect requests of many rollout workers. "
            "rollout: inside every rollout worker, which then steps all its environments as one group, whatever "
            "--worker_num_splits is. auto: rollout on a CPU, and for vectorised environments on a GPU "
            "(--batched_sampling=True with --actor_worker_gpus); separate for others on a GPU, and if "
            "--policy_workers_per_policy is above 1. Serial mode has no processes to choose from.",
            choices=("auto", "separate", "rollout"),
            extension=True,
        ),
        Flag(
            "max_policy_lag",
            int,
            1000,
            "Experience collected this many learning steps ago or earlier is not learned from.",
            bounds=at_least(0),
            quantity=True,
        ),
        Flag(
            "num_workers",
            int,
            default_num_workers,
            "Rollout workers: processes that step environments.",
            bounds=at_least(1),
            default_text="number of CPU cores",
            machine_dependent=True,
        ),
        Flag("num_envs_per_worker", int, 2, "Environments in one rollout worker.", bounds=at_least(1)),
        Flag("batch_size", int, 1024, "Samples in one minibatch. A multiple of --rollout.", bounds=at_least(1)),
        Flag(
            "num_batches_per_epoch",
            int,
            1,
            "Minibatches in one dataset: a dataset has --batch_size times this many samples.",
            bounds=at_least(1),
        ),
        Flag("num_epochs", int, 1, "Passes over each dataset.", bounds=at_least(1)),
        Flag("rollout", int, 32, "Steps per trajectory collected from each environment.", bounds=at_least(1)),
        Flag(
            "recurrence",
            int,
            -1,
            "Steps through which gradients flow in recurrent policies. Must divide --rollout. -1: --rollout for "
            "recurrent policies and for V-trace, else 1.",
            bounds=at_least(1, also=(-1,)),
        ),
        Flag(
            "shuffle_minibatches",
            str2bool,
            False,
            "Draw minibatches at random instead of in the order of collection.",
        ),
    ),
)

SAMPLING = Section(
    "sampling",
    "Sampling and worker processes",
    (
        Flag(
            "decorrelate_experience_max_seconds",
            int,
            0,
            "Delay the first rollouts of the workers by up to this many seconds, each by a different time, so that "
            "their episodes do not run in step. 0 or less: no delay.",
            bounds=finite(),
            quantity=True,
        ),
        Flag(
            "decorrelate_envs_on_one_worker",
            str2bool,
            True,
            "Step the environments of one worker a different number of times with random actions before training "
            "begins. Not used with --batched_sampling.",
        ),
        Flag(
            "actor_worker_gpus",
            int,
            [],
            "Indices of GPUs that rollout workers may use, for environments simulated on a GPU. Empty: none.",
            nargs="*",
            bounds=at_least(0),
        ),
        Flag("set_workers_cpu_affinity", str2bool, True, "Pin each rollout worker to its own CPU cores."),
        Flag(
            "force_envs_single_thread",
            str2bool,
            False,
            "Limit numerical libraries inside environments to one thread in workers pinned to a single core.",
        ),
        Flag(
            "default_niceness",
            int,
            0,
            "Niceness of learner processes; inference adds 2 and rollout workers add 10. Negative values need "
            "permission from the operating system.",
            bounds=between(-20, 20),
        ),
        Flag(
            "fault_timeout",
            int,
            60,
            "Seconds within which a component that has died or hangs must be dealt with: no fault stalls the run "
            "for longer.",
            bounds=positive(),
            extension=True,
            quantity=True,
        ),
        Flag(
            "startup_timeout",
            int,
            300,
            "Seconds that creating environments and starting all components may take.",
            bounds=positive(),
            extension=True,
            quantity=True,
        ),
        Flag(
            "env_timeout",
            float,
            60.0,
            "Seconds that one step or reset of one environment may take. A rollout worker that is stuck for longer is "
            "killed, after its stack was logged, and replaced. 0: environments may take as long as they want.",
            bounds=at_least(0),
            extension=True,
            quantity=True,
        ),
        Flag(
            "max_env_rebuilds",
            int,
            3,
            "An environment that raises is built anew in place. So many failures in a row, without one good step in "
            "between, are put up with; then its rollout worker is replaced.",
            bounds=at_least(0),
            extension=True,
        ),
        Flag(
            "max_worker_restarts",
            int,
            5,
            "How often a rollout or inference worker that died or hangs is replaced within an hour. One more death "
            "ends the run: it saves and exits with code 1.",
            bounds=at_least(0),
            extension=True,
        ),
        Flag(
            "bad_obs",
            str,
            "error",
            "What to do with observations that do not fit the observation space (shape, type, missing key) and with "
            "observations and rewards that are not finite: end the run with an error that names them, reset the "
            "environment, or put zeros in their place.",
            choices=("error", "reset", "zero"),
            extension=True,
        ),
    ),
)

"""Flags passed to environments or about the contract with them."""

from __future__ import annotations

from sample_factory.cfg.flags.flag import Flag, Section, at_least, str2bool

ENVIRONMENT = Section(
    "environment",
    "Environment",
    (
        Flag(
            "use_env_info_cache",
            str2bool,
            False,
            "Remember spaces and agent counts of environments between runs instead of asking a test instance.",
        ),
        Flag("env_gpu_actions", str2bool, False, "The environment takes actions as GPU tensors."),
        Flag(
            "env_gpu_observations",
            str2bool,
            True,
            "The environment returns observations as GPU tensors. Only used with --actor_worker_gpus.",
        ),
        Flag(
            "env_frameskip",
            int,
            1,
            "Simulated frames per action. The environment does the skipping; the trainer uses it for counting.",
            bounds=at_least(1),
        ),
        Flag(
            "env_framestack",
            int,
            1,
            "Frames stacked into one observation, by environments that support it.",
            bounds=at_least(0),
        ),
        Flag("pixel_format", str, "CHW", "Order of image dimensions, for environments that support several."),
        Flag(
            "use_record_episode_statistics",
            str2bool,
            False,
            "Evaluation counts episodes as reported by Gymnasium's RecordEpisodeStatistics wrapper: whole games "
            "instead of single lives, rewards before clipping.",
        ),
        Flag("episode_counter", str2bool, False, "Number the episodes of each environment in its statistics."),
        Flag(
            "env_module",
            str,
            None,
            "Python module imported before the environment is looked up; it should register the environment.",
            extension=True,
        ),
    ),
)

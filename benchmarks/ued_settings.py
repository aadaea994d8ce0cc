"""Flags of the UED benchmarks: four methods in two sizes, with the values of the shipped configurations.

Every flag stands here, so that a change of a default on either side cannot make two runs differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Flags = Mapping[str, object]

_COMMON: Flags = {
    "agent_rl_algo": "ppo",
    "n_devices": 1,
    "env_name": "Maze",
    "student_model_name": "default_student_cnn",
    "verbose": False,
    "log_interval": 1,
    "checkpoint_interval": 0,
    "archive_interval": 0,
    "test_interval": 0,
    "track_env_metrics": False,
    "n_eval": 1,
    "lr_anneal_steps": 0,
    "max_grad_norm": 0.5,
    "adam_eps": 1e-05,
    "student_value_loss_coef": 0.5,
    "student_ppo_n_epochs": 5,
    "student_ppo_n_minibatches": 1,
    "student_ppo_clip_eps": 0.2,
    "student_ppo_clip_value_loss": True,
    "student_gae_lambda": 0.98,
    "student_recurrent_arch": "lstm",
    "student_hidden_dim": 32,
    "student_n_hidden_layers": 1,
    "student_n_conv_filters": 16,
    "student_n_scalar_embeddings": 4,
    "student_scalar_embed_dim": 5,
    "maze_sample_n_walls": False,
    "maze_see_agent": False,
    "maze_normalize_obs": True,
    "maze_obs_agent_pos": False,
}

_REPLAY: Flags = {
    "train_runner": "plr",
    "n_students": 1,
    "discount": 0.999,
    "student_entropy_coef": 0.0,
    "maze_replace_wall_pos": True,
    "ued_score": "max_mc",
    "plr_temp": 0.3,
    "plr_use_score_ranks": True,
    "plr_min_fill_ratio": 0.5,
    "plr_use_robust_plr": True,
    "plr_use_parallel_eval": False,
    "plr_force_unique": True,
}

_METHODS: Mapping[str, Flags] = {
    "dr": {
        "train_runner": "dr",
        "n_students": 1,
        "discount": 0.995,
        "student_entropy_coef": 0.001,
        "maze_replace_wall_pos": True,
    },
    "plr": {**_REPLAY, "plr_replay_prob": 0.5, "plr_staleness_coef": 0.3},
    "accel": {
        **_REPLAY,
        "plr_replay_prob": 0.8,
        "plr_staleness_coef": 0.5,
        "plr_mutation_fn": "default",
        "plr_n_mutations": 20,
        "plr_mutation_criterion": "batch",
    },
    "paired": {
        "train_runner": "paired",
        "n_students": 2,
        "discount": 0.995,
        "student_entropy_coef": 0.001,
        "maze_replace_wall_pos": False,
        "ued_score": "relative_regret",
        "teacher_model_name": "default_teacher_cnn",
        "teacher_discount": 0.995,
        "teacher_lr_anneal_steps": 0,
        "teacher_gae_lambda": 0.98,
        "teacher_entropy_coef": 0.05,
        "teacher_value_loss_coef": 0.5,
        "teacher_ppo_n_epochs": 5,
        "teacher_ppo_n_minibatches": 1,
        "teacher_ppo_clip_eps": 0.2,
        "teacher_ppo_clip_value_loss": True,
        "teacher_recurrent_arch": "lstm",
        "teacher_hidden_dim": 32,
        "teacher_n_hidden_layers": 1,
        "teacher_scalar_embed_dim": 10,
        "maze_ued_replace_wall_pos": True,
        "maze_ued_fixed_n_wall_steps": True,
        "maze_ued_first_wall_pos_sets_budget": False,
        "maze_ued_noise_dim": 50,
        "maze_ued_set_agent_dir": False,
        "maze_ued_normalize_obs": True,
    },
}
METHODS = tuple(_METHODS)
METHOD_TITLES = {"dr": "DR", "plr": "robust PLR", "accel": "ACCEL", "paired": "PAIRED"}

# How many updates each method is compared over.
UPDATES = {"dr": 150, "plr": 60, "accel": 60, "paired": 60}


@dataclass(frozen=True)
class Size:
    """What makes a run large: numbers of levels and steps, the maze, the networks."""

    num_levels: int
    num_steps: int
    side: int
    num_walls: int
    episode_steps: int
    hidden: int
    teacher_filters: int
    buffer: int
    learning_rates: Mapping[str, float] = field(default_factory=dict)

    def flags(self, method: str) -> dict[str, object]:
        """The flags of this size for one method."""
        flags: dict[str, object] = {
            "n_parallel": self.num_levels,
            "n_rollout_steps": self.num_steps,
            "lr": self.learning_rates[method],
            "student_recurrent_hidden_dim": self.hidden,
            "maze_height": self.side,
            "maze_width": self.side,
            "maze_n_walls": 0 if method == "accel" else self.num_walls,
            "maze_max_episode_steps": self.episode_steps,
        }
        if method in ("plr", "accel"):
            flags["plr_buffer_size"] = self.buffer
        if method == "paired":
            flags["teacher_n_conv_filters"] = self.teacher_filters
            flags["teacher_recurrent_hidden_dim"] = self.hidden
            flags["maze_ued_n_walls"] = self.num_walls
        return flags


# "full" is that of the shipped configurations; the learning rates of "small" are higher so that curves move in minutes.
SIZES = {
    "full": Size(32, 256, 13, 60, 250, 256, 128, 4000, {"dr": 1e-4, "plr": 3e-4, "accel": 3e-4, "paired": 1e-4}),
    "small": Size(8, 64, 7, 12, 50, 64, 16, 64, dict.fromkeys(METHODS, 1e-3)),
}


def training_flags(method: str, size: str, num_updates: int, **more: object) -> list[str]:
    """The command line of a training, without seed and folder; ``more`` wins over the tables.

    >>> "--train_runner=dr" in training_flags("dr", "small", 5)
    True
    """
    flags = {**_COMMON, **_METHODS[method], **SIZES[size].flags(method), "n_total_updates": num_updates, **more}
    return [f"--{name}={value}" for name, value in flags.items()]

"""Tiny runs on real mazes."""

from __future__ import annotations

from typing import Any

import torch

from sample_factory.ued.config.nested import Config
from sample_factory.ued.config.train_args import parse_train_args
from sample_factory.ued.curricula.common import Agents, Curriculum
from sample_factory.ued.curricula.factory import make_curriculum
from sample_factory.ued.envs.registration import make_teacher_env, make_ued_env
from sample_factory.ued.models.registration import make_student_model, make_teacher_model
from sample_factory.ued.ppo.agent import PPOAgent, PPOConfig

PPO = PPOConfig(n_epochs=2, lr=1e-3)
COMMON = {
    "n_parallel": 4,
    "n_rollout_steps": 24,
    "track_env_metrics": True,
    "maze_height": 5,
    "maze_width": 5,
    "maze_n_walls": 6,
    "maze_max_episode_steps": 12,
    "student_recurrent_arch": "lstm",
    "student_recurrent_hidden_dim": 8,
    "student_hidden_dim": 8,
    "student_n_conv_filters": 4,
}
REPLAY = {
    "train_runner": "plr",
    "ued_score": "max_mc",
    "plr_buffer_size": 12,
    "plr_min_fill_ratio": 0.3,
    "plr_temp": 0.3,
}
ACCEL = REPLAY | {"plr_mutation_fn": "default", "plr_n_mutations": 3, "plr_force_unique": True}
PAIRED = {
    "train_runner": "paired",
    "n_students": 2,
    "ued_score": "relative_regret",
    "teacher_model_name": "default_teacher_cnn",
    "teacher_recurrent_arch": "lstm",
    "teacher_recurrent_hidden_dim": 8,
    "teacher_n_conv_filters": 4,
    "maze_ued_n_walls": 4,
    "maze_ued_fixed_n_wall_steps": True,
    "maze_ued_noise_dim": 3,
}
SFL = {
    "train_runner": "sfl",
    "sfl_refresh_interval": 2,
    "sfl_n_batches": 2,
    "sfl_batch_size": 20,
    "sfl_eval_steps": 40,
    "sfl_max_episodes": 4,
    "sfl_buffer_size": 8,
}
RUNS: dict[str, dict[str, Any]] = {
    "dr": {},
    "dr of two students": {"n_students": 2},
    "dr with copies": {"n_eval": 2},
    "dr without recurrence": {"student_recurrent_arch": None},
    "dr, minimax": {"ued_compat": "minimax"},
    "plr": REPLAY | {"plr_use_robust_plr": False},
    "robust plr": REPLAY | {"plr_force_unique": True},
    "robust plr of two students with copies": REPLAY | {"n_students": 2, "n_eval": 2},
    "robust plr, minimax": REPLAY | {"ued_compat": "minimax", "plr_force_unique": True},
    "plr by value disagreement": REPLAY
    | {"ued_score": "value_disagreement", "student_value_ensemble_size": 3, "plr_use_score_ranks": False},
    "parallel plr": REPLAY | {"plr_use_parallel_eval": True, "plr_force_unique": True},
    "accel": ACCEL | {"plr_replay_prob": 0.8},
    "accel with easy parents": ACCEL | {"plr_mutation_criterion": "easy", "plr_mutation_subsample_size": 2},
    "accel with hard parents, minimax": ACCEL
    | {"plr_mutation_criterion": "hard", "plr_mutation_subsample_size": 2, "ued_compat": "minimax"},
    "parallel accel": ACCEL | {"plr_use_parallel_eval": True},
    "parallel accel with hard parents": ACCEL
    | {"plr_use_parallel_eval": True, "plr_mutation_criterion": "hard", "plr_mutation_subsample_size": 2},
    "paired": PAIRED,
    "paired with copies": PAIRED | {"n_eval": 2, "ued_score": "mean_relative_regret"},
    "paired, minimax": PAIRED | {"ued_compat": "minimax"},
    "population paired": PAIRED | {"n_students": 3, "ued_score": "population_regret"},
    "minimax adversary": PAIRED | {"n_students": 1, "ued_score": "neg_return"},
    "teacher for positive value loss": PAIRED | {"ued_score": "positive_value_loss"},
    "sfl": SFL,
    "sfl of two students with copies": SFL | {"n_students": 2, "n_eval": 2},
}


def configure(**flags: Any) -> Config:
    chosen = COMMON | flags
    if chosen["student_recurrent_arch"] is None:
        del chosen["student_recurrent_arch"]
    return parse_train_args([f"--{name}={value}" for name, value in chosen.items()]).config


def make_run(seed: int = 0, **flags: Any) -> Curriculum[Any, Any]:
    """A curriculum on 5x5 mazes; weights and random numbers depend on the seed alone."""
    config = configure(**flags)
    generator = torch.Generator().manual_seed(seed)
    env = make_ued_env(config.env_name, **config.env_args)
    teacher_env = None
    agents = Agents([_student(config, env, generator) for _ in range(config.train_runner_args.n_students)])
    if config.train_runner == "paired":
        teacher_env = make_teacher_env(config.env_name, env, **config.ued_env_args)
        agents.teacher = _teacher(config, teacher_env, generator)
    return make_curriculum(config, env, teacher_env, agents, generator)


def _student(config: Config, env: Any, generator: torch.Generator) -> PPOAgent:
    spec, actions = env.observation_spec, env.num_actions
    model = make_student_model(config.student_model_name, spec, actions, config.student_model_args, generator)
    return PPOAgent(model, PPO)


def _teacher(config: Config, env: Any, generator: torch.Generator) -> PPOAgent:
    spec, actions = env.observation_spec, env.num_actions
    model = make_teacher_model(config.teacher_model_name, spec, actions, config.teacher_model_args, generator)
    return PPOAgent(model, PPO)

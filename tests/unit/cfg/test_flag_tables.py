"""Every flag's name, type, default and choices, against a table that was typed independently."""

from __future__ import annotations

import multiprocessing
import os
from typing import Any

import pytest

from sample_factory.cfg.arguments import parse_sf_args
from sample_factory.cfg.flags import ALL_SECTIONS, EVALUATION_FLAGS, FLAGS, TRAINING_FLAGS

CPUS = multiprocessing.cpu_count()
CWD = os.getcwd()
CONV = ["convnet_simple", "convnet_impala", "convnet_atari", "resnet_impala"]
SCHEDULES = ["constant", "kl_adaptive_minibatch", "kl_adaptive_epoch", "linear_decay"]

# name, type, default, choices; "list of ..." means nargs="*", "switch" a flag without a value
TRAINING: list[tuple[str, str, Any, list[str] | None]] = [
    ("help", "switch", False, None),
    ("algo", "str", "APPO", None),
    ("env", "str", None, None),
    ("experiment", "str", "default_experiment", None),
    ("train_dir", "str", os.path.join(CWD, "train_dir"), None),
    ("restart_behavior", "str", "resume", ["resume", "restart", "overwrite"]),
    ("device", "str", "gpu", ["gpu", "cpu"]),
    ("seed", "int", None, None),
    ("num_policies", "int", 1, None),
    ("async_rl", "bool", True, None),
    ("serial_mode", "bool", False, None),
    ("batched_sampling", "bool", False, None),
    ("num_batches_to_accumulate", "int", 2, None),
    ("worker_num_splits", "int", 2, None),
    ("policy_workers_per_policy", "int", 1, None),
    ("max_policy_lag", "int", 1000, None),
    ("num_workers", "int", CPUS, None),
    ("num_envs_per_worker", "int", 2, None),
    ("batch_size", "int", 1024, None),
    ("num_batches_per_epoch", "int", 1, None),
    ("num_epochs", "int", 1, None),
    ("rollout", "int", 32, None),
    ("recurrence", "int", -1, None),
    ("shuffle_minibatches", "bool", False, None),
    ("gamma", "float", 0.99, None),
    ("reward_scale", "float", 1.0, None),
    ("reward_clip", "float", 1000.0, None),
    ("value_bootstrap", "bool", False, None),
    ("normalize_returns", "bool", True, None),
    ("exploration_loss_coeff", "float", 0.003, None),
    ("value_loss_coeff", "float", 0.5, None),
    ("kl_loss_coeff", "float", 0.0, None),
    ("exploration_loss", "str", "entropy", ["entropy", "symmetric_kl"]),
    ("gae_lambda", "float", 0.95, None),
    ("ppo_clip_ratio", "float", 0.1, None),
    ("ppo_clip_value", "float", 1.0, None),
    ("with_vtrace", "bool", False, None),
    ("vtrace_rho", "float", 1.0, None),
    ("vtrace_c", "float", 1.0, None),
    ("optimizer", "str", "adam", ["adam", "lamb"]),
    ("adam_eps", "float", 1e-6, None),
    ("adam_beta1", "float", 0.9, None),
    ("adam_beta2", "float", 0.999, None),
    ("max_grad_norm", "float", 4.0, None),
    ("learning_rate", "float", 1e-4, None),
    ("lr_schedule", "str", "constant", SCHEDULES),
    ("lr_schedule_kl_threshold", "float", 0.008, None),
    ("lr_adaptive_min", "float", 1e-6, None),
    ("lr_adaptive_max", "float", 1e-2, None),
    ("obs_subtract_mean", "float", 0.0, None),
    ("obs_scale", "float", 1.0, None),
    ("normalize_input", "bool", True, None),
    ("normalize_input_keys", "list of str", None, None),
    ("decorrelate_experience_max_seconds", "int", 0, None),
    ("decorrelate_envs_on_one_worker", "bool", True, None),
    ("actor_worker_gpus", "list of int", [], None),
    ("set_workers_cpu_affinity", "bool", True, None),
    ("force_envs_single_thread", "bool", False, None),
    ("default_niceness", "int", 0, None),
    ("log_to_file", "bool", True, None),
    ("experiment_summaries_interval", "int", 10, None),
    ("flush_summaries_interval", "int", 30, None),
    ("stats_avg", "int", 100, None),
    ("summaries_use_frameskip", "bool", True, None),
    ("heartbeat_interval", "int", 20, None),
    ("heartbeat_reporting_interval", "int", 180, None),
    ("train_for_env_steps", "int", 10000000000, None),
    ("train_for_seconds", "int", 10000000000, None),
    ("save_every_sec", "int", 120, None),
    ("keep_checkpoints", "int", 2, None),
    ("load_checkpoint_kind", "str", "latest", ["latest", "best"]),
    ("save_milestones_sec", "int", -1, None),
    ("save_best_every_sec", "int", 5, None),
    ("save_best_metric", "str", "reward", None),
    ("save_best_after", "int", 100000, None),
    ("benchmark", "bool", False, None),
    ("encoder_mlp_layers", "list of int", [512, 512], None),
    ("encoder_conv_architecture", "str", "convnet_simple", CONV),
    ("encoder_conv_mlp_layers", "list of int", [512], None),
    ("use_rnn", "bool", True, None),
    ("rnn_size", "int", 512, None),
    ("rnn_type", "str", "gru", ["gru", "lstm"]),
    ("rnn_num_layers", "int", 1, None),
    ("decoder_mlp_layers", "list of int", [], None),
    ("nonlinearity", "str", "elu", ["elu", "relu", "tanh"]),
    ("policy_initialization", "str", "orthogonal", ["orthogonal", "xavier_uniform", "torch_default"]),
    ("policy_init_gain", "float", 1.0, None),
    ("actor_critic_share_weights", "bool", True, None),
    ("adaptive_stddev", "bool", True, None),
    ("continuous_tanh_scale", "float", 0.0, None),
    ("initial_stddev", "float", 1.0, None),
    ("use_env_info_cache", "bool", False, None),
    ("env_gpu_actions", "bool", False, None),
    ("env_gpu_observations", "bool", True, None),
    ("env_frameskip", "int", 1, None),
    ("env_framestack", "int", 1, None),
    ("pixel_format", "str", "CHW", None),
    ("use_record_episode_statistics", "bool", False, None),
    ("episode_counter", "bool", False, None),
    ("with_wandb", "bool", False, None),
    ("wandb_user", "str", None, None),
    ("wandb_project", "str", "sample_factory", None),
    ("wandb_group", "str", None, None),
    ("wandb_job_type", "str", "SF", None),
    ("wandb_tags", "list of str", [], None),
    ("wandb_dir", "str", os.path.join(CWD, "wandb"), None),
    ("with_pbt", "bool", False, None),
    ("pbt_mix_policies_in_one_env", "bool", True, None),
    ("pbt_period_env_steps", "int", 5000000, None),
    ("pbt_start_mutation", "int", 20000000, None),
    ("pbt_replace_fraction", "float", 0.3, None),
    ("pbt_mutation_rate", "float", 0.15, None),
    ("pbt_replace_reward_gap", "float", 0.1, None),
    ("pbt_replace_reward_gap_absolute", "float", 1e-6, None),
    ("pbt_optimize_gamma", "bool", False, None),
    ("pbt_target_objective", "str", "true_objective", None),
    ("pbt_perturb_min", "float", 1.1, None),
    ("pbt_perturb_max", "float", 1.5, None),
]
EVALUATION: list[tuple[str, str, Any, list[str] | None]] = [
    ("fps", "int", 0, None),
    ("eval_env_frameskip", "int", None, None),
    ("no_render", "switch", False, None),
    ("save_video", "switch", False, None),
    ("video_frames", "int", 1e9, None),
    ("video_name", "str", None, None),
    ("max_num_frames", "int", 1e9, None),
    ("max_num_episodes", "int", 1e9, None),
    ("push_to_hub", "switch", False, None),
    ("hf_repository", "str", None, None),
    ("policy_index", "int", 0, None),
    ("eval_deterministic", "bool", False, None),
    ("train_script", "str", None, None),
    ("enjoy_script", "str", None, None),
    ("sample_env_episodes", "int", 256, None),
    ("csv_folder_name", "str", None, None),
]
EXTENSIONS: list[tuple[str, str, Any, list[str] | None]] = [
    ("allow_fresh_start", "bool", False, None),
    ("unsafe_load", "bool", False, None),
    ("max_skipped_updates", "int", 20, None),
    ("max_rollbacks", "int", 3, None),
    ("save_fault_timeout", "int", 1800, None),
    ("inference_placement", "str", "auto", ["auto", "separate", "rollout"]),
    ("fault_timeout", "int", 60, None),
    ("startup_timeout", "int", 300, None),
    ("env_timeout", "float", 60.0, None),
    ("max_env_rebuilds", "int", 3, None),
    ("max_worker_restarts", "int", 5, None),
    ("bad_obs", "str", "error", ["error", "reset", "zero"]),
    ("requeue_exit_code", "int", None, None),
    ("ui", "str", "auto", ["auto", "rich", "plain", "none"]),
    ("weight_init_scope", "str", "effective", ["effective", "all"]),
    ("mixed_precision", "str", "none", ["none", "bf16", "tf32"]),
    ("cuda_graphs", "str", "auto", ["auto", "always", "never"]),
    ("env_module", "str", None, None),
    ("curriculum", "str", "none", ["none", "dr", "plr", "accel"]),
    ("curriculum_score", "str", "max_mc", ["max_mc", "positive_value_loss", "l1_value_loss"]),
    ("curriculum_replay_prob", "float", 0.5, None),
    ("curriculum_buffer_size", "int", 128, None),
    ("curriculum_staleness_coef", "float", 0.3, None),
    ("curriculum_temp", "float", 1.0, None),
    ("curriculum_use_score_ranks", "bool", True, None),
    ("curriculum_min_fill_ratio", "float", 0.5, None),
    ("curriculum_robust", "bool", True, None),
    ("curriculum_n_mutations", "int", 20, None),
]
EVERY_FLAG = TRAINING + EVALUATION + EXTENSIONS


def test_flags_and_their_order_are_those_of_the_reference() -> None:
    original = [name for name, flag in TRAINING_FLAGS.items() if not flag.extension]
    assert original == [row[0] for row in TRAINING]
    assert len(original) == 118
    assert list(EVALUATION_FLAGS) == [row[0] for row in EVALUATION]
    assert {name for name, flag in FLAGS.items() if flag.extension} == {row[0] for row in EXTENSIONS}


def test_no_flag_stands_in_two_sections() -> None:
    assert sum(len(section.flags) for section in ALL_SECTIONS) == len(FLAGS)


@pytest.mark.parametrize(("name", "type_name", "default", "choices"), EVERY_FLAG, ids=[row[0] for row in EVERY_FLAG])
def test_argparse_shows_the_flag_as_specified(
    name: str, type_name: str, default: Any, choices: list[str] | None
) -> None:
    parser, _ = parse_sf_args(["--env=x"], evaluation=True)
    action = next(action for action in parser._actions if action.dest == name)

    assert f"--{name}" in action.option_strings
    assert parser.get_default(name) == default
    assert type(parser.get_default(name)) is type(default) or default == 1e9
    assert action.choices == choices
    assert action.required == (name == "env")
    if type_name == "switch":
        assert action.nargs == 0
    else:
        parsed_as = type_name.removeprefix("list of ")
        assert getattr(action.type, "__name__", "") == {"bool": "str2bool"}.get(parsed_as, parsed_as)
        assert (action.nargs == "*") == type_name.startswith("list of")


def test_every_flag_has_a_help_text() -> None:
    assert [name for name, flag in FLAGS.items() if len(flag.help) < 8 and name != "optimizer"] == []


def test_every_number_has_bounds() -> None:
    numbers = [name for name, type_name, *_ in EVERY_FLAG if type_name.removeprefix("list of ") in ("int", "float")]
    assert [name for name in numbers if FLAGS[name].bounds is None] == []


def test_evaluation_flags_are_absent_from_training() -> None:
    parser, _ = parse_sf_args(["--env=x"])
    assert {action.dest for action in parser._actions} == set(TRAINING_FLAGS)


def test_list_defaults_are_not_shared_between_configurations() -> None:
    FLAGS["encoder_mlp_layers"].default_value().append(7)
    assert FLAGS["encoder_mlp_layers"].default_value() == [512, 512]

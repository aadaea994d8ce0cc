"""Values of the shipped configurations, as minimax 0.2.0 has them."""

from __future__ import annotations

# Of all twelve.
COMMON = """
seed 1
agent_rl_algo ppo
n_total_updates 30000
n_devices 1
student_model_name default_student_cnn
env_name Maze
verbose False
log_dir ~/logs/minimax
log_interval 10
checkpoint_interval 1000
archive_interval 0
archive_init_checkpoint False
test_interval 100
n_parallel 32
n_eval 1
n_rollout_steps 256
lr_anneal_steps 0
max_grad_norm 0.5
adam_eps 1e-05
track_env_metrics True
n_unroll_rollout 10
render False
student_value_loss_coef 0.5
student_n_unroll_update 5
student_ppo_n_epochs 5
student_ppo_n_minibatches 1
student_ppo_clip_eps 0.2
student_ppo_clip_value_loss True
student_recurrent_hidden_dim 256
student_hidden_dim 32
student_n_hidden_layers 1
student_n_conv_filters 16
student_n_scalar_embeddings 4
student_scalar_embed_dim 5
maze_height 13
maze_width 13
maze_sample_n_walls False
maze_see_agent False
maze_normalize_obs True
maze_obs_agent_pos False
maze_max_episode_steps 250
test_n_episodes 10
test_env_names Maze-SixteenRooms,Maze-Labyrinth,Maze-StandardMaze
maze_test_see_agent False
maze_test_normalize_obs True
"""

# Flag, then the values of dr plr pplr accel paccel paired, and those of the same with s5_ in front. -: not in the file.
DIFFERING = """
train_runner dr plr plr plr plr paired dr plr plr plr plr paired
from_last_checkpoint True False False True True True True True True True True True
n_students 1 1 1 1 1 2 1 1 1 1 1 2
lr 0.0001 0.0003 0.0003 0.0003 0.0001 0.0001 3e-05 0.0001 0.0001 0.0001 3e-05 0.0001
discount 0.995 0.999 0.999 0.999 0.999 0.995 0.995 0.999 0.999 0.995 0.999 0.995
student_gae_lambda 0.98 0.98 0.95 0.98 0.98 0.98 0.98 0.98 0.98 0.98 0.98 0.98
student_entropy_coef 0.001 0.0 0.0 0.0 0.001 0.001 0.001 0.001 0.001 0.001 0.0 0.001
student_recurrent_arch lstm lstm lstm lstm lstm lstm s5 s5 s5 s5 s5 s5
maze_n_walls 60 60 60 0 0 60 60 60 60 0 0 60
maze_replace_wall_pos True True True True True False True True True True True False
ued_score - max_mc max_mc max_mc max_mc relative_regret - max_mc max_mc max_mc max_mc relative_regret
plr_replay_prob - 0.5 0.5 0.8 0.8 - - 0.5 0.5 0.5 0.8 -
plr_buffer_size - 4000 4000 4000 4000 - - 4000 4000 4000 4000 -
plr_staleness_coef - 0.3 0.5 0.5 0.5 - - 0.5 0.5 0.3 0.5 -
plr_temp - 0.3 0.3 0.3 0.3 - - 0.5 0.5 0.1 0.1 -
plr_use_score_ranks - True True True True - - True True True True -
plr_min_fill_ratio - 0.5 0.5 0.5 0.5 - - 0.5 0.5 0.5 0.5 -
plr_use_robust_plr - True True True True - - True True True True -
plr_use_parallel_eval - False True False True - - False True False True -
plr_force_unique - True True True True - - True True True True -
plr_mutation_fn - - - default default - - - - default default -
plr_n_mutations - - - 20 20 - - - - 10 20 -
plr_mutation_criterion - - - batch batch - - - - batch batch -
plr_mutation_subsample_size - - - 4 4 - - - - 4 4 -
teacher_discount - - - - - 0.995 - - - - - 0.995
teacher_lr_anneal_steps - - - - - 0 - - - - - 0
teacher_gae_lambda - - - - - 0.98 - - - - - 0.98
teacher_entropy_coef - - - - - 0.05 - - - - - 0.001
teacher_value_loss_coef - - - - - 0.5 - - - - - 0.5
teacher_n_unroll_update - - - - - 5 - - - - - 5
teacher_ppo_n_epochs - - - - - 5 - - - - - 5
teacher_ppo_n_minibatches - - - - - 1 - - - - - 1
teacher_ppo_clip_eps - - - - - 0.2 - - - - - 0.2
teacher_ppo_clip_value_loss - - - - - True - - - - - True
teacher_model_name - - - - - default_teacher_cnn - - - - - default_teacher_cnn
teacher_recurrent_arch - - - - - lstm - - - - - s5
teacher_recurrent_hidden_dim - - - - - 256 - - - - - 256
teacher_hidden_dim - - - - - 32 - - - - - 32
teacher_n_hidden_layers - - - - - 1 - - - - - 1
teacher_n_conv_filters - - - - - 128 - - - - - 32
teacher_scalar_embed_dim - - - - - 10 - - - - - 10
maze_ued_replace_wall_pos - - - - - True - - - - - True
maze_ued_fixed_n_wall_steps - - - - - True - - - - - True
maze_ued_first_wall_pos_sets_budget - - - - - False - - - - - False
maze_ued_noise_dim - - - - - 50 - - - - - 50
maze_ued_n_walls - - - - - 60 - - - - - 60
maze_ued_set_agent_dir - - - - - False - - - - - False
maze_ued_normalize_obs - - - - - True - - - - - True
student_s5_n_blocks - - - - - - 2 2 2 2 2 2
student_s5_n_layers - - - - - - 2 2 2 2 2 2
student_s5_layernorm_pos - - - - - - post pre post post post post
student_s5_activation - - - - - - half_glu1 half_glu1 half_glu1 half_glu1 half_glu1 half_glu1
test_agent_idxs - - - - - - - - - "*" - "*"
teacher_lr - - - - - - - - - - - 0.0001
teacher_s5_n_blocks - - - - - - - - - - - 2
teacher_s5_n_layers - - - - - - - - - - - 2
teacher_s5_layernorm_pos - - - - - - - - - - - post
teacher_s5_activation - - - - - - - - - - - half_glu1
"""

NAMES = ("dr", "plr", "pplr", "accel", "paccel", "paired")


def expected_texts() -> dict[str, dict[str, str]]:
    """Name of a file -> flag -> value as text."""
    common = dict(line.split(" ") for line in COMMON.strip().splitlines())
    files = {prefix + name: dict(common) for prefix in ("", "s5_") for name in NAMES}
    for line in DIFFERING.strip().splitlines():
        flag, *texts = line.split(" ")
        for values, text in zip(files.values(), texts, strict=True):
            values |= {flag: text} if text != "-" else {}
    return files

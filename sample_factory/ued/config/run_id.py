"""Names of runs that say what was trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MAX_LENGTH = 255

SCORE_CODES = {
    "relative_regret": "r",
    "mean_relative_regret": "mr",
    "population_regret": "p",
    "neg_return": "nr",
    "l1_value_loss": "l1v",
    "positive_value_loss": "pvl",
    "max_mc": "mm",
    "value_disagreement": "vd",
}
_S5_ACTIVATION_CODES = {"half_glu1": "hg1", "half_glu2": "hg2", "full_glu": "fg", "gelu": "g"}

Values = Mapping[str, Any]  # flags under their full names


def run_id(values: Values) -> str:
    """Identity of a run from the values of all active flags; without the number of the trial.

    ``<runner>-<environment>-<curriculum>-<learner>_<network>``, and ``_tch_<learner>_<network>`` of the teacher.
    Raises ValueError if it is too long for a file name.
    """
    parts = [str(values["train_runner"]), _env(values), _curriculum(values), _agent(values, "student")]
    name = "-".join(parts) + _extensions(values)
    if values["train_runner"] == "paired":
        name += f"_tch_{_agent(values, 'teacher')}"
    if len(name) > MAX_LENGTH:
        raise ValueError(f"the run id has {len(name)} characters, more than {MAX_LENGTH}; give --xpid instead: {name}")
    return name


def _letters(values: Values, **letters: str) -> str:
    return "".join(letter for flag, letter in letters.items() if values.get(flag))


def _env(v: Values) -> str:
    name = str(v["env_name"])
    if name != "Maze":
        return name.lower().replace("-", "_")
    seen = "" if v["maze_see_agent"] else "na"
    size = f"maze{v['maze_height']}x{v['maze_width']}"
    if v["train_runner"] == "paired":
        letters = _letters(
            v,
            maze_ued_fixed_n_wall_steps="f",
            maze_ued_replace_wall_pos="r",
            maze_ued_set_agent_dir="d",
            maze_ued_first_wall_pos_sets_budget="b",
        )
        name = f"{size}w{v['maze_n_walls']}_{seen}_ld{v['maze_ued_noise_dim']}"
        return name + (f"_{letters}" if letters else "")
    letters = _letters(v, maze_replace_wall_pos="f", maze_sample_n_walls="s")
    return f"{size}w{v['maze_n_walls']}{seen}" + (f"_{letters}" if letters else "")


def _curriculum(v: Values) -> str:
    base = f"r{v['n_students']}s_{v['n_parallel']}p_{v['n_eval']}e_{v['n_rollout_steps']}t_ae{v['adam_eps']}"
    if v["n_devices"] > 1:
        base += f"_d{v['n_devices']}"
    if v["train_runner"] in ("plr", "paired"):
        base += f"_s{SCORE_CODES[v['ued_score']]}"
    if v["train_runner"] == "plr":
        return f"{_plr(v)}_{base}"
    if v["train_runner"] == "sfl":
        return f"{_sfl(v)}_{base}"
    return base


def _plr(v: Values) -> str:
    letters = _letters(v, plr_use_robust_plr="r", plr_use_parallel_eval="p", plr_force_unique="f")
    info = f"{letters}_" if letters else ""
    info += (
        f"p{v['plr_replay_prob']}b{v['plr_buffer_size']}t{v['plr_temp']}s{v['plr_staleness_coef']}"
        f"m{v['plr_min_fill_ratio']}" + ("r" if v["plr_use_score_ranks"] else "")
    )
    if v["plr_mutation_fn"] is not None:
        criterion = v["plr_mutation_criterion"]
        info += f"_m{v['plr_mutation_fn'][:3]}{v['plr_n_mutations']}{criterion[:3]}"
        info += "" if criterion == "batch" else str(v["plr_mutation_subsample_size"])
    return info


def _sfl(v: Values) -> str:
    return (
        f"i{v['sfl_refresh_interval']}n{v['sfl_n_batches']}x{v['sfl_batch_size']}t{v['sfl_eval_steps']}"
        f"e{v['sfl_max_episodes']}b{v['sfl_buffer_size']}f{v['sfl_replay_fraction']}"
    )


def _agent(v: Values, agent: str) -> str:
    return f"{_ppo(v, agent)}_{_model(v, agent)}"


def _ppo(v: Values, agent: str) -> str:
    is_student = agent == "student"
    lr, lr_final = v["lr"], v["lr_final"]
    if not is_student:
        lr = lr if v["teacher_lr"] is None else v["teacher_lr"]
        lr_final = lr_final if v["teacher_lr_final"] is None else v["teacher_lr_final"]
    discount = v["discount"] if is_student else v["teacher_discount"]
    schedule = "" if lr_final is None or lr_final == lr else f"_{lr_final}"
    return (
        f"ppo_lr{lr}{schedule}g{discount}cv{v[f'{agent}_value_loss_coef']}ce{v[f'{agent}_entropy_coef']}"
        f"e{v[f'{agent}_ppo_n_epochs']}mb{v[f'{agent}_ppo_n_minibatches']}l{v[f'{agent}_gae_lambda']}"
        f"{'_' if is_student else ''}pc{v[f'{agent}_ppo_clip_eps']}"
    )


def _model(v: Values, agent: str) -> str:
    if f"{agent}_hidden_dim" not in v:  # a network with flags of its own
        return str(v[f"{agent}_model_name"])
    name = (
        f"h{v[f'{agent}_hidden_dim']}cf{v[f'{agent}_n_conv_filters']}fc{v[f'{agent}_n_hidden_layers']}"
        f"se{v[f'{agent}_scalar_embed_dim']}ba_{v[f'{agent}_base_activation'][:2]}"
    )
    arch = v[f"{agent}_recurrent_arch"]
    if arch == "s5":
        position = v[f"{agent}_s5_layernorm_pos"]
        name += f"_l{position[:2]}" if position else ""
        name += f"_a{_S5_ACTIVATION_CODES[v[f'{agent}_s5_activation']]}"
    if arch is not None:
        name += f"_{arch}_h{v[f'{agent}_recurrent_hidden_dim']}"
    if arch == "s5":
        name += f"nb{v[f'{agent}_s5_n_blocks']}nl{v[f'{agent}_s5_n_layers']}"
    ensemble = v.get(f"{agent}_value_ensemble_size", 1)
    return name + (f"ve{ensemble}" if ensemble > 1 else "")


def _extensions(v: Values) -> str:
    """Letters of settings minimax does not have; nothing while they are off."""
    return ("_tl" if v["bootstrap_time_limits"] else "") + ("_mx" if v["ued_compat"] == "minimax" else "")

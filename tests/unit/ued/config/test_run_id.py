"""Run ids, compared with those of minimax."""

from __future__ import annotations

import pytest

from sample_factory.ued.config.files import as_text, find_config, load_config
from sample_factory.ued.config.parser import parse_tokens
from sample_factory.ued.config.run_id import run_id

STUDENT = "h32cf16fc1se5ba_re"
LSTM = f"{STUDENT}_lstm_h256"
SIZE = "32p_1e_256t_ae1e-05"
DR = f"dr-maze13x13w60na_f-r1s_{SIZE}-ppo_lr0.0001g0.995cv0.5ce0.001e5mb1l0.98_pc0.2_"

# (shipped configuration, changes to it, run id)
KNOWN = [
    ("dr", {}, DR + LSTM),
    (
        "plr",
        {},
        f"plr-maze13x13w60na_f-rf_p0.5b4000t0.3s0.3m0.5r_r1s_{SIZE}_smm-"
        f"ppo_lr0.0003g0.999cv0.5ce0.0e5mb1l0.98_pc0.2_{LSTM}",
    ),
    (
        "paccel",
        {},
        f"plr-maze13x13w0na_f-rpf_p0.8b4000t0.3s0.5m0.5r_mdef20bat_r1s_{SIZE}_smm-"
        f"ppo_lr0.0001g0.999cv0.5ce0.001e5mb1l0.98_pc0.2_{LSTM}",
    ),
    (
        "paired",
        {},
        f"paired-maze13x13w60_na_ld50_fr-r2s_{SIZE}_sr-ppo_lr0.0001g0.995cv0.5ce0.001e5mb1l0.98_pc0.2_{LSTM}"
        "_tch_ppo_lr0.0001g0.995cv0.5ce0.05e5mb1l0.98pc0.2_h32cf128fc1se10ba_re_lstm_h256",
    ),
    (
        "s5_plr",
        {},
        f"plr-maze13x13w60na_f-rf_p0.5b4000t0.5s0.5m0.5r_r1s_{SIZE}_smm-"
        f"ppo_lr0.0001g0.999cv0.5ce0.001e5mb1l0.98_pc0.2_{STUDENT}_lpr_ahg1_s5_h256nb2nl2",
    ),
    (
        "plr",
        {"plr_use_robust_plr": False, "plr_force_unique": False},
        f"plr-maze13x13w60na_f-p0.5b4000t0.3s0.3m0.5r_r1s_{SIZE}_smm-"
        f"ppo_lr0.0003g0.999cv0.5ce0.0e5mb1l0.98_pc0.2_{LSTM}",
    ),
    (
        "accel",
        {"plr_mutation_criterion": "easy", "maze_sample_n_walls": True, "plr_use_score_ranks": False},
        f"plr-maze13x13w0na_fs-rf_p0.8b4000t0.3s0.5m0.5_mdef20eas4_r1s_{SIZE}_smm-"
        f"ppo_lr0.0003g0.999cv0.5ce0.0e5mb1l0.98_pc0.2_{LSTM}",
    ),
    (
        "paired",
        {
            "maze_ued_fixed_n_wall_steps": False,
            "maze_ued_replace_wall_pos": False,
            "maze_see_agent": True,
            "maze_ued_n_walls": 40,
            "maze_ued_set_agent_dir": True,
        },
        f"paired-maze13x13w60__ld50_d-r2s_{SIZE}_sr-ppo_lr0.0001g0.995cv0.5ce0.001e5mb1l0.98_pc0.2_{LSTM}"
        "_tch_ppo_lr0.0001g0.995cv0.5ce0.05e5mb1l0.98pc0.2_h32cf128fc1se10ba_re_lstm_h256",
    ),
    (
        "paired",
        {
            "maze_ued_fixed_n_wall_steps": False,
            "maze_ued_replace_wall_pos": False,
            "teacher_lr": 0.001,
            "lr_final": 0.00005,
            "lr_anneal_steps": 100,
            "n_devices": 2,
        },
        f"paired-maze13x13w60_na_ld50-r2s_{SIZE}_d2_sr-ppo_lr0.0001_5e-05g0.995cv0.5ce0.001e5mb1l0.98_pc0.2_{LSTM}"
        "_tch_ppo_lr0.001_5e-05g0.995cv0.5ce0.05e5mb1l0.98pc0.2_h32cf128fc1se10ba_re_lstm_h256",
    ),
    (
        "s5_dr",
        {"student_s5_layernorm_pos": None, "student_s5_activation": "gelu", "student_base_activation": "crelu"},
        DR.replace("lr0.0001", "lr3e-05") + "h32cf16fc1se5ba_cr_ag_s5_h256nb2nl2",
    ),
    ("dr", {"student_recurrent_arch": None, "student_value_ensemble_size": 3}, f"{DR}{STUDENT}ve3"),
    ("dr", {"maze_see_agent": True, "maze_replace_wall_pos": False}, DR.replace("na_f", "") + LSTM),
]


def id_of(name: str, changes: dict[str, object]) -> str:
    args = {**load_config(find_config(f"maze/{name}")).single_args(), **changes}
    parsed = parse_tokens([(flag, as_text(value)) for flag, value in args.items()])
    assert not parsed.problems
    return run_id(parsed.values)


@pytest.mark.parametrize(("name", "changes", "expected"), KNOWN)
def test_known_ids(name: str, changes: dict[str, object], expected: str) -> None:
    assert id_of(name, changes) == expected


def test_other_environments_are_called_by_their_name() -> None:
    parsed = parse_tokens([("env_name", "Lava-Deep"), ("student_model_name", "mine")])
    assert run_id(parsed.values).split("-")[1] == "lava_deep"
    assert run_id(parsed.values).endswith("_pc0.2_mine")


def test_sfl() -> None:
    parsed = parse_tokens([("train_runner", "sfl"), ("sfl_batch_size", "7")])
    assert run_id(parsed.values).split("-")[2] == "i100n5x7t2000e10b1000f0.5_r1s_1p_1e_250t_ae1e"


def test_extensions_change_the_id_only_when_they_are_on() -> None:
    plain = id_of("dr", {})
    assert id_of("dr", {"bootstrap_time_limits": True, "ued_compat": "minimax"}) == f"{plain}_tl_mx"


def test_too_long_for_a_folder() -> None:
    parsed = parse_tokens([("env_name", "x" * 300)])
    with pytest.raises(ValueError, match="give --xpid instead"):
        run_id(parsed.values)

from __future__ import annotations

import copy
import json
from argparse import Namespace
from pathlib import Path

import pytest

import sample_factory.pbt.population_based_training as pbt_module
from sample_factory.pbt.population_based_training import (
    HYPERPARAMS_TO_TUNE,
    PopulationBasedTraining,
    load_model_signal,
    policy_cfg_file,
    policy_reward_shaping_file,
    save_model_signal,
    update_cfg_signal,
)
from sample_factory.pbt.store import JsonFiles, pbt_state_file
from tests.unit.pbt.population import SmallRunner, make_cfg, start_population

SCHEME = {"rew": -1.0, "delta": {"health": [0.5, -0.5]}}


def read(path: str):
    return json.loads(Path(path).read_text())


def test_public_names_and_signal_names():
    assert (update_cfg_signal(2), save_model_signal(0), load_model_signal(1)) == (
        "update_cfg2",
        "save_model0",
        "load_model1",
    )
    assert "gamma" not in HYPERPARAMS_TO_TUNE and len(HYPERPARAMS_TO_TUNE) == 6
    assert pbt_module.REWARD_CATEGORIES_TO_TUNE == {"doom_": ["delta", "selected_weapon"]}
    assert set(pbt_module.SPECIAL_PERTURBATION) == {"gamma", "adam_beta1", "vtrace_rho", "vtrace_c", "batch_size"}


@pytest.mark.parametrize("serial_mode", [True, False])
def test_start_sends_every_learner_its_parameters(tmp_path, serial_mode):
    cfg = make_cfg(str(tmp_path))
    pbt, runner = start_population(cfg, SCHEME, serial_mode)
    for policy_id, learner in runner.learners.items():
        assert learner.received_cfgs == [pbt.policy_cfg[policy_id]]
        assert set(learner.received_cfgs[0]) == HYPERPARAMS_TO_TUNE
    assert runner.learners[0].received_cfgs[0] == {name: cfg[name] for name in HYPERPARAMS_TO_TUNE}
    assert runner.learners[1].received_cfgs[0]["learning_rate"] != cfg.learning_rate
    assert [policy_id for policy_id, _ in runner.shaping_updates] == [0, 1, 2, 3]
    assert runner.shaping_updates[0][1] == SCHEME and runner.shaping_updates[1][1] != SCHEME


def test_start_writes_the_files_of_every_policy(tmp_path):
    cfg = make_cfg(str(tmp_path))
    pbt, _ = start_population(cfg, None)
    for policy_id in range(4):
        assert read(policy_cfg_file(cfg, policy_id)) == pbt.policy_cfg[policy_id]
        assert Path(policy_reward_shaping_file(cfg, policy_id)).read_text() == "null"


def test_saved_files_win_over_the_configuration_and_are_not_mutated(tmp_path):
    cfg = make_cfg(str(tmp_path))
    JsonFiles().write(policy_cfg_file(cfg, 2), {"learning_rate": 0.5})
    JsonFiles().write(policy_reward_shaping_file(cfg, 2), {"rew": 42.0})
    pbt, _ = start_population(cfg, SCHEME)
    assert pbt.policy_cfg[2] == {name: cfg[name] for name in HYPERPARAMS_TO_TUNE} | {"learning_rate": 0.5}
    assert pbt.policy_reward_shaping[2] == {"rew": 42.0}


def test_damaged_file_is_a_clear_error(tmp_path):
    cfg = make_cfg(str(tmp_path))
    Path(policy_cfg_file(cfg, 1)).write_text("{")
    with pytest.raises(ValueError, match="policy_01_cfg"):
        start_population(cfg)


def test_gamma_joins_on_request_without_touching_the_module_set(tmp_path):
    pbt, _ = start_population(make_cfg(str(tmp_path), pbt_optimize_gamma=True))
    assert all("gamma" in row for row in pbt.policy_cfg)
    assert "gamma" not in HYPERPARAMS_TO_TUNE


def test_q17_works_with_a_namespace_cfg(tmp_path):
    cfg = make_cfg(str(tmp_path))
    runner = SmallRunner(cfg, None, serial_mode=True)
    pbt = PopulationBasedTraining(Namespace(**cfg), runner)
    pbt.on_init(runner)
    assert pbt.policy_cfg[0]["learning_rate"] == cfg.learning_rate


def test_q18_neither_the_shared_cfg_nor_sent_rows_are_shared(tmp_path):
    cfg = make_cfg(str(tmp_path))
    before = copy.deepcopy(cfg)
    pbt, runner = start_population(cfg, SCHEME)
    runner.report([1.0, 2.0, 3.0, 4.0], env_steps=300)
    pbt.on_training_step(runner, 1)
    runner.process_signals()
    assert cfg == before

    received = runner.learners[1].received_cfgs[-1]
    received["learning_rate"] = -1.0
    runner.shaping_updates[-1][1]["rew"] = -99.0
    assert pbt.policy_cfg[1]["learning_rate"] > 0
    assert all(scheme["rew"] != -99.0 for scheme in pbt.policy_reward_shaping)
    assert runner.env_info.reward_shaping_scheme == SCHEME == {"rew": -1.0, "delta": {"health": [0.5, -0.5]}}


@pytest.mark.parametrize("serial_mode", [True, False])
def test_update_replaces_the_worst_mutates_the_middle_and_keeps_the_best(tmp_path, serial_mode):
    cfg = make_cfg(str(tmp_path))
    pbt, runner = start_population(cfg, SCHEME, serial_mode)
    before = copy.deepcopy(pbt.policy_cfg)
    runner.report([5.0, 1.0, 5.0, 10.0], env_steps=300)
    pbt.on_training_step(runner, 1)
    runner.process_signals()

    learners = runner.learners
    assert learners[1].loaded_policies == [3]  # worst: weights of the best, mutated parameters
    assert pbt.policy_cfg[1] != before[1] and pbt.policy_cfg[1] != before[3]
    assert learners[2].loaded_policies == [] and pbt.policy_cfg[2] != before[2]
    assert learners[3].loaded_policies == [] and pbt.policy_cfg[3] == before[3]
    assert learners[3].num_saves == 1 and learners[2].num_saves == 1
    assert [len(learner.received_cfgs) for learner in learners.values()] == [2, 2, 2, 1]
    assert read(policy_cfg_file(cfg, 1)) == pbt.policy_cfg[1] == learners[1].received_cfgs[-1]
    assert pbt.replacement_policy == [None] * 4


def test_policy_zero_takes_over_but_never_mutates(tmp_path):
    pbt, runner = start_population(make_cfg(str(tmp_path)), SCHEME)
    best_cfg, best_shaping = copy.deepcopy(pbt.policy_cfg[3]), copy.deepcopy(pbt.policy_reward_shaping[3])
    runner.report([1.0, 5.0, 6.0, 10.0], env_steps=300)
    pbt.on_training_step(runner, 1)
    runner.process_signals()
    assert runner.learners[0].loaded_policies == [3]
    assert pbt.policy_cfg[0] == best_cfg and pbt.policy_reward_shaping[0] == best_shaping


def test_nothing_happens_before_the_start_and_within_a_period(tmp_path):
    pbt, runner = start_population(make_cfg(str(tmp_path)))
    objectives = [1.0, 2.0, 3.0, 4.0]
    num_saves = []
    for env_steps in (199, 200, 300, 301):
        runner.report(objectives, env_steps)
        pbt.on_training_step(runner, 1)
        runner.process_signals()
        num_saves.append(sum(learner.num_saves for learner in runner.learners.values()))
    # 200 is more than a period after 0; 300 is not more than a period after 200
    assert num_saves == [0, 3, 3, 6]


def test_missing_objective_postpones_by_a_period_and_is_reported_once(tmp_path, caplog):
    pbt, runner = start_population(make_cfg(str(tmp_path)))
    pbt_module.log.addHandler(caplog.handler)
    try:
        for env_steps in (300, 500):
            runner.report([1.0, 2.0, 3.0, 4.0], env_steps, key="reward")
            pbt.on_training_step(runner, 1)
    finally:
        pbt_module.log.removeHandler(caplog.handler)
    assert pbt.last_update == [500] * 4
    messages = [r.getMessage() for r in caplog.records if "--pbt_target_objective" in r.getMessage()]
    assert len(messages) == 1 and "['reward']" in messages[0]


@pytest.mark.parametrize("overrides", [{"with_pbt": False}, {"num_policies": 1}])
def test_no_updates_without_pbt_or_population(tmp_path, overrides):
    pbt, runner = start_population(make_cfg(str(tmp_path), **overrides))
    runner.report([1.0] * runner.cfg.num_policies, env_steps=10_000)
    pbt.on_training_step(runner, 1)
    runner.process_signals()
    assert all(learner.num_saves == 0 for learner in runner.learners.values())


def test_policies_that_did_not_report_steps_are_left_out(tmp_path):
    pbt, runner = start_population(make_cfg(str(tmp_path)))
    runner.report([1.0, 2.0, 3.0, 4.0], env_steps=300)
    del runner.env_steps[1]
    pbt.on_training_step(runner, 1)
    assert pbt.last_update == [300, 0, 300, 300]


def test_summaries_have_the_tags_of_the_original(tmp_path):
    pbt, runner = start_population(make_cfg(str(tmp_path)), SCHEME)
    runner.report([1.0, 2.0, 3.0, 4.0], env_steps=300)
    pbt.on_training_step(runner, 1)
    scalars = runner.writers[1].scalars
    assert {tag for tag, _, _ in scalars} == {f"zz_pbt/cfg_{name}" for name in HYPERPARAMS_TO_TUNE} | {
        "zz_pbt/rew_rew",
        "zz_pbt/rew_health_0",
        "zz_pbt/rew_health_1",
    }
    assert {step for _, _, step in scalars} == {300}


def test_resume_continues_parameters_schedule_and_random_stream(tmp_path):
    cfg = make_cfg(str(tmp_path))
    pbt, runner = start_population(cfg, SCHEME)
    runner.report([1.0, 2.0, 3.0, 4.0], env_steps=300)
    pbt.on_training_step(runner, 1)
    runner.process_signals()

    resumed, resumed_runner = start_population(cfg, SCHEME)
    assert resumed.policy_cfg == pbt.policy_cfg
    assert json.dumps(resumed.policy_reward_shaping) == json.dumps(pbt.policy_reward_shaping)
    assert resumed.last_update == [300] * 4
    assert resumed.rng.bit_generator.state == pbt.rng.bit_generator.state
    resumed_runner.report([1.0, 2.0, 3.0, 4.0], env_steps=400)
    resumed.on_training_step(resumed_runner, 1)
    resumed_runner.process_signals()
    assert all(learner.num_saves == 0 for learner in resumed_runner.learners.values())


def test_another_seed_has_a_random_stream_of_its_own_also_on_resume(tmp_path):
    cfg, other = make_cfg(str(tmp_path), seed=1), make_cfg(str(tmp_path), seed=2)
    first, runner = start_population(cfg, SCHEME)
    runner.report([1.0, 2.0, 3.0, 4.0], env_steps=300)
    first.on_training_step(runner, 1)
    runner.process_signals()
    resumed, _ = start_population(other, SCHEME)
    fresh, _ = start_population(make_cfg(str(tmp_path / "fresh"), seed=2), SCHEME)
    assert resumed.last_update == [300] * 4
    streams = [pbt.rng.bit_generator.state["state"]["inc"] for pbt in (first, resumed, fresh)]  # which one, not where
    assert streams[0] != streams[1] == streams[2]


def test_resume_without_a_state_file_starts_the_schedule_at_zero(tmp_path):
    cfg = make_cfg(str(tmp_path))
    start_population(cfg)
    Path(pbt_state_file(cfg)).unlink()
    pbt, _ = start_population(cfg)
    assert pbt.last_update == [0] * 4


def test_an_update_cut_off_by_a_crash_is_repeated_after_resume(tmp_path):
    cfg = make_cfg(str(tmp_path))
    pbt, runner = start_population(cfg)
    runner.report([1.0, 2.0, 3.0, 4.0], env_steps=300)
    pbt.on_training_step(runner, 1)  # the answers of the learners never arrive

    resumed, _ = start_population(cfg)
    assert resumed.last_update == [0, 0, 0, 300]  # only the best policy had nothing to wait for
    assert resumed.policy_cfg[3] == pbt.policy_cfg[3]


def test_schedule_ahead_of_a_restarted_experiment_does_not_block_it(tmp_path):
    cfg = make_cfg(str(tmp_path))
    pbt, runner = start_population(cfg)
    pbt.last_update = [1_000_000] * 4
    runner.report([1.0, 2.0, 3.0, 4.0], env_steps=300)
    pbt.on_training_step(runner, 1)
    assert pbt.last_update == [300] * 4


def test_same_seed_same_population_other_seed_other_population(tmp_path):
    first, _ = start_population(make_cfg(str(tmp_path / "a"), seed=1), SCHEME)
    second, _ = start_population(make_cfg(str(tmp_path / "b"), seed=1), SCHEME)
    third, _ = start_population(make_cfg(str(tmp_path / "c"), seed=2), SCHEME)
    assert first.policy_cfg == second.policy_cfg and first.policy_reward_shaping == second.policy_reward_shaping
    assert first.policy_cfg[1] != third.policy_cfg[1]


def test_doom_environments_tune_only_two_reward_categories(tmp_path):
    scheme = {"kill": 1.0, "delta": {"health": 0.5}, "selected_weapon": {"gun": 2.0}}
    pbt, _ = start_population(make_cfg(str(tmp_path), env="doom_battle"), scheme)
    shaped = pbt.policy_reward_shaping[1]
    assert shaped["kill"] == 1.0 and shaped["delta"]["health"] != 0.5 and shaped["selected_weapon"]["gun"] != 2.0

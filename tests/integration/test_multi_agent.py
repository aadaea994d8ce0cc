"""Action masks, inactive agents, several policies, and what flows from the learner to the environment."""

from __future__ import annotations

import json

import numpy as np
import pytest

from sample_factory.algo.runners.runner import AlgoObserver
from sample_factory.algo.utils.misc import ExperimentStatus
from tests.integration.harness import MODES, checkpoints, experiment, train
from tests.integration.masked_env import register_custom_components

pytestmark = pytest.mark.multiproc


@pytest.fixture(autouse=True)
def environments():
    register_custom_components()


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("mode", ["async", "serial_sync"])
def test_forbidden_actions_are_never_taken(tmp_path, mode, batched):
    """The environment raises if they are. Q05: the learner uses the mask, too, so ratios start at one."""
    ratios = []

    class Ratios(AlgoObserver):
        def on_init(self, runner):
            runner.register_policy_msg_handler("train", lambda runner, msg, p: ratios.append(msg["train"]))

    # Without input normalisation, whose statistics change before the first update, the weights are all that matters.
    args = (f"--batched_sampling={batched}", "--use_rnn=True", "--normalize_input=False")
    status, _runner = train(tmp_path, *MODES[mode], *args, env="masked_env", observer=Ratios())
    assert status == ExperimentStatus.SUCCESS
    if mode == "serial_sync":
        assert ratios[0]["ratio_max"] == pytest.approx(1.0, abs=1e-3)
        assert ratios[0]["ratio_min"] == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("mode", MODES)
def test_inactive_agents_do_not_count(tmp_path, mode):
    """A quarter of the experience is invalid: one of two agents pauses every other step."""
    fractions = []

    class Valids(AlgoObserver):
        def on_init(self, runner):
            handler = lambda runner, msg, p: fractions.append(msg["train"]["valids_fraction"])  # noqa: E731
            runner.register_policy_msg_handler("train", handler)

    args = ("--use_rnn=True", "--batch_size=128")
    status, runner = train(tmp_path, *MODES[mode], *args, env="two_agents", observer=Valids())
    assert status == ExperimentStatus.SUCCESS
    assert np.mean(fractions) == pytest.approx(0.75, abs=0.05)
    assert runner.metrics.mean("true_objective", 0) == 42.0


def test_training_info_and_reward_shaping_reach_the_environment(tmp_path):
    class Shaping(AlgoObserver):
        def on_start(self, runner):
            assert runner.reward_shaping == [{"bonus": 1.0}]
            runner.update_reward_shaping(0, {"bonus": 3.0})

    status, runner = train(tmp_path, env="two_agents", observer=Shaping())
    assert status == ExperimentStatus.SUCCESS
    assert runner.metrics.mean("seen_training_steps", 0) >= 0
    assert max(runner.policy_avg_stats["reward"][0]) == 30.0


@pytest.mark.parametrize("mode", MODES)
def test_agents_of_one_environment_follow_different_policies(tmp_path, mode):
    status, runner = train(tmp_path, *MODES[mode], "--num_policies=2", "--use_rnn=True", env="two_agents")
    assert status == ExperimentStatus.SUCCESS
    for policy_id in range(2):
        assert runner.env_steps[policy_id] > 2000
        assert checkpoints(tmp_path, policy_id)


PBT = (
    "--with_pbt=True",
    "--num_policies=2",
    "--pbt_period_env_steps=300",
    "--pbt_start_mutation=300",
    "--pbt_mutation_rate=1.0",
    "--train_for_env_steps=4000",
)


def pbt_files(tmp_path, policy_id):
    directory = experiment(tmp_path)
    names = (f"policy_{policy_id:02d}_cfg.json", f"policy_{policy_id:02d}_reward_shaping.json")
    return [json.loads((directory / name).read_text()) for name in names]


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("mode", ["async", "serial_async"])
def test_population_based_training_and_its_resume(tmp_path, mode, batched):
    args = (*MODES[mode], *PBT, f"--batched_sampling={batched}", "--pbt_replace_reward_gap=1000000")
    status, runner = train(tmp_path, *args)
    assert status == ExperimentStatus.SUCCESS
    reference, _ = pbt_files(tmp_path, 0)
    assert reference["learning_rate"] == runner.cfg.learning_rate, "policy 0 is the reference"
    mutated, shaping = pbt_files(tmp_path, 1)
    assert mutated["learning_rate"] != reference["learning_rate"]
    assert shaping is None

    status, resumed = train(tmp_path, *args, "--train_for_env_steps=6000", "--pbt_start_mutation=1000000")
    assert status == ExperimentStatus.SUCCESS
    assert pbt_files(tmp_path, 1)[0] == mutated, "resumed with the tuned parameters, and nothing was due"
    assert all(steps > 6000 for steps in resumed.env_steps.values())


@pytest.mark.parametrize("mode", ["async", "serial_async"])
def test_worse_policy_continues_from_the_better_one(tmp_path, mode):
    """With no gap required, the worse of two policies takes over weights at every update."""
    args = (*PBT, "--pbt_replace_reward_gap=0.0", "--pbt_replace_reward_gap_absolute=0.0", "--pbt_replace_fraction=0.5")
    loads = []

    class Loads(AlgoObserver):
        def on_training_step(self, runner, training_iteration_since_resume):
            pbt = next(observer for observer in runner.observers if hasattr(observer, "replacement_policy"))
            loads.extend(p for p, source in enumerate(pbt.replacement_policy) if source not in (None, p))

    status, _ = train(tmp_path, *MODES[mode], *args, observer=Loads())
    assert status == ExperimentStatus.SUCCESS
    assert loads

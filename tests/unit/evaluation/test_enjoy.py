from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from sample_factory import enjoy as enjoy_module
from sample_factory.algo.utils.context import reset_global_context
from sample_factory.enjoy import enjoy, load_state_dict, main, make_env
from sample_factory.model.actor_critic import create_actor_critic
from sample_factory.utils.checkpoint_files import CONFIG_KEY
from tests.unit.evaluation.experiments import (
    CountdownEnv,
    MaskedEnv,
    TeamEnv,
    make_experiment,
    parse_eval,
    register,
)

ORIGINAL_EXPERIMENTS = Path(__file__).parents[2] / "fixtures" / "checkpoints"


@pytest.fixture(autouse=True)
def fresh_registry():
    reset_global_context()
    yield
    reset_global_context()


@pytest.fixture
def countdown(tmp_path):
    """Journal of a registered environment with an experiment in tmp_path; emptied before the evaluation."""
    journal: list = []
    register("countdown", CountdownEnv, journal)
    make_experiment("countdown", tmp_path)
    journal.clear()
    return journal


def num_steps(journal: list) -> int:
    return sum(entry[0] == "step" for entry in journal)


def test_returns_the_mean_episode_reward(countdown, tmp_path):
    status, reward = enjoy(parse_eval("countdown", tmp_path, "--no_render", "--max_num_episodes=3"))
    assert (status, reward) == (0, 5.0)
    assert num_steps(countdown) == 15 and countdown[-1] == ("close", None)


def test_scripts_show_the_result_even_if_not_all_agents_finished(countdown, tmp_path, caplog):
    enjoy_module.log.addHandler(caplog.handler)
    try:
        enjoy(parse_eval("countdown", tmp_path, "--no_render", "--max_num_frames=4"))
    finally:
        enjoy_module.log.removeHandler(caplog.handler)
    assert "Evaluated countdown (experiment run, policy 0): 0 episodes, average reward nan" in caplog.text


def test_q37_evaluates_exactly_the_requested_number_of_frames(countdown, tmp_path):
    enjoy(parse_eval("countdown", tmp_path, "--no_render", "--max_num_frames=12"))
    assert num_steps(countdown) == 12


def test_q22_no_finished_episode_is_a_warning_not_a_crash(countdown, tmp_path, caplog):
    enjoy_module.log.addHandler(caplog.handler)
    try:
        status, reward = enjoy(parse_eval("countdown", tmp_path, "--no_render", "--max_num_frames=4"))
    finally:
        enjoy_module.log.removeHandler(caplog.handler)
    assert status == 0 and math.isnan(reward)
    assert "No episode finished within 4 frames" in caplog.text


def test_reset_on_init_is_switched_off(tmp_path):
    seen = []

    class ObservedEnv(CountdownEnv):
        def reset(self, **kwargs):
            seen.append(self.reset_on_init)
            return super().reset(**kwargs)

    register("observed", ObservedEnv, [])
    make_experiment("observed", tmp_path)
    enjoy(parse_eval("observed", tmp_path, "--no_render", "--max_num_frames=2"))
    assert seen == [False]


def test_smaller_frameskip_repeats_actions(tmp_path):
    journal: list = []
    register("countdown", CountdownEnv, journal, episode_len=8)
    make_experiment("countdown", tmp_path, "--env_frameskip=4")
    journal.clear()
    options = ["--no_render", "--eval_env_frameskip=1", "--max_num_episodes=2"]
    assert enjoy(parse_eval("countdown", tmp_path, *options))[1] == 8.0
    assert journal[0] == ("make", None, 1)
    actions = [entry[1] for entry in journal if entry[0] == "step"]
    assert len(actions) == 16
    assert all(len(set(actions[i : i + 4])) == 1 for i in range(0, 16, 4))


def test_actions_are_not_carried_into_the_next_episode(tmp_path):
    journal: list = []
    register("countdown", CountdownEnv, journal, episode_len=3)
    make_experiment("countdown", tmp_path, "--env_frameskip=2")
    journal.clear()
    enjoy(parse_eval("countdown", tmp_path, "--no_render", "--eval_env_frameskip=1", "--max_num_episodes=1"))
    assert num_steps(journal) == 3


def test_explicit_seed_makes_an_evaluation_repeatable(countdown, tmp_path):
    options = ["--no_render", "--max_num_frames=30", "--seed=3"]
    enjoy(parse_eval("countdown", tmp_path, *options))
    first = [entry for entry in countdown if entry[0] != "render"]
    countdown.clear()
    enjoy(parse_eval("countdown", tmp_path, *options))
    assert [entry[0] for entry in first] == [entry[0] for entry in countdown]
    assert ("reset", 3) in first


def test_seed_of_the_training_does_not_seed_the_evaluation(tmp_path):
    journal: list = []
    register("countdown", CountdownEnv, journal)
    make_experiment("countdown", tmp_path, "--seed=3")
    journal.clear()
    enjoy(parse_eval("countdown", tmp_path, "--no_render", "--max_num_frames=2"))
    assert journal[1] == ("reset", None)


def test_action_mask_reaches_the_policy(tmp_path):
    journal: list = []
    register("masked", MaskedEnv, journal)
    make_experiment("masked", tmp_path)
    for deterministic in (False, True):
        journal.clear()
        enjoy(
            parse_eval(
                "masked", tmp_path, "--no_render", "--max_num_frames=20", f"--eval_deterministic={deterministic}"
            )
        )
        assert {int(entry[1]) for entry in journal if entry[0] == "step"} == {2}


@pytest.mark.parametrize("deterministic", [False, True])
def test_several_agents_with_mixed_actions(tmp_path, deterministic):
    journal: list = []
    register("team", TeamEnv, journal)
    make_experiment("team", tmp_path)
    options = ["--no_render", "--max_num_episodes=4", f"--eval_deterministic={deterministic}"]
    status, reward = enjoy(parse_eval("team", tmp_path, *options))
    assert (status, reward) == (0, 4.5)  # agents: 3 and 6
    steps = [entry[1] for entry in journal if entry[0] == "step"]
    assert len(steps) == 6  # two episodes of both agents
    discrete, continuous = steps[0]
    assert discrete.shape == (2,) and continuous.shape == (2, 2)


def test_deterministic_actions_are_the_most_probable_ones(tmp_path):
    class ConstantEnv(CountdownEnv):
        def _obs(self):
            return np.array([0.3, -0.2, 0.9], np.float32)

    journal: list = []
    register("constant", ConstantEnv, journal)
    make_experiment("constant", tmp_path, "--use_rnn=False")
    journal.clear()
    enjoy(parse_eval("constant", tmp_path, "--no_render", "--max_num_frames=40", "--eval_deterministic=True"))
    assert len({int(entry[1]) for entry in journal if entry[0] == "step"}) == 1
    journal.clear()
    enjoy(parse_eval("constant", tmp_path, "--no_render", "--max_num_frames=40"))
    assert len({int(entry[1]) for entry in journal if entry[0] == "step"}) == 2


def test_without_a_display_the_environment_is_not_rendered(countdown, tmp_path, monkeypatch):
    monkeypatch.setattr("sample_factory.algo.evaluators.video.is_display_available", lambda: False)
    enjoy(parse_eval("countdown", tmp_path, "--max_num_frames=3"))
    assert countdown[0] == ("make", None, 1) and not any(entry[0] == "render" for entry in countdown)


def test_a_window_that_cannot_be_opened_is_given_up(tmp_path, monkeypatch):
    class WindowlessEnv(CountdownEnv):
        def reset(self, **kwargs):
            if self.render_mode == "human":
                raise RuntimeError("no window")
            return super().reset(**kwargs)

    monkeypatch.setattr("sample_factory.algo.evaluators.video.is_display_available", lambda: True)
    journal: list = []
    register("windowless", WindowlessEnv, journal)
    make_experiment("windowless", tmp_path)
    journal.clear()
    assert enjoy(parse_eval("windowless", tmp_path, "--max_num_episodes=1")) == (0, 5.0)
    assert [entry for entry in journal if entry[0] == "make"] == [("make", "human", 1), ("make", None, 1)]


def test_video_gets_the_frames_of_the_first_episode(countdown, tmp_path, monkeypatch):
    huggingface_utils = pytest.importorskip("sample_factory.huggingface.huggingface_utils")
    calls: list = []
    monkeypatch.setattr(huggingface_utils, "generate_replay_video", lambda *args: calls.append(args))
    options = ("--save_video", "--video_name=replay.gif", "--video_frames=-1", "--max_num_episodes=2")
    enjoy(parse_eval("countdown", tmp_path, *options))
    ((folder, frames, fps, _),) = calls
    assert folder == str(tmp_path / "run") and fps == 30
    assert [int(frame[0, 0, 0]) for frame in frames] == [0, 1, 2, 3, 4]
    assert countdown[0] == ("make", "rgb_array", 1)


def test_best_checkpoint_on_request(countdown, tmp_path):
    make_experiment("countdown", tmp_path, kind="best", seed=1)
    cfg = parse_eval("countdown", tmp_path)
    env = make_env(cfg)
    weights = []
    for kind in ("latest", "best"):
        cfg = parse_eval("countdown", tmp_path, f"--load_checkpoint_kind={kind}", "--encoder_mlp_layers", "8")
        actor_critic = create_actor_critic(cfg, env.observation_space, env.action_space)
        load_state_dict(cfg, actor_critic, torch.device("cpu"))
        weights.append(actor_critic.critic_linear.weight.detach().clone())
    assert not torch.equal(*weights)


def test_missing_checkpoint_is_a_clear_error(countdown, tmp_path):
    shutil.rmtree(tmp_path / "run" / "checkpoint_p0")
    with pytest.raises(RuntimeError, match=r"No checkpoint checkpoint_\* of policy 0 .*--policy_index"):
        enjoy(parse_eval("countdown", tmp_path, "--no_render"))


def test_weights_of_another_model_are_a_clear_error(countdown, tmp_path):
    with pytest.raises(RuntimeError, match="do not fit the model"):
        enjoy(parse_eval("countdown", tmp_path, "--no_render", "--rnn_size=16"))


@pytest.mark.parametrize(
    "experiment, env", [("gru_discrete", "CartPole-v1"), ("mlp_continuous_fixedstd", "Pendulum-v1")]
)
def test_experiments_of_the_original_evaluate_unchanged(tmp_path, capsys, experiment, env):
    shutil.copytree(ORIGINAL_EXPERIMENTS / experiment, tmp_path / experiment)
    argv = [f"--env={env}", f"--train_dir={tmp_path}", f"--experiment={experiment}", "--no_render", "--device=cpu"]
    assert main([*argv, "--max_num_episodes=2"]) == 0
    last_line = capsys.readouterr().out.strip().splitlines()[-1]
    assert last_line.startswith(f"Evaluated {env} (experiment {experiment}, policy 0): 2 episodes, average reward ")
    assert math.isfinite(float(last_line.split()[-1]))


def command_line(tmp_path: Path, env: str, *options: str) -> list[str]:
    return [f"--env={env}", f"--train_dir={tmp_path}", "--experiment=run", "--device=cpu", "--no_render", *options]


def test_cli_prints_the_result_last_and_returns_0(countdown, tmp_path, capsys):
    assert main(command_line(tmp_path, "countdown", "--max_num_episodes=2")) == 0
    last_line = capsys.readouterr().out.strip().splitlines()[-1]
    assert last_line == "Evaluated countdown (experiment run, policy 0): 2 episodes, average reward 5.000"


def test_cli_unknown_environment_names_near_matches_and_returns_2(countdown, tmp_path, capsys):
    assert main(command_line(tmp_path, "CartPol-v1")) == 2
    assert "CartPole-v1" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--no_such_flag=1", "--max_num_frames=0", "--policy_index=x"])
def test_cli_bad_flags_exit_with_2(countdown, tmp_path, option):
    with pytest.raises(SystemExit) as exit_info:
        main(command_line(tmp_path, "countdown", option))
    assert exit_info.value.code == 2


def test_cli_policy_that_does_not_exist_returns_2(countdown, tmp_path, capsys):
    assert main(command_line(tmp_path, "countdown", "--policy_index=3")) == 2
    assert "--policy_index=3" in capsys.readouterr().err


def test_cli_without_experiment_returns_1(tmp_path, capsys):
    """Its environment is unknown then, too: only the experiment says which module registers it."""
    assert main(command_line(tmp_path, "of_a_module_nobody_named")) == 1
    assert "--experiment=run" in capsys.readouterr().err


def test_cli_mistyped_experiment_names_near_matches(countdown, tmp_path, capsys):
    assert main([*command_line(tmp_path, "countdown"), "--experiment=rum"]) == 1
    assert "did you mean run?" in capsys.readouterr().err


@pytest.mark.parametrize("content", [None, "{"])
def test_cli_takes_a_lost_configuration_from_the_checkpoint(countdown, tmp_path, content):
    config_path = tmp_path / "run" / "config.json"
    saved = json.loads(config_path.read_text())
    (checkpoint,) = (tmp_path / "run" / "checkpoint_p0").iterdir()
    torch.save({**torch.load(checkpoint), CONFIG_KEY: json.dumps(saved)}, checkpoint)
    config_path.unlink()
    if content is not None:
        config_path.write_text(content)
    assert main(command_line(tmp_path, "countdown", "--max_num_episodes=1")) == 0
    assert json.loads(config_path.read_text()) == saved


def test_cli_without_checkpoint_returns_1(countdown, tmp_path, capsys):
    shutil.rmtree(tmp_path / "run" / "checkpoint_p0")
    assert main(command_line(tmp_path, "countdown")) == 1
    assert "No checkpoint" in capsys.readouterr().err


def test_cli_takes_custom_flags_of_the_training_from_config_json(countdown, tmp_path):
    config_path = tmp_path / "run" / "config.json"
    config_path.write_text(json.dumps(json.loads(config_path.read_text()) | {"custom_len": 3}))
    seen: list = []

    def make(full_env_name, cfg=None, env_config=None, render_mode=None):
        seen.append(cfg.custom_len)
        return CountdownEnv([], episode_len=cfg.custom_len)

    from sample_factory.envs.env_utils import register_env

    register_env("countdown", make)
    assert main(command_line(tmp_path, "countdown", "--max_num_episodes=1")) == 0
    assert main(command_line(tmp_path, "countdown", "--max_num_episodes=1", "--custom_len=7")) == 0
    assert seen == [3, 7]

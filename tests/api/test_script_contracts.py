"""Ways in which scripts for Sample Factory 2 hook into a training, beyond importing names."""

from __future__ import annotations

import argparse
import json
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from sample_factory.algo.learning.learner import Learner
from sample_factory.algo.runners.runner import AlgoObserver, Runner
from sample_factory.algo.utils.context import global_model_factory, reset_global_context
from sample_factory.algo.utils.misc import ExperimentStatus
from sample_factory.cfg.arguments import parse_full_cfg, parse_sf_args
from sample_factory.enjoy import enjoy
from sample_factory.model.actor_critic import ActorCriticSharedWeights, create_actor_critic
from sample_factory.model.core import ModelCore
from sample_factory.model.decoder import Decoder
from sample_factory.model.encoder import Encoder
from sample_factory.model.model_utils import nonlinearity
from sample_factory.train import make_runner, run_rl
from sample_factory.utils.attr_dict import AttrDict
from tests.integration.harness import SERIAL, TINY, checkpoints, experiment, parse, train

SHORT = (*SERIAL, "--train_for_env_steps=500")


@pytest.fixture(autouse=True)
def own_registry():
    reset_global_context()
    yield
    reset_global_context()


# --- runner ---


class ScriptObserver(AlgoObserver):
    """Uses the runner as published observers do."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.summary_args: list[tuple] = []
        self.iterations: list[int] = []
        self.versions: list[int] = []

    def on_init(self, runner: Runner) -> None:
        self.calls.append("init")
        assert runner.env_info.num_agents == 1
        assert runner.cfg.env == "CartPole-v1"

    def on_connect_components(self, runner: Runner) -> None:
        self.calls.append("connect")
        assert runner.learners[0].param_server.policy_id == 0

    def on_start(self, runner: Runner) -> None:
        self.calls.append("start")
        runner.policy_avg_stats["my_metric"] = [[] for _ in range(runner.cfg.num_policies)]

    def on_training_step(self, runner: Runner, training_iteration_since_resume: int) -> None:
        self.iterations.append(training_iteration_since_resume)
        self.versions.append(int(runner.buffer_mgr.policy_versions[0]))
        runner.policy_avg_stats["my_metric"][0].append(float(training_iteration_since_resume))
        runner.writers[0].add_scalar("mine/value", 1.0, runner.env_steps[0])

    # Published observers declare any order; what counts is the order of the call.
    def extra_summaries(self, *args) -> None:
        self.summary_args.append(args)

    def on_stop(self, runner: Runner) -> None:
        self.calls.append("stop")


def test_observer_hooks_and_what_they_find_in_the_runner(tmp_path) -> None:
    observer = ScriptObserver()
    status, runner = train(tmp_path, *SHORT, observer=observer)
    assert status == ExperimentStatus.SUCCESS
    assert observer.calls == ["init", "connect", "start", "stop"]
    assert observer.iterations == sorted(observer.iterations) and observer.iterations
    assert 0 < observer.versions[0] <= observer.versions[-1] <= runner.learners[0].learner.train_step
    assert runner.policy_avg_stats["my_metric"][0] == [float(i) for i in observer.iterations]
    caller, policy_id, writer, env_steps = observer.summary_args[-1]
    assert caller is runner and policy_id == 0
    assert writer is runner.writers[0]
    assert Path(writer.logdir) == experiment(tmp_path) / ".summary" / "0"
    assert env_steps == runner.env_steps[0]


def test_runner_attributes_can_be_read_and_set(tmp_path) -> None:
    _, runner = make_runner(parse(tmp_path, *TINY, *SHORT))
    runner.report_interval_sec = 1.0
    runner.update_training_info_every_sec = 0.1
    assert runner.timers[0]._interval_sec == 5.0
    runner.timers[0]._interval_sec = 1.0
    assert runner.init() == ExperimentStatus.SUCCESS
    assert runner.run() == ExperimentStatus.SUCCESS
    assert isinstance(runner.env_steps, dict) and runner.env_steps[0] > 500
    assert isinstance(runner.learners[0].learner, Learner)
    assert isinstance(runner.fps, tuple)  # one number per averaging window, after the first report
    assert set(runner.policy_lag[0]) >= {"version_diff_avg", "version_diff_min", "version_diff_max"}
    assert runner.total_env_steps_since_resume == runner.env_steps_since_resume[0] == runner.env_steps[0]
    runner._report()  # a run this short may have ended before its first report
    assert runner.fps_stats.maxlen == max(runner.avg_stats_intervals) == 60
    assert [window.maxlen for window in runner.throughput_stats] == [10]
    for now, number in (runner.fps_stats[-1], runner.throughput_stats[0][-1]):
        assert runner.start_time < now <= time.time() and isinstance(number, int)
    assert 0 < runner.total_train_seconds < time.time() - runner.start_time
    assert runner.sampler.rollout_workers[0].env_runners[0].envs
    for name in ("timing", "status", "reward_shaping", "samples_collected", "stats", "avg_stats", "msg_handlers"):
        assert hasattr(runner, name), name
    for name in ("policy_msg_handlers", "observers", "timers", "batchers", "env_info", "buffer_mgr"):
        assert hasattr(runner, name), name


def test_env_steps_since_resume_are_a_number_that_observers_can_compute_with(tmp_path) -> None:
    _, runner = make_runner(parse(tmp_path, *TINY, *SHORT, "--num_policies=2"))
    assert runner.total_env_steps_since_resume / 2 == 0
    for policy_id, env_steps in ((0, 1000), (1, 64), (0, 1064), (1, 256)):
        runner._process_msg({"learner_env_steps": env_steps, "policy_id": policy_id})
    assert runner.total_env_steps_since_resume == 64 + 192
    assert runner.env_steps_since_resume == {0: 64, 1: 192}
    runner.abort("only its numbers are looked at", ExperimentStatus.SUCCESS)


def test_message_handlers_get_runner_message_and_policy(tmp_path) -> None:
    _, runner = make_runner(parse(tmp_path, *TINY, *SHORT))
    seen: dict[str, list] = {"train": [], "episodic": [], "timing": [], "own": []}
    runner.register_policy_msg_handler("train", lambda *args: seen["train"].append(args))
    runner.register_episodic_stats_handler(lambda *args: seen["episodic"].append(args))
    runner.register_msg_handler(key="timing", func=lambda *args: seen["timing"].append(args))
    runner.register_msg_handler("own", lambda *args: seen["own"].append(args))
    assert runner.init() == ExperimentStatus.SUCCESS
    assert runner.run() == ExperimentStatus.SUCCESS
    runner._process_msg([{"own": 1}, {"own": 2}])
    assert [args[1]["own"] for args in seen["own"]] == [1, 2]
    for key in ("train", "episodic"):
        caller, msg, policy_id = seen[key][0]
        assert caller is runner and key in msg and policy_id == 0
    assert all(args[0] is runner and len(args) == 2 for args in seen["timing"])


def test_runner_subclass_with_an_own_constructor(tmp_path, monkeypatch) -> None:
    created = []
    original = Runner.__init__

    def patched(self, cfg, unique_name=None):
        original(self, cfg, unique_name)
        created.append(self)

    monkeypatch.setattr(Runner, "__init__", patched)
    status, runner = train(tmp_path, *SHORT)
    assert status == ExperimentStatus.SUCCESS and created == [runner]


# --- configuration ---


def test_configuration_can_be_mutated_and_rebuilt_before_training(tmp_path) -> None:
    cfg = parse(tmp_path, *TINY, *SHORT)
    cfg.learning_rate = 0.01
    as_dict = dict(vars(cfg))
    assert as_dict == cfg.__dict__
    rebuilt = Namespace(**as_dict)
    assert run_rl(rebuilt) == ExperimentStatus.SUCCESS
    assert json.loads((experiment(tmp_path) / "config.json").read_text())["learning_rate"] == 0.01


def test_parser_forms_scripts_rely_on() -> None:
    argv = ["--env=x", "--exploration_loss_coef=0.5", "--num_w=3", "--encoder_mlp_layers", "512", "256"]
    argv += ["--use_rnn", "False", "--async_rl=true", "--no_render", "--save_video", "--push_to_hub", "--my_flag=4"]
    parser, partial_cfg = parse_sf_args(argv, True)
    assert isinstance(parser, argparse.ArgumentParser) and partial_cfg.env == "x"
    parser.add_argument("--my_flag", type=int, default=1)
    parser.set_defaults(gamma=0.5, fps=17, never_declared="kept", lr_schedule="linear_decay")
    cfg = parse_full_cfg(parser, argv)
    assert isinstance(cfg, Namespace)
    assert (cfg.exploration_loss_coeff, cfg.num_workers, cfg.encoder_mlp_layers) == (0.5, 3, [512, 256])
    assert (cfg.use_rnn, cfg.async_rl, cfg.no_render, cfg.save_video, cfg.push_to_hub) == (
        False,
        True,
        True,
        True,
        True,
    )
    assert (cfg.gamma, cfg.fps, cfg.never_declared, cfg.lr_schedule, cfg.my_flag) == (
        0.5,
        17,
        "kept",
        "linear_decay",
        4,
    )
    assert cfg.cli_args["my_flag"] == 4


def test_defaults_outside_the_choices_reach_the_training(tmp_path) -> None:
    argv = [*TINY, *SHORT, "--env=CartPole-v1", f"--train_dir={tmp_path}", "--experiment=test"]
    parser, _ = parse_sf_args(argv)
    parser.set_defaults(lr_schedule="linear_decay")
    assert run_rl(parse_full_cfg(parser, argv)) == ExperimentStatus.SUCCESS


def test_monkeypatched_provenance(tmp_path, monkeypatch) -> None:
    diffs = []
    monkeypatch.setattr("sample_factory.cfg.arguments.get_git_commit_hash", lambda: ("abc", "my_repo"))
    monkeypatch.setattr("sample_factory.algo.runners.runner.save_git_diff", diffs.append)
    status, runner = train(tmp_path, *SHORT)
    assert status == ExperimentStatus.SUCCESS
    assert (runner.cfg.git_hash, runner.cfg.git_repo_name) == ("abc", "my_repo")
    assert [str(d) for d in diffs] == [str(experiment(tmp_path))]


def test_config_json_is_a_flat_dict_of_all_flags(tmp_path) -> None:
    cfg = parse(tmp_path, *TINY, *SHORT)
    assert run_rl(cfg) == ExperimentStatus.SUCCESS
    saved = json.loads((experiment(tmp_path) / "config.json").read_text())
    assert set(vars(cfg)) <= set(saved)
    assert next(iter(saved)) == "help"
    nested = [key for key, value in saved.items() if isinstance(value, dict)]
    assert nested == ["cli_args"]
    namespace = Namespace(**saved)
    evaluation = {"max_num_episodes": 1, "max_num_frames": 1000, "no_render": True}
    eval_cfg = parse(tmp_path, "--device=cpu", evaluation=True)
    for key, value in {**vars(namespace), **evaluation}.items():
        setattr(eval_cfg, key, value)
    assert enjoy(eval_cfg)[0] == ExperimentStatus.SUCCESS


# --- learner and checkpoints ---


def test_patched_learner_methods_are_the_ones_used(tmp_path, monkeypatch) -> None:
    calls: dict[str, int] = {}

    def count(name: str) -> Any:
        original = getattr(Learner, name)

        def patched(self, *args, **kwargs):
            calls[name] = calls.get(name, 0) + 1
            return original(self, *args, **kwargs)

        return patched

    names = ("init", "train", "_prepare_batch", "_calculate_losses", "_record_summaries", "load_from_checkpoint")
    for name in names:
        monkeypatch.setattr(Learner, name, count(name))
    status, runner = train(tmp_path, *SHORT)
    assert status == ExperimentStatus.SUCCESS
    assert set(calls) == set(names)
    assert calls["_prepare_batch"] == calls["_calculate_losses"] == runner.learners[0].learner.train_step


def test_load_checkpoint_replaced_by_a_script_brings_its_weights(tmp_path, monkeypatch) -> None:
    assert train(tmp_path / "source", *SHORT)[0] == ExperimentStatus.SUCCESS
    source = torch.load(checkpoints(tmp_path / "source")[-1], weights_only=True)
    monkeypatch.setattr(Learner, "load_checkpoint", staticmethod(lambda checkpoints, device: dict(source)))
    status, runner = train(tmp_path / "target", *SERIAL, f"--train_for_env_steps={source['env_steps'] + 500}")
    assert status == ExperimentStatus.SUCCESS
    assert runner.env_steps[0] - runner.total_env_steps_since_resume == source["env_steps"]


def test_checkpoint_written_by_a_client_is_resumed_and_evaluated(tmp_path) -> None:
    """Clients build the file themselves, with NumPy numbers in it, and start from it."""
    status, runner = train(tmp_path, *SHORT)
    own = torch.load(checkpoints(tmp_path)[-1], weights_only=True)
    assert list(own)[:6] == ["train_step", "env_steps", "best_performance", "model", "optimizer", "curr_lr"]
    del own["run_state"], own["cfg"]  # clients know of the six
    cfg = AttrDict(json.loads((experiment(tmp_path) / "config.json").read_text()))
    model = create_actor_critic(cfg, runner.env_info.obs_space, runner.env_info.action_space)
    state = {
        "train_step": 100_000,
        "env_steps": 6_400_000,
        "best_performance": np.float64(1.5),
        "model": model.state_dict(),
        "optimizer": own["optimizer"],
        "curr_lr": own["curr_lr"],
    }
    torch.save(state, experiment(tmp_path) / "checkpoint_p0" / "checkpoint_000100000_6400000.pth")
    files = Learner.get_checkpoints(Learner.checkpoint_dir(cfg, 0), "checkpoint_*")
    loaded = Learner.load_checkpoint(files, torch.device("cpu"))
    assert loaded["env_steps"] == 6_400_000 and loaded["best_performance"] == 1.5
    torch.testing.assert_close(loaded["model"], dict(model.state_dict()))

    eval_cfg = parse(tmp_path, "--device=cpu", "--no_render", "--max_num_episodes=1", evaluation=True)
    assert enjoy(eval_cfg)[0] == ExperimentStatus.SUCCESS
    status, resumed = train(tmp_path, *SERIAL, "--train_for_env_steps=6400100")
    assert status == ExperimentStatus.SUCCESS
    assert resumed.env_steps[0] - resumed.total_env_steps_since_resume == 6_400_000


# --- models ---


class OldStyleActorCritic(ActorCriticSharedWeights):
    """Written for 2.1.1: knows no action mask."""

    num_calls = 0

    def forward_tail(self, core_output, values_only: bool, sample_actions: bool):
        type(self).num_calls += 1
        return super().forward_tail(core_output, values_only, sample_actions)


def make_old_style_actor_critic(cfg, obs_space, action_space):
    return OldStyleActorCritic(global_model_factory(), obs_space, action_space, cfg)


def test_forward_tail_with_the_signature_of_2_1_1(tmp_path) -> None:
    OldStyleActorCritic.num_calls = 0
    global_model_factory().register_actor_critic_factory(make_old_style_actor_critic)
    status, runner = train(tmp_path, *SHORT)
    assert status == ExperimentStatus.SUCCESS
    assert OldStyleActorCritic.num_calls > 10
    assert isinstance(runner.learners[0].learner.actor_critic, OldStyleActorCritic)


def test_monkeypatched_forward_tail(tmp_path, monkeypatch) -> None:
    original = ActorCriticSharedWeights.forward_tail
    calls = []

    def forward_tail(self, core_output, values_only, sample_actions):
        calls.append(sample_actions)
        return original(self, core_output, values_only, sample_actions)

    monkeypatch.setattr(ActorCriticSharedWeights, "forward_tail", forward_tail)
    assert train(tmp_path, *SHORT)[0] == ExperimentStatus.SUCCESS
    assert set(calls) == {True, False}


class ScriptEncoder(Encoder):
    def __init__(self, cfg, obs_space):
        super().__init__(cfg)
        self.layers = nn.Sequential(nn.Linear(obs_space["obs"].shape[0], 12), nonlinearity(cfg))

    def forward(self, obs_dict):
        return self.layers(obs_dict["obs"])

    def get_out_size(self) -> int:
        return 12


class ScriptCore(ModelCore):
    """A gated layer without library support; gets a PackedSequence when learning."""

    seen: set[type] = set()

    def __init__(self, cfg, input_size: int):
        super().__init__(cfg)
        self.cfg = cfg
        self.cell = nn.GRU(input_size, cfg.rnn_size)

    def forward(self, head_output, rnn_states):
        self.seen.add(type(head_output))
        is_packed = isinstance(head_output, PackedSequence)
        x = head_output if is_packed else head_output.unsqueeze(0)
        out, states = self.cell(x, rnn_states.unsqueeze(0).contiguous())
        return out if is_packed else out.squeeze(0), states.squeeze(0)

    def get_out_size(self) -> int:
        return self.cfg.rnn_size


class ScriptDecoder(Decoder):
    def __init__(self, cfg, decoder_input_size: int):
        super().__init__(cfg)
        self.layer = nn.Linear(decoder_input_size, 9)

    def forward(self, core_output):
        return torch.tanh(self.layer(core_output))

    def get_out_size(self) -> int:
        return 9


def make_script_decoder(cfg, decoder_input_size):
    return ScriptDecoder(cfg, decoder_input_size)


@pytest.mark.multiproc
@pytest.mark.parametrize("mode", [SERIAL, ()], ids=["serial", "async"])
@pytest.mark.parametrize("share_weights", [True, False])
def test_own_encoder_core_and_decoder(tmp_path, mode, share_weights) -> None:
    ScriptCore.seen.clear()
    factory = global_model_factory()
    factory.register_encoder_factory(ScriptEncoder)
    factory.register_model_core_factory(ScriptCore)
    factory.register_decoder_factory(make_script_decoder)
    flags = ("--use_rnn=True", "--train_for_env_steps=500", f"--actor_critic_share_weights={share_weights}")
    status, _ = train(tmp_path, *mode, *flags)
    assert status == ExperimentStatus.SUCCESS
    names = torch.load(checkpoints(tmp_path)[-1], weights_only=True)["model"]
    prefix = "" if share_weights else "actor_"
    for name in ("encoder.layers.0.weight", "core.cell.weight_ih_l0", "decoder.layer.weight"):
        assert prefix + name in names
    if mode == SERIAL:
        assert ScriptCore.seen == {torch.Tensor, PackedSequence}

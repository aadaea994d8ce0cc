"""Every flag of evaluation scripts, through ``enjoy`` on a tiny environment that writes down what happens to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sample_factory.algo.utils.make_env import make_env_func_batched
from sample_factory.enjoy import enjoy, load_state_dict
from sample_factory.huggingface import huggingface_utils
from sample_factory.model.actor_critic import create_actor_critic
from tests.unit.evaluation.experiments import CountdownEnv, make_experiment, parse_eval, register


@pytest.fixture
def evaluate(tmp_path: Path) -> Any:
    """Evaluates with the given options; returns what happened in the environment."""
    journal: list[Any] = []
    register("countdown_flags", CountdownEnv, journal)
    make_experiment("countdown_flags", tmp_path)

    def run(*options: str) -> list[Any]:
        journal.clear()
        enjoy(parse_eval("countdown_flags", tmp_path, *options))
        return list(journal)

    return run


def count(journal: list[Any], what: str) -> int:
    return sum(entry[0] == what for entry in journal)


def test_max_num_frames_and_episodes(evaluate: Any) -> None:
    """--max_num_frames, --max_num_episodes: episodes of five steps."""
    assert count(evaluate("--no_render", "--max_num_frames=13"), "step") == 13
    assert count(evaluate("--no_render", "--max_num_episodes=3"), "step") == 15


def test_no_render(evaluate: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")  # counts as a display
    shown = evaluate("--max_num_frames=3")
    assert count(shown, "render") >= 3 and shown[0][1] == "human"
    hidden = evaluate("--max_num_frames=3", "--no_render")
    assert count(hidden, "render") == 0 and hidden[0][1] is None


def test_eval_env_frameskip(tmp_path: Path) -> None:
    journal: list[Any] = []
    register("countdown_skip", CountdownEnv, journal)
    make_experiment("countdown_skip", tmp_path, "--env_frameskip=4")
    for options, frameskip in (((), 4), (("--eval_env_frameskip=2",), 2)):
        journal.clear()
        enjoy(parse_eval("countdown_skip", tmp_path, "--no_render", "--max_num_frames=1", *options))
        assert journal[0] == ("make", None, frameskip)


def test_video_flags(evaluate: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--save_video, --video_name, --video_frames, --fps"""
    calls = []
    generate = huggingface_utils.generate_replay_video

    def record(directory: str, frames: Any, fps: float, cfg: Any) -> str:
        calls.append((len(frames), fps))
        return generate(directory, frames, fps, cfg)

    monkeypatch.setattr(huggingface_utils, "generate_replay_video", record)
    evaluate("--no_render", "--max_num_frames=2")
    assert calls == []
    options = ("--save_video", "--max_num_frames=8", "--video_name=clip.gif")
    journal = evaluate(*options, "--video_frames=4", "--fps=7")
    assert journal[0][1] == "rgb_array"
    assert (tmp_path / "run" / "clip.gif").read_bytes().startswith(b"GIF8")
    evaluate(*options)
    assert calls[0] == (4, 7) and calls[1][0] > 4 and calls[1][1] == 30


def test_hub_flags(evaluate: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """--push_to_hub, --hf_repository, --train_script, --enjoy_script"""
    calls: list[tuple] = []
    monkeypatch.setattr(huggingface_utils, "generate_model_card", lambda *args: calls.append(("card", *args[3:])))
    monkeypatch.setattr(huggingface_utils, "push_to_hf", lambda *args: calls.append(("push", *args[1:])))
    options = ("--no_render", "--max_num_episodes=1", "--hf_repository=me/run")
    scripts = ("--train_script=my.train", "--enjoy_script=my.enjoy")
    evaluate(*options, *scripts)
    assert calls == []
    evaluate(*options, *scripts, "--push_to_hub")
    assert calls == [("card", "me/run", [5.0], "my.enjoy", "my.train"), ("push", "me/run")]


def test_policy_index(tmp_path: Path) -> None:
    register("countdown_policies", CountdownEnv, [])
    make_experiment("countdown_policies", tmp_path / "other", seed=1)
    make_experiment("countdown_policies", tmp_path, "--num_policies=2", seed=0)
    (tmp_path / "other" / "run" / "checkpoint_p0").rename(tmp_path / "run" / "checkpoint_p1")

    heads = []
    for index in range(2):
        cfg = parse_eval("countdown_policies", tmp_path, f"--policy_index={index}", "--encoder_mlp_layers", "8")
        env = make_env_func_batched(cfg, env_config=None)
        model = create_actor_critic(cfg, env.observation_space, env.action_space)
        load_state_dict(cfg, model, torch.device("cpu"))
        (file,) = (tmp_path / "run" / f"checkpoint_p{index}").iterdir()
        saved = torch.load(file, weights_only=False)["model"]["critic_linear.weight"]
        assert torch.equal(model.critic_linear.weight, saved)
        heads.append(saved)
    assert not torch.equal(*heads)


def test_eval_deterministic(evaluate: Any, tmp_path: Path) -> None:
    """A policy that prefers one action a little: sampled actions differ, most probable ones do not."""
    (file,) = (tmp_path / "run" / "checkpoint_p0").iterdir()
    checkpoint = torch.load(file, weights_only=False)
    head = "action_parameterization.distribution_linear"
    checkpoint["model"][f"{head}.weight"].zero_()
    checkpoint["model"][f"{head}.bias"].copy_(torch.tensor([0.0, 0.1]))
    torch.save(checkpoint, file)

    def actions(flag: str) -> set[int]:
        journal = evaluate("--no_render", "--max_num_frames=60", "--seed=1", flag)
        return {int(entry[1]) for entry in journal if entry[0] == "step"}

    assert actions("--eval_deterministic=True") == {1}
    assert actions("--eval_deterministic=False") == {0, 1}


def test_algo_is_recorded(tmp_path: Path) -> None:
    """--algo is for information: it stands in config.json."""
    register("countdown_algo", CountdownEnv, [])
    make_experiment("countdown_algo", tmp_path, "--algo=MINE")
    assert json.loads((tmp_path / "run" / "config.json").read_text())["algo"] == "MINE"

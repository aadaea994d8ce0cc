"""Saving, resuming, loading other files and policies: through real learners and real files."""

from __future__ import annotations

import copy
import json
import os
import pickle
import resource
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from sample_factory.algo.learning.checkpoints import CheckpointError, CheckpointStore
from sample_factory.algo.learning.learner import Learner, model_initialization_data
from sample_factory.utils import durable_files
from sample_factory.utils.attr_dict import AttrDict

from .learner_setup import checkpoint_folder, make_batch, make_cfg, make_env_info, make_learner

FIXTURES = Path(__file__).parents[2] / "fixtures" / "checkpoints"


def names(path: Path) -> list[str]:
    return sorted(name for name in os.listdir(path) if not name.endswith(".sum"))


def assert_same_state(a: Any, b: Any, path: str = "") -> None:
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), path
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            assert_same_state(a[key], b[key], f"{path}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), path
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same_state(x, y, f"{path}[{i}]")
    else:
        assert a == b, path


def learner_state(learner: Learner) -> dict[str, Any]:
    """All that is saved. The rate of the last step is left out: the next step sets it from `curr_lr`."""
    state = copy.deepcopy(learner._get_checkpoint_dict())
    for group in state["optimizer"]["param_groups"]:
        group.pop("lr")
    return state


# --- resume ---


@pytest.mark.parametrize("optimizer", ["adam", "lamb"])
@pytest.mark.parametrize("schedule", ["constant", "kl_adaptive_epoch"])
def test_resume_is_exact(tmp_path: Path, optimizer: str, schedule: str) -> None:
    """Same state after loading, and bit-equal weights after training on."""
    flags = (f"--optimizer={optimizer}", f"--lr_schedule={schedule}", "--use_rnn=True", "--num_epochs=2")
    learner = make_learner(make_cfg(tmp_path, *flags))
    for seed in range(3):
        learner.train(make_batch(learner, seed))
    learner.best_performance = 12.5
    assert learner.save()

    resumed = make_learner(make_cfg(tmp_path, *flags))
    for attribute in ("train_step", "env_steps", "best_performance", "curr_lr"):
        assert getattr(resumed, attribute) == getattr(learner, attribute), attribute
    assert int(resumed.policy_versions_tensor[0]) == resumed.train_step == 6
    assert_same_state(learner_state(resumed), learner_state(learner))

    batch = make_batch(learner, 9)
    learner.train(copy.deepcopy(batch))
    resumed.train(batch)
    assert_same_state(resumed._get_checkpoint_dict(), learner._get_checkpoint_dict())


def test_checkpoint_has_the_six_keys_of_the_original_and_two_more_in_plain_types(tmp_path: Path) -> None:
    learner = make_learner(make_cfg(tmp_path))
    learner.train(make_batch(learner))
    learner.save_best(0, "reward", np.float64(3.25))
    learner.save()
    path = checkpoint_folder(tmp_path) / "checkpoint_000000001_32.pth"
    checkpoint = torch.load(path, weights_only=True)  # no safe globals needed
    original = ["train_step", "env_steps", "best_performance", "model", "optimizer", "curr_lr"]
    assert list(checkpoint) == [*original, "run_state", "cfg"]
    assert [type(checkpoint[key]) for key in ("train_step", "env_steps", "best_performance", "curr_lr")] == [
        int,
        int,
        float,
        float,
    ]
    assert checkpoint["best_performance"] == 3.25


def test_saved_optimizer_loads_into_plain_adam(tmp_path: Path) -> None:
    """What the original does with our file."""
    learner = make_learner(make_cfg(tmp_path))
    learner.train(make_batch(learner))
    learner.save()
    checkpoint = torch.load(checkpoint_folder(tmp_path) / "checkpoint_000000001_32.pth", weights_only=True)
    parameters = [p.detach().clone().requires_grad_() for p in learner.actor_critic.parameters()]
    adam = torch.optim.Adam(parameters, lr=1.0)
    adam.load_state_dict(checkpoint["optimizer"])
    assert adam.param_groups[0]["betas"] == (0.9, 0.999) and adam.param_groups[0]["eps"] == 1e-6
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    adam.step()


def test_nothing_is_saved_before_init(tmp_path: Path) -> None:
    learner = make_learner(make_cfg(tmp_path), init=False)
    assert not learner.save() and not learner.save_best(0, "reward", 1.0) and not learner.save_milestone()


def test_q53_the_same_state_is_not_written_twice(tmp_path: Path) -> None:
    learner = make_learner(make_cfg(tmp_path))
    learner.train(make_batch(learner))
    assert learner.save()
    path = checkpoint_folder(tmp_path) / "checkpoint_000000001_32.pth"
    written = path.stat().st_mtime_ns, path.stat().st_ino
    assert learner.save()
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == written
    path.unlink()
    assert learner.save() and path.exists(), "a deleted file is written again"
    learner.best_performance = 7.0
    inode = path.stat().st_ino
    assert learner.save() and path.stat().st_ino != inode, "other content under the same name"


def test_best_policy(tmp_path: Path) -> None:
    learner = make_learner(make_cfg(tmp_path))
    learner.train(make_batch(learner))
    assert learner.save_best(0, "reward", 22.6)
    assert names(checkpoint_folder(tmp_path)) == ["best_000000001_32_reward_22.600.pth"]
    assert not learner.save_best(0, "reward", 22.6005), "improvement of at most 0.001"
    assert not learner.save_best(1, "reward", 99.0), "another policy's metric"
    assert not learner.save_best(0, "reward", float("nan"))
    assert learner.best_performance == 22.6
    resumed = make_learner(make_cfg(tmp_path, "--load_checkpoint_kind=best"))
    assert resumed.best_performance == 22.6


def test_q10_best_metric_with_slash(tmp_path: Path) -> None:
    learner = make_learner(make_cfg(tmp_path))
    assert learner.save_best(0, "custom/metric", 1.0)
    assert names(checkpoint_folder(tmp_path)) == ["best_000000000_0_custom_metric_1.000.pth"]


def test_milestones_are_kept(tmp_path: Path) -> None:
    learner = make_learner(make_cfg(tmp_path, "--keep_checkpoints=1"))
    for seed in range(3):
        learner.train(make_batch(learner, seed))
        assert learner.save_milestone() and learner.save()
    assert len(names(checkpoint_folder(tmp_path) / "milestones")) == 3
    assert names(checkpoint_folder(tmp_path)) == ["checkpoint_000000003_96.pth", "milestones"]


def test_best_score_of_a_file_saved_after_the_checkpoint_counts(tmp_path: Path) -> None:
    """A run that was killed between both must not replace the best policy by a worse one."""
    learner = make_learner(make_cfg(tmp_path))
    learner.train(make_batch(learner))
    learner.save()
    assert learner.save_best(0, "reward", 7.5)
    resumed = make_learner(make_cfg(tmp_path))
    assert resumed.best_performance == 7.5 and not resumed.save_best(0, "reward", 6.0)
    assert make_learner(make_cfg(tmp_path, "--save_best_metric=len")).best_performance == -1e9


@pytest.mark.parametrize("metric", ["len", "my_reward", "ward"])
def test_scores_by_another_metric_do_not_keep_the_best_policy_from_being_saved(tmp_path: Path, metric: str) -> None:
    learner = make_learner(make_cfg(tmp_path))
    learner.train(make_batch(learner))
    assert learner.save_best(0, "reward", 500.0)
    assert learner.save()
    resumed = make_learner(make_cfg(tmp_path, f"--save_best_metric={metric}"))
    assert resumed.save_best(0, metric, 20.0)
    (path,) = checkpoint_folder(tmp_path).glob("best_*")
    assert path.name.endswith(f"_{metric}_20.000.pth")
    again = make_learner(make_cfg(tmp_path))
    assert again.best_performance == -1e9, "scores by names that only end alike are different ones, too"


# --- damage ---


def test_C1_resume_uses_the_older_file_and_keeps_it(tmp_path: Path) -> None:
    learner = make_learner(make_cfg(tmp_path))
    for seed in range(2):
        learner.train(make_batch(learner, seed))
        learner.save()
    newest = checkpoint_folder(tmp_path) / "checkpoint_000000002_64.pth"
    newest.write_bytes(newest.read_bytes()[:-1])
    (checkpoint_folder(tmp_path) / "checkpoint_temp").write_bytes(b"")

    resumed = make_learner(make_cfg(tmp_path))
    assert resumed.train_step == 1
    resumed.train(make_batch(resumed))
    resumed.save()
    assert names(checkpoint_folder(tmp_path)) == [
        "checkpoint_000000001_32.pth",
        "checkpoint_000000002_64.pth",
        "checkpoint_000000002_64.pth.corrupt",
    ]


def test_saves_on_a_thread_hold_the_state_of_the_moment_they_were_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = make_learner(make_cfg(tmp_path))
    learner.train(make_batch(learner))
    expected, progress = learner_state(learner), learner.train_step
    has_trained_on, num_done = threading.Event(), []
    save_latest = CheckpointStore.save_latest

    def save_late(store: CheckpointStore, checkpoint: dict[str, Any]) -> str:
        assert has_trained_on.wait(60)
        return save_latest(store, checkpoint)

    monkeypatch.setattr(CheckpointStore, "save_latest", save_late)
    learner.begin_save(learner.latest_request(), lambda: num_done.append(1))
    learner.train(make_batch(learner, 1))
    assert learner.is_saving and learner.settle_saves() == []
    has_trained_on.set()
    learner.wait_for_saves()
    assert num_done == [1] and not learner.is_saving
    assert [request.progress[0] for request in learner.settle_saves()] == [progress]
    assert learner.settle_saves() == [] and not learner.is_saved()
    assert_same_state(learner_state(make_learner(make_cfg(tmp_path))), expected)


def test_C2_refuses_to_start_from_zero(tmp_path: Path) -> None:
    learner = make_learner(make_cfg(tmp_path))
    learner.train(make_batch(learner))
    learner.save()
    path = checkpoint_folder(tmp_path) / "checkpoint_000000001_32.pth"
    torch.save([1, 2], path)  # intact, but no checkpoint
    with pytest.raises(CheckpointError, match="checkpoint_000000001_32"):
        make_learner(make_cfg(tmp_path))
    assert names(checkpoint_folder(tmp_path)) == [path.name], "nothing is deleted or renamed"

    fresh = make_learner(make_cfg(tmp_path, "--allow_fresh_start=True"))
    assert fresh.train_step == 0 and not fresh.load_from_checkpoint(0)
    fresh.save()
    assert names(checkpoint_folder(tmp_path)) == ["checkpoint_000000000_0.pth", f"{path.name}.superseded"]
    assert make_learner(make_cfg(tmp_path)).train_step == 0


def test_C10_unsafe_load_is_a_decision_of_the_user(tmp_path: Path) -> None:
    """A checkpoint that holds a pickled object: refused, unless its author is trusted explicitly (--unsafe_load)."""
    learner = make_learner(make_cfg(tmp_path))
    learner.train(make_batch(learner))
    learner.save()
    path = checkpoint_folder(tmp_path) / "checkpoint_000000001_32.pth"
    torch.save(torch.load(path) | {"created_by": Path("somewhere")}, path)
    with pytest.raises(CheckpointError, match="--unsafe_load=True"):
        make_learner(make_cfg(tmp_path))
    assert make_learner(make_cfg(tmp_path, "--unsafe_load=True")).train_step == 1
    with pytest.raises(CheckpointError):
        make_learner(make_cfg(tmp_path))


def test_C5_full_disk_does_not_end_training(tmp_path: Path) -> None:
    learner = make_learner(make_cfg(tmp_path))
    learner.train(make_batch(learner))
    assert learner.save()
    learner.train(make_batch(learner))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        assert not learner.save()
        assert not learner.save_best(0, "reward", 5.0)
        assert learner.best_performance == -1e9, "the best policy is saved once there is space again"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert names(checkpoint_folder(tmp_path)) == ["checkpoint_000000001_32.pth"]
    assert learner.train(make_batch(learner)) is not None
    assert learner.save() and learner.save_best(0, "reward", 5.0)


def test_C6_vanished_folder_is_made_again(tmp_path: Path) -> None:
    learner = make_learner(make_cfg(tmp_path))
    learner.train(make_batch(learner))
    learner.save()
    shutil.rmtree(tmp_path / "test")
    assert learner.save(), "this state was saved before, but the file is gone"
    assert names(checkpoint_folder(tmp_path)) == ["checkpoint_000000001_32.pth"]


def test_C6_lost_folder_ends_training_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learner = make_learner(make_cfg(tmp_path, "--save_fault_timeout=60"))
    shutil.rmtree(tmp_path / "test")
    (tmp_path / "test").write_text("a file where the experiment folder was")
    now = 100.0
    monkeypatch.setattr(durable_files.time, "monotonic", lambda: now)
    for _ in range(20):
        assert not learner.save()
    assert learner.train(make_batch(learner)) is not None, "nothing in memory is lost"
    now += 60
    assert not learner.save(), "the limit is not exceeded yet"
    now += 0.5
    with pytest.raises(CheckpointError, match="--save_fault_timeout=60"):
        learner.save()


def test_L3_non_finite_weights_are_not_saved(tmp_path: Path) -> None:
    learner = make_learner(make_cfg(tmp_path))
    learner.save()
    learner.train(make_batch(learner))
    with torch.no_grad():
        next(iter(learner.actor_critic.parameters()))[0, 0] = float("nan")
    assert not learner.save() and not learner.save_milestone()
    assert names(checkpoint_folder(tmp_path)) == ["checkpoint_000000000_0.pth"]


def test_C8_other_architecture_lists_the_differences(tmp_path: Path) -> None:
    make_learner(make_cfg(tmp_path)).save()
    with pytest.raises(ValueError, match=r"critic_linear\.weight: checkpoint \(1, 8\), this model \(1, 16\)"):
        make_learner(make_cfg(tmp_path, "--encoder_mlp_layers", "16"))
    with pytest.raises(ValueError, match=r"missing in the checkpoint: core\.core\.weight_ih_l0"):
        make_learner(make_cfg(tmp_path, "--use_rnn=True"))


# --- checkpoints of the original ---


def fixture_env_info(name: str) -> Any:
    box = spaces.Box
    if name in ("gru_discrete", "lamb_discrete"):
        return make_env_info(spaces.Discrete(2))
    if name == "mlp_continuous_fixedstd":
        return make_env_info(box(-2, 2, (1,), np.float32), spaces.Dict(obs=box(-8, 8, (3,), np.float32)))
    if name == "dict_tuple":
        obs_space = spaces.Dict(obs=box(0, 255, (3, 36, 36), np.uint8), measurements=box(-5, 5, (7,), np.float32))
        actions = spaces.Tuple([spaces.Discrete(3), spaces.Discrete(2), box(-1, 1, (2,), np.float32)])
        return make_env_info(actions, obs_space)
    return make_env_info(spaces.Discrete(4), spaces.Dict(obs=box(0, 255, (4, 84, 84), np.uint8)))


@pytest.mark.parametrize(
    "name", ["gru_discrete", "lamb_discrete", "mlp_continuous_fixedstd", "dict_tuple", "pix_atari"]
)
def test_C11_resume_from_a_checkpoint_of_the_original(tmp_path: Path, name: str) -> None:
    """All counters continue, the optimiser (Adam, in one case LAMB) has its moments, and training goes on.

    The one with LAMB was written under NumPy 1 and holds its best score as a NumPy number.
    """
    shutil.copytree(FIXTURES / name / "checkpoint_p0", tmp_path / name / "checkpoint_p0")
    saved_cfg = json.loads((FIXTURES / name / "config.json").read_text())
    cfg = make_cfg(tmp_path)
    cfg.update(saved_cfg, train_dir=str(tmp_path), experiment=name, cli_args={}, batch_size=saved_cfg["rollout"] * 2)

    (path,) = Learner.get_checkpoints(Learner.checkpoint_dir(cfg, 0))
    file = Learner.load_checkpoint([path], "cpu")
    assert file is not None
    learner = make_learner(cfg, fixture_env_info(name))
    assert (learner.train_step, learner.env_steps) == (file["train_step"], file["env_steps"])
    assert learner.curr_lr == file["curr_lr"] and learner.best_performance == file["best_performance"]
    assert_same_state(dict(learner.actor_critic.state_dict()), dict(file["model"]))
    for i, state in file["optimizer"]["state"].items():
        parameter = learner.optimizer.param_groups[0]["params"][i]
        assert torch.equal(learner.optimizer.state[parameter]["exp_avg"], state["exp_avg"])
        assert float(learner.optimizer.state[parameter]["step"]) == float(state["step"])

    assert learner.train(make_batch(learner)) is not None
    assert learner.save()
    assert make_learner(cfg, fixture_env_info(name)).train_step == learner.train_step


# --- static helpers and hooks ---


def test_static_helpers(tmp_path: Path) -> None:
    cfg = make_cfg(tmp_path)
    path = Learner.checkpoint_dir(cfg, 3)
    assert path == str(tmp_path / "test" / "checkpoint_p3") and os.path.isdir(path)
    assert Learner.get_checkpoints(path) == [] == Learner.get_checkpoints(path, "best_*")
    assert Learner.load_checkpoint([], torch.device("cpu")) is None


def test_replaced_load_checkpoint_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other projects bring pre-trained weights this way, also when the experiment has no file yet."""
    donor = make_learner(make_cfg(tmp_path / "donor"))
    donor.train(make_batch(donor))
    checkpoint = copy.deepcopy(donor._get_checkpoint_dict())
    calls: list[list[str]] = []

    def load_checkpoint(checkpoints: list[str], device: Any) -> Any:
        calls.append(checkpoints)
        return checkpoint

    monkeypatch.setattr(Learner, "load_checkpoint", staticmethod(load_checkpoint))
    learner = make_learner(make_cfg(tmp_path / "new"))
    assert calls == [[]] and learner.train_step == 1
    assert_same_state(dict(learner.actor_critic.state_dict()), dict(donor.actor_critic.state_dict()))


def test_model_initialization_data(tmp_path: Path) -> None:
    learner = make_learner(make_cfg(tmp_path), init=False)
    policy_id, state_dict, device, version = learner.init()
    assert (policy_id, state_dict, device, version) == (0, None, torch.device("cpu"), 0)
    parallel = AttrDict(serial_mode=False)
    data = model_initialization_data(parallel, 1, learner.actor_critic, 7, learner.device)
    assert data[0] == 1 and set(data[1]) == set(learner.actor_critic.state_dict()) and data[3] == 7


def test_parallel_mode_publishes_every_version(tmp_path: Path) -> None:
    learner = make_learner(make_cfg(tmp_path, "--serial_mode=False", "--num_epochs=2"))
    learner.train(make_batch(learner))
    assert int(learner.policy_versions_tensor[0]) == learner.train_step == 2
    copied = make_learner(make_cfg(tmp_path / "other")).actor_critic
    assert learner.param_server.weights is not None
    assert learner.param_server.weights.copy_to(copied) == 2
    assert_same_state(dict(copied.state_dict()), dict(learner.actor_critic.state_dict()))


def test_learner_travels_to_its_process(tmp_path: Path) -> None:
    learner = pickle.loads(pickle.dumps(make_learner(make_cfg(tmp_path, "--serial_mode=False"), init=False)))
    learner.init()
    assert learner.train(make_batch(learner)) is not None

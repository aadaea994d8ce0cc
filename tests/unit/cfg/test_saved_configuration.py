"""config.json: writing, reading, and who wins when a run is continued or evaluated."""

from __future__ import annotations

import json
import os
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sample_factory.cfg.arguments import (
    checkpoint_override_defaults,
    load_from_checkpoint,
    maybe_load_from_checkpoint,
    parse_full_cfg,
    parse_sf_args,
)
from sample_factory.cfg.errors import ConfigError
from sample_factory.cfg.flags import TRAINING_FLAGS
from sample_factory.cfg.persistence import complete_cfg, read_config, save_config
from sample_factory.utils.attr_dict import AttrDict


def parse(train_dir: Path | None, *argv: str, evaluation: bool = False, **script_defaults: Any) -> Namespace:
    args = ["--env=e", "--experiment=exp", *argv]
    if train_dir is not None:
        args.append(f"--train_dir={train_dir}")
    parser, _ = parse_sf_args(args, evaluation=evaluation)
    parser.set_defaults(**script_defaults)
    return parse_full_cfg(parser, args)


def first_run(train_dir: Path, *argv: str, **script_defaults: Any) -> Path:
    """Store the configuration of a run; returns its file."""
    path = train_dir / "exp" / "config.json"
    save_config(parse(train_dir, *argv, **script_defaults), path)
    return path


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_command_line_wins_over_saved_and_saved_over_defaults(tmp_path: Path) -> None:
    first_run(tmp_path, "--rnn_size=17", "--gamma=0.5", nonlinearity="tanh")
    cfg = load_from_checkpoint(parse(tmp_path, "--gamma=0.9", rollout=64, nonlinearity="relu"))
    assert isinstance(cfg, AttrDict)
    assert (cfg.rnn_size, cfg.gamma, cfg.rollout, cfg.nonlinearity) == (17, 0.9, 32, "tanh")


def test_a_default_given_explicitly_wins_over_a_saved_value(tmp_path: Path) -> None:
    first_run(tmp_path, "--gamma=0.5")
    assert load_from_checkpoint(parse(tmp_path, "--gamma=0.99")).gamma == 0.99


def test_keys_the_file_does_not_know_are_added(tmp_path: Path) -> None:
    path = first_run(tmp_path)
    saved = json.loads(path.read_text())
    del saved["fault_timeout"], saved["rnn_size"]
    path.write_text(json.dumps(saved))
    cfg = load_from_checkpoint(parse(tmp_path, evaluation=True, own_key=1, rnn_size=3))
    assert (cfg.fault_timeout, cfg.rnn_size, cfg.own_key, cfg.no_render) == (60, 3, 1, False)


def test_keys_of_the_file_are_kept_in_order(tmp_path: Path) -> None:
    path = first_run(tmp_path)
    edit(path, unknown_key={"a": [1]})
    cfg = load_from_checkpoint(parse(tmp_path))
    assert cfg.unknown_key == {"a": [1]}
    assert list(cfg)[:3] == ["help", "algo", "env"]


@pytest.mark.parametrize("behavior", ["overwrite", "restart"])
def test_q01_restart_behavior_is_never_taken_from_the_file(tmp_path: Path, behavior: str) -> None:
    first_run(tmp_path, f"--restart_behavior={behavior}")
    assert load_from_checkpoint(parse(tmp_path)).restart_behavior == "resume"


def test_q01_nor_by_fast_evaluation(tmp_path: Path) -> None:
    first_run(tmp_path, "--restart_behavior=overwrite")
    parser, partial = parse_sf_args(["--env=e", "--experiment=exp", f"--train_dir={tmp_path}"], evaluation=True)
    checkpoint_override_defaults(partial, parser)
    assert parser.get_default("restart_behavior") == "resume"


def test_q01_nor_with_a_configuration_that_does_not_have_it(tmp_path: Path) -> None:
    first_run(tmp_path, "--restart_behavior=overwrite")
    minimal = Namespace(train_dir=str(tmp_path), experiment="exp", cli_args={})
    assert load_from_checkpoint(minimal).restart_behavior == "resume"


def test_allowing_a_fresh_start_holds_for_one_start_only(tmp_path: Path) -> None:
    first_run(tmp_path, "--allow_fresh_start=True")
    assert load_from_checkpoint(parse(tmp_path)).allow_fresh_start is False


def test_q36_the_file_describes_the_newest_start(tmp_path: Path) -> None:
    path = first_run(tmp_path, "--gamma=0.5")
    edit(path, git_hash="old", git_repo_name="old")
    new = parse(tmp_path, "--rnn_size=3")
    cfg = load_from_checkpoint(new)
    for key in ("command_line", "cli_args", "git_hash", "git_repo_name"):
        assert cfg[key] == getattr(new, key)
    assert cfg.gamma == 0.5


def test_q40_legacy_file_name(tmp_path: Path) -> None:
    for load in (load_from_checkpoint, maybe_load_from_checkpoint):
        path = first_run(tmp_path, "--rnn_size=17")
        path.rename(path.with_name("cfg.json"))
        assert load(parse(tmp_path)).rnn_size == 17
        assert path.is_file()
        assert not path.with_name("cfg.json").exists()


def test_a_legacy_file_never_replaces_a_newer_one(tmp_path: Path) -> None:
    path = first_run(tmp_path, "--rnn_size=17")
    path.with_name("cfg.json").write_text('{"rnn_size": 3}')
    assert load_from_checkpoint(parse(tmp_path)).rnn_size == 17


def test_q60_number_of_cores_is_not_frozen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 128)
    path = first_run(tmp_path)
    assert json.loads(path.read_text())["num_workers"] == 128
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert load_from_checkpoint(parse(tmp_path)).num_workers == 3


def test_q60_a_chosen_number_of_workers_stays(tmp_path: Path) -> None:
    first_run(tmp_path, "--num_workers=77")
    for _ in range(2):  # the second resume must still know that the first run chose it
        cfg = load_from_checkpoint(parse(tmp_path))
        assert cfg.num_workers == 77
        save_config(cfg, tmp_path / "exp" / "config.json")
    assert load_from_checkpoint(parse(tmp_path, "--num_workers=5")).num_workers == 5


def test_q60_a_number_of_workers_chosen_on_resume_stays(tmp_path: Path) -> None:
    path = first_run(tmp_path)
    save_config(load_from_checkpoint(parse(tmp_path, "--num_workers=77")), path)
    assert load_from_checkpoint(parse(tmp_path)).num_workers == 77


def test_q60_a_number_of_workers_set_by_the_script_stays(tmp_path: Path) -> None:
    first_run(tmp_path, num_workers=77)
    assert load_from_checkpoint(parse(tmp_path)).num_workers == 77


def test_q60_files_of_the_original_are_judged_by_their_command_line(tmp_path: Path) -> None:
    path = first_run(tmp_path)
    edit(path, num_workers=128, wandb_dir="/old/wandb")
    saved = json.loads(path.read_text())
    del saved["machine_defaults"]
    path.write_text(json.dumps(saved))
    new = parse(tmp_path)
    cfg = load_from_checkpoint(new)
    assert (cfg.num_workers, cfg.wandb_dir) == (new.num_workers, new.wandb_dir)
    edit(path, cli_args={"num_workers": 128})
    assert load_from_checkpoint(new).num_workers == 128


def test_q60_folders_follow_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "old")
    save_config(parse(None), Path("train_dir/exp/config.json"))
    (tmp_path / "old" / "train_dir").rename(tmp_path / "new" / "train_dir")
    monkeypatch.chdir(tmp_path / "new")
    cfg = load_from_checkpoint(parse(None))
    assert cfg.train_dir == str(tmp_path / "new" / "train_dir")
    assert cfg.wandb_dir == str(tmp_path / "new" / "wandb")


def test_the_result_points_to_where_the_file_was_found(tmp_path: Path) -> None:
    first_run(tmp_path / "old")
    (tmp_path / "old" / "exp").rename(tmp_path / "copy")
    new = Namespace(**{**vars(parse(tmp_path)), "experiment": "copy", "cli_args": {}})
    cfg = load_from_checkpoint(new)
    assert (cfg.train_dir, cfg.experiment) == (str(tmp_path), "copy")


def test_a_relative_train_dir_is_kept_as_it_was_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_config(parse(Path("td")), Path("td/exp/config.json"))
    absolute = Namespace(**{**vars(parse(tmp_path / "td")), "cli_args": {}})
    assert load_from_checkpoint(absolute).train_dir == "td"


def test_dictionaries_get_missing_keys_too(tmp_path: Path) -> None:
    path = first_run(tmp_path)
    path.write_text('{"experiment": "exp", "rnn_size": 17, "train_dir": ' + json.dumps(str(tmp_path)) + "}")
    cfg = load_from_checkpoint(AttrDict(train_dir=str(tmp_path), experiment="exp"))
    assert cfg.rnn_size == 17
    assert set(TRAINING_FLAGS) <= set(cfg)


def test_experiment_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="exp") as raised:
        load_from_checkpoint(parse(tmp_path))
    assert "--train_dir" in str(raised.value)
    assert str(tmp_path / "exp" / "config.json") in str(raised.value)
    assert list(tmp_path.iterdir()) == [], "looking for a file creates no folder"


def test_new_experiments_use_the_new_configuration(tmp_path: Path) -> None:
    new = parse(tmp_path, "--restart_behavior=resume")
    cfg = maybe_load_from_checkpoint(new)
    assert isinstance(cfg, AttrDict)
    assert cfg == vars(new)
    assert list(tmp_path.iterdir()) == []


def test_C3_left_over_temporary_files_are_cleaned(tmp_path: Path) -> None:
    path = first_run(tmp_path)
    (path.parent / ".config.json.4242.tmp").write_text("{")
    save_config(parse(tmp_path), path)
    assert os.listdir(path.parent) == ["config.json"]


@pytest.mark.parametrize("text", ["", '{"env": "e", "rollo', "[1]", "\xff"], ids=["empty", "cut", "list", "bytes"])
def test_c07_a_broken_file_is_named_with_a_repair(tmp_path: Path, text: str) -> None:
    path = first_run(tmp_path)
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError) as raised:
        maybe_load_from_checkpoint(parse(tmp_path))
    assert str(path) in str(raised.value)
    assert "Repair the file" in str(raised.value)


@pytest.mark.parametrize("experiment", ["", "..", "../x", "/abs"])
def test_names_that_lead_outside_are_refused_before_anything_is_read(tmp_path: Path, experiment: str) -> None:
    for load in (load_from_checkpoint, maybe_load_from_checkpoint):
        with pytest.raises(ConfigError, match="--experiment"):
            load(Namespace(train_dir=str(tmp_path), experiment=experiment, cli_args={}))


def evaluate(train_dir: Path, *argv: str, **script_defaults: Any) -> tuple[Namespace, AttrDict]:
    args = ["--env=e", "--experiment=exp", f"--train_dir={train_dir}", *argv]
    parser, partial = parse_sf_args(args, evaluation=True)
    parser.set_defaults(**script_defaults)
    loaded = checkpoint_override_defaults(partial, parser)
    return parse_full_cfg(parser, args), loaded


def test_fast_evaluation_precedence(tmp_path: Path) -> None:
    first_run(tmp_path, "--rnn_size=17", "--gamma=0.5", own_key=3)
    cfg, loaded = evaluate(tmp_path, "--gamma=0.9", rnn_size=4, sample_env_episodes=5)
    assert (cfg.rnn_size, cfg.gamma, cfg.own_key, cfg.sample_env_episodes) == (17, 0.9, 3, 5)
    assert cfg.cli_args["gamma"] == 0.9
    assert isinstance(loaded, AttrDict)
    assert (loaded.rnn_size, loaded.gamma) == (17, 0.5)


def test_fast_evaluation_of_an_experiment_that_was_moved(tmp_path: Path) -> None:
    first_run(tmp_path / "old")
    (tmp_path / "old").rename(tmp_path / "new")
    cfg, _ = evaluate(tmp_path / "new")
    assert cfg.train_dir == str(tmp_path / "new")


def test_fast_evaluation_needs_a_saved_configuration(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="exp"):
        evaluate(tmp_path)


def test_writing_and_reading(tmp_path: Path) -> None:
    cfg = parse(tmp_path)
    path = tmp_path / "exp" / "config.json"
    save_config(cfg, path)
    assert read_config(path) == vars(cfg)
    assert path.read_text().startswith('{\n  "help": false,\n  "algo": "APPO",')
    assert os.listdir(path.parent) == ["config.json"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = first_run(tmp_path)
    before = path.read_bytes()

    def disk_full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(OSError, match="No space left"):
        save_config(parse(tmp_path, "--rnn_size=3"), path)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["config.json"]


def test_numbers_of_numpy_and_paths_are_stored(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    save_config(Namespace(a=np.float32(0.5), b=np.int64(3), c=tmp_path, d=(1, 2)), path)
    assert read_config(path) == {"a": 0.5, "b": 3, "c": str(tmp_path), "d": [1, 2]}


def test_values_that_are_no_json_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="own_object=") as raised:
        save_config(Namespace(a=1, own_object=object()), tmp_path / "config.json")
    assert len(raised.value.problems) == 1
    assert list(tmp_path.iterdir()) == []


def test_configurations_can_be_completed() -> None:
    cfg = complete_cfg(Namespace(rnn_size=3, own=1))
    assert (cfg.rnn_size, cfg.own, cfg.fault_timeout, cfg.gamma) == (3, 1, 60, 0.99)


@pytest.mark.parametrize("value", [0.5, 17])
def test_configuration_of_the_original_loads(tmp_path: Path, value: float) -> None:
    """A file as Sample Factory 2.1.1 writes it: without the newer keys."""
    newer = {name for name, flag in TRAINING_FLAGS.items() if flag.extension} | {"episode_counter", "wandb_dir"}
    path = first_run(tmp_path, f"--reward_scale={value}")
    saved = {key: v for key, v in json.loads(path.read_text()).items() if key not in {*newer, "machine_defaults"}}
    path.write_text(json.dumps(saved))
    cfg = load_from_checkpoint(parse(tmp_path))
    assert cfg.reward_scale == value
    assert newer <= set(cfg)

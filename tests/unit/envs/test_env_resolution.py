from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest

from sample_factory.algo.utils.context import global_env_registry, reset_global_context
from sample_factory.envs.create_env import create_env
from sample_factory.envs.env_resolution import UnknownEnvError, resolve_env
from sample_factory.envs.env_utils import register_env
from sample_factory.envs.gymnasium_compat import make_gym_env
from sample_factory.utils.attr_dict import AttrDict
from tests.unit.envs.sample_envs import make_counting_env

MODULES = "tests.unit.envs.modules_to_import"


@pytest.fixture(autouse=True)
def clean_state() -> Any:
    reset_global_context()
    yield
    reset_global_context()
    for name in [name for name in sys.modules if name.startswith(f"{MODULES}.")]:
        del sys.modules[name]


def make_cfg(env: str, **kwargs: Any) -> AttrDict:
    return AttrDict({"env": env, "env_module": None, "experiment": "exp", "train_dir": "/nonexistent", **kwargs})


def record_module(tmp_path: Path, module: Any) -> dict[str, str]:
    (tmp_path / "exp").mkdir()
    (tmp_path / "exp" / "config.json").write_text(json.dumps({"env_module": module}))
    return {"train_dir": str(tmp_path)}


def test_registered_environments_are_left_alone() -> None:
    register_env("CartPole-v1", make_counting_env)
    resolve_env(make_cfg("CartPole-v1"))
    assert global_env_registry() == {"CartPole-v1": make_counting_env}


@pytest.mark.parametrize("env_id", ["CartPole-v1", "CartPole", "gymnasium:CartPole-v1"])
def test_gymnasium_ids(env_id: str) -> None:
    cfg = make_cfg(env_id)
    resolve_env(cfg)
    factory = global_env_registry()[env_id]
    assert factory is make_gym_env and pickle.loads(pickle.dumps(factory)) is factory
    assert create_env(env_id, cfg).unwrapped.spec.id == "CartPole-v1"


def test_given_module_registers_on_import() -> None:
    resolve_env(make_cfg("registered_on_import", env_module=f"{MODULES}.registers_on_import"))
    assert "registered_on_import" in global_env_registry()


@pytest.mark.parametrize("env_name", ["registered_in_hook", "special_env"])
def test_given_module_registers_in_a_hook(env_name: str) -> None:
    resolve_env(make_cfg(env_name, env_module=f"{MODULES}.registers_in_hook"))
    assert env_name in global_env_registry()


def test_recorded_module_is_used(tmp_path: Path) -> None:
    cfg = make_cfg("registered_in_hook", **record_module(tmp_path, f"{MODULES}.registers_in_hook"))
    resolve_env(cfg)
    assert "registered_in_hook" in global_env_registry()


def test_given_module_wins_over_recorded_one(tmp_path: Path) -> None:
    cfg = make_cfg("registered_in_hook", **record_module(tmp_path, "no_such_module_abc"))
    cfg.env_module = f"{MODULES}.registers_in_hook"
    resolve_env(cfg)
    assert "registered_in_hook" in global_env_registry()


@pytest.mark.parametrize("content", ["{broken", "[]", '{"env_module": 3}', '{"env_module": null}'])
def test_unusable_recorded_module_is_ignored(content: str, tmp_path: Path) -> None:
    (tmp_path / "exp").mkdir()
    (tmp_path / "exp" / "config.json").write_text(content)
    resolve_env(make_cfg("CartPole-v1", train_dir=str(tmp_path)))
    with pytest.raises(UnknownEnvError):
        resolve_env(make_cfg("unheard_of", train_dir=str(tmp_path)))


def test_looking_for_a_config_creates_no_folder(tmp_path: Path) -> None:
    resolve_env(make_cfg("CartPole-v1", train_dir=str(tmp_path / "train_dir")))
    assert not (tmp_path / "train_dir").exists()


@pytest.mark.parametrize("module", ["exp.evil", "exp.package.evil"])
def test_config_cannot_bring_code_along(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A downloaded experiment may name modules, but code inside the train dir is never imported."""
    cfg = make_cfg("anything", **record_module(tmp_path, module))
    marker = tmp_path / "code_was_run"
    code = f"open({str(marker)!r}, 'w').close()"
    (tmp_path / "exp" / "evil.py").write_text(code)
    (tmp_path / "exp" / "package").mkdir()
    (tmp_path / "exp" / "package" / "__init__.py").write_text(code)
    (tmp_path / "exp" / "package" / "evil.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UnknownEnvError, match="inside the train dir"):
        resolve_env(cfg)
    assert not marker.exists()


def test_unknown_environment_lists_near_matches() -> None:
    register_env("my_corridor", make_counting_env)
    with pytest.raises(UnknownEnvError, match=r"--env=cartpol-v1(.|\n)*CartPole-v1"):
        resolve_env(make_cfg("cartpol-v1"))
    with pytest.raises(UnknownEnvError, match=r"Similar names: my_corridor(.|\n)*--env_module="):
        resolve_env(make_cfg("my_coridor"))
    with pytest.raises(ValueError, match="CartPole-v1"):
        resolve_env(make_cfg("CartPole-v9"))


def test_problems_with_the_module_are_named() -> None:
    with pytest.raises(UnknownEnvError, match="importing module no_such_module_abc failed"):
        resolve_env(make_cfg("anything", env_module="no_such_module_abc"))
    with pytest.raises(UnknownEnvError, match=r"registers_on_import does not register it"):
        resolve_env(make_cfg("anything", env_module=f"{MODULES}.registers_on_import"))


def test_missing_module_of_an_id_is_named() -> None:
    with pytest.raises(UnknownEnvError, match="no_such_module_abc"):
        resolve_env(make_cfg("no_such_module_abc:Env-v0"))


def test_configuration_without_optional_keys() -> None:
    resolve_env(AttrDict({"env": "CartPole-v1"}))
    assert "CartPole-v1" in global_env_registry()


def test_a_module_of_the_command_line_has_to_be_there() -> None:
    """Even if the environment is found without it: it may be meant to register parts of the model."""
    with pytest.raises(UnknownEnvError, match="--env_module=no_such_module_abc: importing"):
        resolve_env(
            make_cfg("CartPole-v1", env_module="no_such_module_abc", cli_args={"env_module": "no_such_module_abc"})
        )


def test_a_recorded_module_may_be_missing_where_the_environment_is_known() -> None:
    resolve_env(make_cfg("CartPole-v1", env_module="no_such_module_abc", cli_args={}))
    assert "CartPole-v1" in global_env_registry()

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

from sample_factory.algo.utils.context import global_env_registry, reset_global_context, sf_global_context
from sample_factory.envs.create_env import create_env
from sample_factory.envs.env_utils import (
    EnvCriticalError,
    RewardShapingInterface,
    TrainingInfoInterface,
    find_training_info_interface,
    find_wrapper_interface,
    get_default_reward_shaping,
    importable_name,
    num_env_steps,
    register_env,
    retry,
    set_reward_shaping,
    set_training_info,
    vizdoom_available,
)
from sample_factory.envs.env_wrappers import EpisodeCounterWrapper
from sample_factory.utils.attr_dict import AttrDict
from tests.unit.envs.sample_envs import CountingEnv, ShapedOnlyEnv, TwoAgentEnv, make_cfg, make_counting_env


@pytest.fixture(autouse=True)
def clean_registry() -> Any:
    reset_global_context()
    yield
    reset_global_context()


def test_register_and_create() -> None:
    calls = []

    def factory(full_env_name: str, cfg: Any = None, env_config: Any = None, render_mode: Any = None) -> gym.Env:
        calls.append((full_env_name, cfg, env_config, render_mode))
        return CountingEnv()

    register_env("my_env", factory)
    cfg, env_config = make_cfg("my_env"), AttrDict(env_id=3)
    assert isinstance(create_env("my_env", cfg, env_config, "rgb_array"), CountingEnv)
    assert calls == [("my_env", cfg, env_config, "rgb_array")]
    create_env("my_env", cfg=cfg)
    assert calls[-1] == ("my_env", cfg, None, None)
    with pytest.raises(ValueError, match="'other' is not registered"):
        create_env("other")


def test_register_accepts_partials_classes_and_overwrites() -> None:
    register_env("env", partial(make_counting_env))
    register_env("env", make_env_func=make_counting_env)
    assert global_env_registry()["env"] is make_counting_env
    with pytest.raises(AssertionError, match="callable"):
        register_env("env", "not callable")  # type: ignore[arg-type]


def test_register_remembers_the_calling_module() -> None:
    register_env("env", make_counting_env)
    assert sf_global_context().env_modules == {"env": __name__}


def test_importable_name_of_scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    spec = type("Spec", (), {"name": "package.train"})()
    assert importable_name({"__name__": "__main__", "__spec__": spec}) == "package.train"
    spec.name = "package.__main__"
    assert importable_name({"__name__": "__main__", "__spec__": spec}) == "package"
    script = {"__name__": "__main__", "__spec__": None, "__file__": str(tmp_path / "scripts" / "train_it.py")}
    assert importable_name(script) == "scripts.train_it"
    assert importable_name({**script, "__name__": "__mp_main__", "__file__": "/elsewhere/train_it.py"}) == "train_it"
    assert importable_name({**script, "__file__": str(tmp_path / "my-script.py")}) is None
    assert importable_name({"__name__": "__main__"}) is None, "an interactive session"


def test_episode_counter_is_added_on_request() -> None:
    register_env("counting", make_counting_env)
    assert isinstance(create_env("counting", make_cfg(episode_counter=True)), EpisodeCounterWrapper)
    assert isinstance(create_env("counting", make_cfg(episode_counter=False)), CountingEnv)


def test_find_wrapper_interface() -> None:
    inner = TwoAgentEnv()
    wrapped = gym.Wrapper(gym.Wrapper(inner))
    assert find_wrapper_interface(wrapped, RewardShapingInterface) is inner
    assert find_training_info_interface(wrapped) is inner
    assert find_wrapper_interface(gym.Wrapper(CountingEnv()), RewardShapingInterface) is None

    class OuterShaping(gym.Wrapper, RewardShapingInterface):
        def get_default_reward_shaping(self) -> dict[str, Any]:
            return {"outer": 1}

    assert get_default_reward_shaping(OuterShaping(inner)) == {"outer": 1}


def test_reward_shaping_helpers() -> None:
    env = ShapedOnlyEnv()
    set_reward_shaping(gym.Wrapper(env), {"coeff": 2}, 0)
    set_reward_shaping(gym.Wrapper(env), None, 0)
    assert env.shaping == [({"coeff": 2}, 0)]
    assert get_default_reward_shaping(CountingEnv()) is None
    set_reward_shaping(CountingEnv(), {"coeff": 2}, 0)


def test_training_info_helpers() -> None:
    env = TwoAgentEnv()
    assert env.training_info == {}
    set_training_info(find_training_info_interface(env), {"approx_total_training_steps": 10})
    assert env.training_info == {"approx_total_training_steps": 10}
    set_training_info(find_training_info_interface(CountingEnv()), {"x": 1})


def test_interfaces_are_abstract() -> None:
    interface = RewardShapingInterface()
    with pytest.raises(NotImplementedError):
        interface.get_default_reward_shaping()
    with pytest.raises(NotImplementedError):
        interface.set_reward_shaping({}, 0)
    assert TrainingInfoInterface().training_info == {}


def test_num_env_steps() -> None:
    assert num_env_steps([{}, {"num_frames": 4}]) == 5


def test_retry() -> None:
    attempts = []

    @retry(exception_class=EnvCriticalError, num_attempts=3, sleep_time=0)
    def fails(times: int) -> str:
        attempts.append(1)
        if len(attempts) <= times:
            raise EnvCriticalError(f"attempt {len(attempts)}")
        return "done"

    assert fails(2) == "done" and len(attempts) == 3
    attempts.clear()
    with pytest.raises(EnvCriticalError, match="attempt 3"):
        fails(5)
    assert len(attempts) == 3


def test_vizdoom_available_is_a_bool() -> None:
    assert vizdoom_available() in (True, False)

from __future__ import annotations

import sys
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec

from sample_factory.algo.utils import context
from sample_factory.algo.utils.gymnasium_utils import convert_space, get_env_attr, patch_non_gymnasium_env
from sample_factory.envs.gymnasium_compat import (
    adapt_observations,
    gymnasium_wrapper,
    import_env_plugin,
    make_gym_env,
)
from tests.unit.envs.sample_envs import CountingEnv, TwoAgentEnv


def test_get_env_attr_walks_the_layers(recwarn: pytest.WarningsRecorder) -> None:
    env = gym.Wrapper(gym.wrappers.TimeLimit(TwoAgentEnv(), 5))
    assert get_env_attr(env, "num_agents") == 2
    assert get_env_attr(env, "no_such_thing") is None
    assert get_env_attr(env, "no_such_thing", 7) == 7
    assert get_env_attr(env, "_max_episode_steps") == 5, "private attributes too"
    outer = gym.Wrapper(env)
    outer.num_agents = 3
    assert get_env_attr(outer, "num_agents") == 3, "the outermost layer wins"
    assert not recwarn.list, "0.29 warns when attributes are forwarded"


def test_get_env_attr_asks_foreign_proxies() -> None:
    class Proxy:
        def __init__(self, inner: Any):
            self._inner = inner

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

    assert get_env_attr(Proxy(TwoAgentEnv()), "num_agents") == 2
    assert get_env_attr(Proxy(CountingEnv()), "num_agents", 1) == 1


def test_spaces_and_envs_of_gymnasium_pass_through() -> None:
    space, env = spaces.Discrete(3), CountingEnv()
    vector_env = gym.vector.SyncVectorEnv([CountingEnv])
    assert convert_space(space) is space
    assert patch_non_gymnasium_env(env) is env
    assert patch_non_gymnasium_env(vector_env) is vector_env


def test_foreign_objects_are_refused() -> None:
    with pytest.raises(ValueError, match="Unknown space"):
        convert_space((3, 4))
    with pytest.raises(ValueError, match="Unknown environment"):
        patch_non_gymnasium_env(object())


def test_missing_converter_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    legacy_space = type("Discrete", (), {"__module__": "gym.spaces"})()
    monkeypatch.setitem(__import__("sys").modules, "shimmy", None)
    with pytest.raises(ImportError, match="pip install shimmy"):
        convert_space(legacy_space)
    with pytest.raises(ImportError, match="pip install shimmy"):
        patch_non_gymnasium_env(legacy_space)


def test_legacy_gym_is_converted() -> None:
    legacy_gym = pytest.importorskip("gym")
    pytest.importorskip("shimmy")

    class LegacyEnv(legacy_gym.Env):
        observation_space = legacy_gym.spaces.Box(0, 1, (2,), np.float32)
        action_space = legacy_gym.spaces.Discrete(3)
        num_agents = 1
        is_multiagent = False

        def reset(self, **kwargs: Any) -> Any:
            return np.zeros(2, np.float32), {}

        def step(self, action: Any) -> Any:
            return np.zeros(2, np.float32), 1.0, False, True, {}

    assert convert_space(LegacyEnv.action_space) == spaces.Discrete(3)
    env = patch_non_gymnasium_env(LegacyEnv())
    assert isinstance(env, gym.Env) and env.action_space == spaces.Discrete(3) and env.num_agents == 1
    env.reset()
    assert env.step(0)[1:4] == (1.0, False, True)


@pytest.mark.parametrize(
    "name",
    ["GrayscaleObservation", "FrameStackObservation", "ResizeObservation", "Autoreset", "RecordEpisodeStatistics"],
)
def test_wrappers_are_found_under_either_name(name: str) -> None:
    wrapper = gymnasium_wrapper(name)
    assert issubclass(wrapper, gym.Wrapper)


def test_unknown_wrappers_are_reported() -> None:
    with pytest.raises(AttributeError, match="NoSuchObservation"):
        gymnasium_wrapper("NoSuchObservation")


def test_image_pipeline_on_this_version() -> None:
    class ImageEnv(CountingEnv):
        def obs(self) -> Any:
            return np.full((8, 8, 3), self.num_steps, np.uint8)

    env: gym.Env = ImageEnv(spaces.Box(0, 255, (8, 8, 3), np.uint8))
    env = gymnasium_wrapper("GrayscaleObservation")(env)
    env = gymnasium_wrapper("FrameStackObservation")(env, 4)
    obs, _ = env.reset()
    assert np.array(obs).shape == (4, 8, 8) == env.observation_space.shape


def test_make_gym_env() -> None:
    env = make_gym_env("CartPole-v1", render_mode="rgb_array")
    assert env.unwrapped.spec.id == "CartPole-v1" and env.render_mode == "rgb_array"
    assert isinstance(make_gym_env("CartPole-v1").observation_space, spaces.Box)


@pytest.mark.parametrize("env_id", ["FrozenLake-v1", "Blackjack-v1"])
def test_make_gym_env_flattens_what_networks_cannot_read(env_id: str) -> None:
    env = make_gym_env(env_id)
    obs, _ = env.reset(seed=0)
    assert isinstance(env.observation_space, spaces.Box) and env.observation_space.contains(obs)


class _SampledEnv(CountingEnv):
    """Observations are samples of the space."""

    def obs(self) -> Any:
        return self.observation_space.sample()


class _MissionSpace(spaces.Space[str]):
    """A string space of a package of its own, as MiniGrid has one."""

    def __init__(self) -> None:
        super().__init__(dtype=str)

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        return "go to the door"


_SCREEN = spaces.Box(0, 255, (12, 10, 3), np.uint8)
_HEIGHT = spaces.Box(-1, 1, (), np.float64)


def test_images_of_gymnasium_ids_get_their_channels_first() -> None:
    env = adapt_observations(_SampledEnv(_SCREEN))
    obs, _ = env.reset(seed=0)
    assert env.observation_space == spaces.Box(0, 255, (3, 12, 10), np.uint8) and env.observation_space.contains(obs)
    low, high = np.zeros((12, 10, 3)), np.arange(360.0).reshape(12, 10, 3) + 1
    space = adapt_observations(_SampledEnv(spaces.Box(low, high, dtype=np.float64))).observation_space
    np.testing.assert_array_equal(space.high, high.transpose(2, 0, 1))


def test_an_encoder_of_ones_own_gets_images_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(gym.registry, "Screens-v0", EnvSpec("Screens-v0", lambda **_: _SampledEnv(_SCREEN)))
    monkeypatch.setattr(context, "_context", None)
    assert make_gym_env("Screens-v0").observation_space.shape == (3, 12, 10)
    context.global_model_factory().register_encoder_factory(lambda *_: None)
    assert make_gym_env("Screens-v0").observation_space == _SCREEN


def test_components_of_dict_observations_get_what_encoders_need() -> None:
    space = spaces.Dict(screen=_SCREEN, height=_HEIGHT, variables=spaces.Box(-1, 1, (2,), np.float32))
    env = adapt_observations(_SampledEnv(space))
    obs, _ = env.reset(seed=0)
    shapes = {key: sub_space.shape for key, sub_space in env.observation_space.spaces.items()}
    assert shapes == {"screen": (3, 12, 10), "height": (1,), "variables": (2,)}
    assert env.observation_space.contains(obs) and env.observation_space.contains(env.step(0)[0])


@pytest.mark.parametrize("text", [spaces.Text(20), _MissionSpace()], ids=["gymnasium", "minigrid"])
def test_text_is_left_out(text: spaces.Space, caplog: pytest.LogCaptureFixture) -> None:
    grid = spaces.Box(0, 255, (7, 7, 3), np.uint8)
    space = spaces.Dict(image=grid, direction=spaces.Discrete(4), mission=text)
    env = adapt_observations(_SampledEnv(space))
    obs, _ = env.reset(seed=0)
    assert env.observation_space.shape == (7 * 7 * 3 + 4,) and env.observation_space.contains(obs)
    assert "['mission'] are text" in caplog.text
    adapt_observations(_SampledEnv(spaces.Dict(image=grid, mission=text)), say_so=False)
    assert caplog.text.count("text") == 1


def test_observations_that_nobody_can_flatten_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"of the space .* cannot be flattened: register"):
        adapt_observations(_SampledEnv(spaces.Tuple([_MissionSpace(), spaces.Discrete(2)])))


def test_observations_that_encoders_take_are_left_alone() -> None:
    for space in (spaces.Box(0, 255, (3, 12, 10), np.uint8), spaces.Box(-1, 1, (5,)), spaces.Dict(obs=_HEIGHT)):
        env = _SampledEnv(space)
        assert (adapt_observations(env) is env) == (space != spaces.Dict(obs=_HEIGHT))


@pytest.mark.parametrize(
    ("env_id", "module", "package"),
    [
        ("PongNoFrameskip-v4", "ale_py", "ale-py"),
        ("ALE/Pong-v5", "ale_py", "ale-py"),
        ("MiniGrid-X-v0", "minigrid", "minigrid"),
        ("NetHackScore-v0", "nle", "nle"),
        ("dm_control/hopper-hop-v0", "shimmy", "shimmy"),
    ],
)
def test_missing_packages_of_known_environments_are_named(monkeypatch, env_id, module, package):
    monkeypatch.setitem(sys.modules, module, None)  # import raises
    monkeypatch.setattr(gym.envs.registration, "registry", {})
    monkeypatch.setattr(gym.envs, "registry", {})
    with pytest.raises(ImportError, match=f"pip install {package}$"):
        import_env_plugin(env_id)
    gym.envs.registry[env_id] = None
    assert import_env_plugin(env_id) == env_id


def test_env_ids_with_a_module() -> None:
    assert import_env_plugin("tests.unit.envs.sample_envs:My-v0") == "My-v0"
    assert import_env_plugin("CartPole-v1") == "CartPole-v1"
    with pytest.raises(ImportError):
        import_env_plugin("no_such_module_abc:My-v0")

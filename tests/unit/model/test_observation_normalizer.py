"""The way of observations into a model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from sample_factory.algo.utils.rl_utils import prepare_and_normalize_obs
from sample_factory.algo.utils.tensor_dict import TensorDict
from sample_factory.model.actor_critic import ActorCritic, create_actor_critic
from sample_factory.utils.normalize import ObservationNormalizer
from tests.model_configs import image_obs, model_cfg, vector_obs

_TWO_KEYS = spaces.Dict(obs=spaces.Box(-1, 1, (4,), np.float32), aux=spaces.Box(-1, 1, (2,), np.float32))


def _obs(batch_size: int) -> dict[str, Tensor]:
    return {"obs": torch.randn(batch_size, 4), "aux": 3.0 + torch.randn(batch_size, 2)}


def test_nothing_enabled_returns_the_input_itself() -> None:
    obs = _obs(3)
    normalizer = ObservationNormalizer(_TWO_KEYS, model_cfg(normalize_input=False))
    assert normalizer(obs) is obs
    assert normalizer.summaries() == {} and not list(normalizer.state_dict())
    normalizer.update(obs)


def test_inputs_stay_as_they_are() -> None:
    obs = _obs(5)
    before = {key: x.clone() for key, x in obs.items()}
    normalized = ObservationNormalizer(_TWO_KEYS, model_cfg())(obs)
    for key, x in before.items():
        assert torch.equal(obs[key], x) and not torch.equal(normalized[key], x)


def test_only_selected_keys_have_statistics_and_all_become_float() -> None:
    normalizer = ObservationNormalizer(_TWO_KEYS, model_cfg(normalize_input_keys=["aux"]))
    obs: dict[str, Tensor] = {**_obs(5), "extra": torch.ones(5, dtype=torch.int64)}
    normalized = normalizer(obs)
    assert torch.equal(normalized["obs"], obs["obs"]) and normalized["obs"] is not obs["obs"]
    assert normalized["extra"].dtype == torch.float32
    assert normalizer.summaries().keys() == {"aux_running_mean", "aux_running_std"}


def test_shift_and_scale_come_before_the_statistics_and_apply_to_obs_only() -> None:
    cfg = model_cfg(obs_subtract_mean=10.0, obs_scale=255.0, normalize_input=False)
    space = spaces.Dict(obs=spaces.Box(0, 255, (3,), np.uint8), aux=spaces.Box(0, 255, (3,), np.uint8))
    obs = {key: torch.tensor([[0, 10, 255]], dtype=torch.uint8) for key in ("obs", "aux")}
    normalized = ObservationNormalizer(space, cfg)(obs)
    torch.testing.assert_close(normalized["obs"], torch.tensor([[-10.0, 0.0, 245.0]]) / 255.0)
    torch.testing.assert_close(normalized["aux"], torch.tensor([[0.0, 10.0, 255.0]]))

    both = ObservationNormalizer(space, model_cfg(obs_subtract_mean=10.0, obs_scale=255.0))
    both(obs)
    assert both.running_mean_std is not None
    mean = both.running_mean_std.running_mean_std["obs"].running_mean
    torch.testing.assert_close(mean, torch.tensor([-5.0, 0.0, 122.5], dtype=torch.float64) / 255.0)


@pytest.mark.parametrize("overrides", [{"obs_scale": 255.0}, {"obs_subtract_mean": 1.0}])
def test_q49_scale_without_obs_key_is_refused(overrides: dict[str, Any]) -> None:
    space = spaces.Dict(pixels=spaces.Box(0, 255, (3, 8, 8), np.uint8))
    with pytest.raises(ValueError, match=r"obs_subtract_mean.*obs_scale.*pixels"):
        ObservationNormalizer(space, model_cfg(**overrides))


def test_evaluation_mode_keeps_the_statistics() -> None:
    normalizer = ObservationNormalizer(_TWO_KEYS, model_cfg()).eval()
    before = {key: x.clone() for key, x in normalizer.state_dict().items()}
    normalizer(_obs(5))
    assert all(torch.equal(normalizer.state_dict()[key], x) for key, x in before.items())


@pytest.mark.parametrize("as_indices", [False, True])
def test_q30_update_with_valid_rows(as_indices: bool) -> None:
    obs, valid = _obs(6), torch.tensor([True, False, True, True, False, True])
    rows = valid.nonzero().squeeze(1) if as_indices else valid
    expected = ObservationNormalizer(_TWO_KEYS, model_cfg())
    expected({key: x[valid] for key, x in obs.items()})
    normalizer = ObservationNormalizer(_TWO_KEYS, model_cfg()).eval()
    normalizer.update(obs, rows)
    in_forward = ObservationNormalizer(_TWO_KEYS, model_cfg())
    in_forward(obs, rows)
    for key, x in expected.state_dict().items():
        torch.testing.assert_close(normalizer.state_dict()[key], x)
        torch.testing.assert_close(in_forward.state_dict()[key], x)


def _model(**overrides: Any) -> ActorCritic:
    cfg = model_cfg(encoder_mlp_layers=[8], use_rnn=False, **overrides)
    return create_actor_critic(cfg, _TWO_KEYS, spaces.Discrete(2))


def test_prepare_with_valid_rows_equals_update_then_normalise() -> None:
    model, twin = _model().train(), _model().train()
    obs, valid = _obs(6), torch.tensor([True, False, True, True, False, False])
    normalized = prepare_and_normalize_obs(model, dict(obs), valid)
    twin.obs_normalizer.update(obs, valid)
    expected = prepare_and_normalize_obs(twin.eval(), dict(obs))
    for key, x in expected.items():
        torch.testing.assert_close(normalized[key], x)
    assert model.obs_normalizer.training and model.obs_normalizer.running_mean_std.training
    assert model.obs_normalizer.running_mean_std.running_mean_std["obs"].count.item() == 4


def test_prepare_calls_a_replaced_normalize_obs() -> None:
    class OwnNormalization(type(_model())):  # type: ignore[misc]
        def normalize_obs(self, obs: dict[str, Tensor]) -> dict[str, Tensor]:
            return {key: x * 2 for key, x in super().normalize_obs(obs).items()}

    model = _model().train()
    model.__class__ = OwnNormalization
    twin = _model().train()
    obs, valid = _obs(6), torch.ones(6, dtype=torch.bool)
    doubled = prepare_and_normalize_obs(model, dict(obs), valid)
    expected = prepare_and_normalize_obs(twin, dict(obs), valid)
    torch.testing.assert_close(doubled["obs"], 2 * expected["obs"])


@pytest.mark.parametrize("normalize_input", [False, True])
def test_prepare_casts_without_touching_the_caller_s_tensors(normalize_input: bool) -> None:
    cfg = model_cfg(encoder_conv_mlp_layers=[8], use_rnn=False, normalize_input=normalize_input)
    model = create_actor_critic(cfg, image_obs(3, 64, 64), spaces.Discrete(2)).eval()
    obs = TensorDict(obs=torch.randint(0, 255, (2, 3, 64, 64), dtype=torch.uint8))
    normalized = prepare_and_normalize_obs(model, obs)
    assert normalized["obs"].dtype == torch.float32 and obs["obs"].dtype == torch.uint8


def test_prepare_accepts_arrays() -> None:
    model = create_actor_critic(model_cfg(encoder_mlp_layers=[8]), vector_obs(), spaces.Discrete(2)).eval()
    obs: dict[str, Any] = {"obs": np.ones((2, 4), dtype=np.float64)}
    normalized = prepare_and_normalize_obs(model, obs)
    assert normalized["obs"].dtype == torch.float32
    assert isinstance(obs["obs"], Tensor), "the dict holds the moved tensors afterwards"

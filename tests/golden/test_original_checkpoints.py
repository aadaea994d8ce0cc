"""Four experiments trained by Sample Factory 2 act here exactly as they did there."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from sample_factory.algo.utils.optimizers import make_optimizer
from sample_factory.algo.utils.rl_utils import prepare_and_normalize_obs
from sample_factory.model.actor_critic import ActorCritic, create_actor_critic
from sample_factory.utils.attr_dict import AttrDict
from tests.model_configs import box_actions

_CHECKPOINTS = Path(__file__).parents[1] / "fixtures" / "checkpoints"
_CARTPOLE_LIMITS = np.array([4.8, np.inf, 0.419, np.inf], dtype=np.float32)

_SPACES: dict[str, tuple[spaces.Dict, spaces.Space]] = {
    "gru_discrete": (
        spaces.Dict(obs=spaces.Box(-_CARTPOLE_LIMITS, _CARTPOLE_LIMITS, dtype=np.float32)),
        spaces.Discrete(2),
    ),
    "mlp_continuous_fixedstd": (
        spaces.Dict(obs=spaces.Box(-8.0, 8.0, (3,), np.float32)),
        spaces.Box(-2.0, 2.0, (1,), np.float32),
    ),
    "dict_tuple": (
        spaces.Dict(
            obs=spaces.Box(0, 255, (3, 36, 36), np.uint8), measurements=spaces.Box(-5.0, 5.0, (7,), np.float32)
        ),
        spaces.Tuple([spaces.Discrete(3), spaces.Discrete(2), box_actions(2)]),
    ),
    "pix_atari": (spaces.Dict(obs=spaces.Box(0, 255, (4, 84, 84), np.uint8)), spaces.Discrete(4)),
}


def _numpy_scalar_globals() -> list[Any]:
    """What the pickled NumPy numbers of a checkpoint refer to, under the module names of NumPy 1 and 2."""
    scalar = np.float64(0).__reduce__()[0]
    allowed: list[Any] = [np.dtype, type(np.dtype(np.float32)), type(np.dtype(np.float64)), type(np.dtype(np.int64))]
    return [*allowed, (scalar, "numpy.core.multiarray.scalar"), (scalar, "numpy._core.multiarray.scalar")]


def _load(name: str) -> tuple[AttrDict, dict[str, Any], dict[str, np.ndarray]]:
    folder = _CHECKPOINTS / name
    cfg = AttrDict(json.loads((folder / "config.json").read_text()))
    (path,) = (folder / "checkpoint_p0").glob("checkpoint_*.pth")
    with torch.serialization.safe_globals(_numpy_scalar_globals()):
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    return cfg, checkpoint, dict(np.load(folder / "probe.npz"))


def _build(name: str, cfg: AttrDict, checkpoint: dict[str, Any]) -> ActorCritic:
    model = create_actor_critic(cfg, *_SPACES[name])
    model.load_state_dict(checkpoint["model"])
    return model


def _assert_close(actual: torch.Tensor, expected: np.ndarray) -> None:
    torch.testing.assert_close(actual, torch.from_numpy(expected), atol=1e-5, rtol=0.0)


@pytest.mark.parametrize("name", _SPACES)
def test_checkpoint_acts_as_recorded(name: str) -> None:
    cfg, checkpoint, probe = _load(name)
    model = _build(name, cfg, checkpoint).eval()
    obs = {key.removeprefix("obs_"): torch.from_numpy(x) for key, x in probe.items() if key.startswith("obs_")}

    with torch.no_grad():
        out = model(prepare_and_normalize_obs(model, obs), torch.from_numpy(probe["rnn_states"]))
    distribution = model.action_distribution()

    _assert_close(out["values"], probe["values"])
    _assert_close(out["action_logits"], probe["action_logits"])
    _assert_close(out["new_rnn_states"], probe["new_rnn_states"])
    actions = torch.from_numpy(probe["actions"])
    _assert_close(distribution.log_prob(actions), probe["log_probs"])
    _assert_close(distribution.entropy(), probe["entropy"])
    if "symmetric_kl" in probe:
        _assert_close(distribution.symmetric_kl_with_uniform_prior(), probe["symmetric_kl"])


@pytest.mark.parametrize("name", _SPACES)
def test_state_dict_order_and_types_are_those_of_the_original(name: str) -> None:
    cfg, checkpoint, _ = _load(name)
    model = create_actor_critic(cfg, *_SPACES[name])
    ours = [(key, x.shape, x.dtype) for key, x in model.state_dict().items()]
    assert ours == [(key, x.shape, x.dtype) for key, x in checkpoint["model"].items()]


@pytest.mark.parametrize("name", _SPACES)
def test_optimizer_state_continues_as_plain_adam_would(name: str) -> None:
    cfg, checkpoint, _ = _load(name)
    model, twin = _build(name, cfg, checkpoint), _build(name, cfg, checkpoint)
    fused = make_optimizer(cfg, model.parameters())
    plain = torch.optim.Adam(twin.parameters(), lr=1.0)
    fused.load_state_dict(copy.deepcopy(checkpoint["optimizer"]))  # torch keeps the loaded tensors
    plain.load_state_dict(checkpoint["optimizer"])
    assert fused.param_groups[0]["fused"], "loading must not switch the fast implementation off"

    torch.manual_seed(0)
    for _ in range(3):
        for p, q in zip(model.parameters(), twin.parameters(), strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        fused.step()
        plain.step()
    for (key, p), q in zip(model.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q, atol=1e-6, rtol=1e-5, msg=lambda m, key=key: f"{key}: {m}")


@pytest.mark.parametrize("name", _SPACES)
def test_saved_optimizer_state_has_the_structure_of_the_original(name: str) -> None:
    cfg, checkpoint, _ = _load(name)
    model = _build(name, cfg, checkpoint)
    optimizer = make_optimizer(cfg, model.parameters())
    optimizer.load_state_dict(checkpoint["optimizer"])
    ours, original = optimizer.state_dict(), checkpoint["optimizer"]

    assert ours["state"].keys() == original["state"].keys()
    for idx, state in original["state"].items():
        assert ours["state"][idx].keys() == state.keys()
        for key, value in state.items():
            saved = ours["state"][idx][key]
            assert (saved.shape, saved.dtype, saved.device) == (value.shape, value.dtype, value.device)
    assert ours["param_groups"] == original["param_groups"]

"""Packed sequences against a loop over trajectories, for every core."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sample_factory.algo.learning.rnn_utils import build_core_out_from_seq, build_rnn_inputs
from sample_factory.model.actor_critic import create_actor_critic
from sample_factory.model.core import ModelCoreRNN
from sample_factory.model.model_utils import get_rnn_size
from tests.model_configs import model_cfg, vector_obs


def _pieces(dones: Tensor, num_steps_per_trajectory: int) -> list[tuple[int, int]]:
    """First and last step (exclusive) of every piece, by walking through the trajectories."""
    pieces, start = [], 0
    for i in range(len(dones)):
        at_trajectory_end = (i + 1) % num_steps_per_trajectory == 0
        if dones[i] or at_trajectory_end:
            pieces.append((start, i + 1))
            start = i + 1
    return pieces


batches = st.tuples(st.integers(1, 5), st.integers(1, 9), st.floats(0.0, 1.0), st.integers(0, 10000))


def _batch(spec: tuple[int, int, float, int], x_size: int, state_size: int) -> tuple[Tensor, Tensor, Tensor, int]:
    num_trajectories, num_steps, done_probability, seed = spec
    rng = torch.Generator().manual_seed(seed)
    total = num_trajectories * num_steps
    x = torch.randn(total, x_size, generator=rng)
    dones = (torch.rand(total, generator=rng) < done_probability).float()
    return x, dones, torch.randn(total, state_size, generator=rng), num_steps


@settings(max_examples=100, deadline=None)
@given(batches)
def test_pieces_and_initial_states(spec: tuple[int, int, float, int]) -> None:
    x, dones, rnn_states, num_steps = _batch(spec, 3, 2)
    packed, initial_states, inverse = build_rnn_inputs(x, dones, rnn_states, num_steps)
    pieces = _pieces(dones, num_steps)

    sequences, lengths = torch.nn.utils.rnn.pad_packed_sequence(packed)
    assert lengths.tolist() == [end - start for start, end in pieces]
    assert initial_states.shape == (len(pieces), 2)
    for i, (start, end) in enumerate(pieces):
        assert torch.equal(sequences[: end - start, i], x[start:end])
        expected = rnn_states[start] if start % num_steps == 0 else torch.zeros(2)
        assert torch.equal(initial_states[i], expected)
    assert torch.equal(build_core_out_from_seq(packed, inverse), x)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float32])
def test_dones_of_any_type(dtype: torch.dtype) -> None:
    dones = torch.tensor([0, 1, 0, 0, 0, 0]).to(dtype)
    packed, _, _ = build_rnn_inputs(torch.zeros(6, 1), dones, torch.zeros(6, 1), 3)
    assert packed.batch_sizes.tolist() == [3, 2, 1]


def _step_by_step(core: ModelCoreRNN, x: Tensor, dones: Tensor, rnn_states: Tensor, num_steps: int) -> Tensor:
    """Run the core one step at a time, as the inference worker does."""
    outputs = torch.zeros(len(x), core.get_out_size())
    for start, end in _pieces(dones, num_steps):
        state = rnn_states[start : start + 1] if start % num_steps == 0 else torch.zeros_like(rnn_states[:1])
        for i in range(start, end):
            output, state = core(x[i : i + 1], state)
            outputs[i] = output[0]
    return outputs


@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("rnn_type", ["gru", "lstm"])
@settings(max_examples=15, deadline=None)
@given(spec=batches)
def test_core_gives_the_same_in_sequence_and_step_by_step(
    rnn_type: str, num_layers: int, spec: tuple[int, int, float, int]
) -> None:
    cfg = model_cfg(rnn_type=rnn_type, rnn_num_layers=num_layers, rnn_size=5)
    torch.manual_seed(0)
    core = ModelCoreRNN(cfg, 3)
    x, dones, rnn_states, num_steps = _batch(spec, 3, get_rnn_size(cfg))
    packed, initial_states, inverse = build_rnn_inputs(x, dones, rnn_states, num_steps)
    with torch.no_grad():
        packed_output, final_states = core(packed, initial_states)
        expected = _step_by_step(core, x, dones, rnn_states, num_steps)
    assert final_states.shape == initial_states.shape
    torch.testing.assert_close(build_core_out_from_seq(packed_output, inverse), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("rnn_type", ["gru", "lstm"])
@pytest.mark.parametrize("num_layers", [1, 2])
def test_single_step_is_the_sequence_module(rnn_type: str, num_layers: int) -> None:
    cfg = model_cfg(rnn_type=rnn_type, rnn_num_layers=num_layers, rnn_size=6)
    core = ModelCoreRNN(cfg, 4)
    x, states = torch.randn(7, 4), torch.randn(7, get_rnn_size(cfg))
    output, new_states = core(x, states)
    if rnn_type == "gru":
        hidden = states.view(7, num_layers, 6).transpose(0, 1).contiguous()
        expected, expected_hidden = core.core(x.unsqueeze(0), hidden)
        expected_states = expected_hidden.transpose(0, 1).reshape(7, -1)
    else:  # flat rows hold h and c of the first layer, then h and c of the second
        h, c = states.view(7, num_layers, 2, 6).permute(2, 1, 0, 3).contiguous()
        expected, (new_h, new_c) = core.core(x.unsqueeze(0), (h, c))
        expected_states = torch.stack([new_h, new_c], dim=1).permute(2, 0, 1, 3).reshape(7, -1)
    torch.testing.assert_close(output, expected[0])
    torch.testing.assert_close(new_states, expected_states)


def _learner_forward(model: Any, obs: Tensor, dones: Tensor, rnn_states: Tensor, num_steps: int) -> Any:
    head = model.forward_head({"obs": obs})
    packed, initial_states, inverse = build_rnn_inputs(head, dones, rnn_states, num_steps)
    packed_output, _ = model.forward_core(packed, initial_states)
    return model.forward_tail(build_core_out_from_seq(packed_output, inverse), values_only=False, sample_actions=False)


@pytest.mark.parametrize("share_weights", [True, False])
@pytest.mark.parametrize("rnn_type", ["gru", "lstm"])
def test_learner_sees_what_the_actor_saw(share_weights: bool, rnn_type: str) -> None:
    """Whole model on packed sequences, all of equal length and ragged, against acting step by step."""
    cfg = model_cfg(
        encoder_mlp_layers=[6],
        rnn_size=5,
        rnn_type=rnn_type,
        rnn_num_layers=2,
        actor_critic_share_weights=share_weights,
    )
    torch.manual_seed(0)
    model = create_actor_critic(cfg, vector_obs(), spaces.Discrete(3)).eval()
    num_trajectories, num_steps = 4, 6
    total = num_trajectories * num_steps
    obs = torch.randn(total, 4)
    for dones in (torch.zeros(total), (torch.rand(total) < 0.3).float()):
        rnn_states = torch.zeros(total, get_rnn_size(cfg))
        values, logits = torch.zeros(total), torch.zeros(total, 3)
        rows = torch.arange(0, total, num_steps)
        state = torch.randn(num_trajectories, get_rnn_size(cfg))
        with torch.no_grad():
            for t in range(num_steps):
                rnn_states[rows + t] = state
                out = model({"obs": obs[rows + t]}, state)
                values[rows + t], logits[rows + t] = out["values"], out["action_logits"]
                state = out["new_rnn_states"] * (1.0 - dones[rows + t]).unsqueeze(1)
        out = _learner_forward(model, obs, dones, rnn_states, num_steps)
        torch.testing.assert_close(out["values"], values, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(out["action_logits"], logits, atol=1e-5, rtol=1e-4)
        out["values"].sum().backward()


@pytest.mark.parametrize("share_weights", [True, False])
def test_gradients_do_not_cross_episode_ends(share_weights: bool) -> None:
    cfg = model_cfg(encoder_mlp_layers=[6], rnn_size=5, actor_critic_share_weights=share_weights)
    model = create_actor_critic(cfg, vector_obs(), spaces.Discrete(3))
    obs = torch.randn(5, 4, requires_grad=True)
    dones = torch.tensor([0.0, 1.0, 0.0, 0.0, 0.0])
    out = _learner_forward(model, obs, dones, torch.zeros(5, get_rnn_size(cfg)), 5)
    (out["values"][3] + out["action_logits"][3].sum()).backward()
    assert obs.grad is not None
    assert not obs.grad[[0, 1, 4]].any() and obs.grad[[2, 3]].any(dim=1).all()

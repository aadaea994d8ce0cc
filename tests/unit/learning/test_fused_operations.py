"""Operations with written-out arithmetic against the ordinary ones they stand for."""

from __future__ import annotations

import copy
import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from sample_factory.algo.learning import host_returns, policy_update, returns
from sample_factory.algo.learning.host_images import can_normalize_images, normalize_images
from sample_factory.algo.learning.losses import LossOutput
from sample_factory.algo.learning.rnn_utils import build_core_out_from_seq, build_rnn_inputs
from sample_factory.algo.utils.action_distributions import CategoricalActionDistribution
from sample_factory.algo.utils.optimizers import PortableAdam, can_step_directly
from sample_factory.algo.utils.running_mean_std import RunningMeanStdInPlace
from sample_factory.model import dense_stack
from sample_factory.model.dense_stack import dense, dense_with_heads, plain_linear, plain_stack, row_blocks
from sample_factory.model.gru_sequence import gru_layer, rows_to_reset
from sample_factory.model.model_utils import create_mlp
from sample_factory.utils.attr_dict import AttrDict
from sample_factory.utils.normalize import ObservationNormalizer

from .learner_setup import make_cfg


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- losses ---

BATCH = 64


def random_minibatch(num_actions: int) -> AttrDict:
    gen = generator(num_actions)
    old_logits = torch.randn(BATCH, num_actions, generator=gen)
    actions = torch.randint(num_actions, (BATCH, 1), generator=gen)
    valids = torch.rand(BATCH, generator=gen) < 0.8
    return AttrDict(
        actions=actions.float(),
        action_logits=old_logits,
        log_prob_actions=torch.log_softmax(old_logits, dim=1).gather(1, actions).squeeze(1),
        values=torch.randn(BATCH, generator=gen),
        advantages=torch.randn(BATCH, generator=gen),
        returns=torch.randn(BATCH, generator=gen),
        rewards=torch.randn(BATCH, generator=gen),
        dones=torch.rand(BATCH, generator=gen) < 0.1,
        next_values=torch.randn(BATCH, generator=gen),
        valids=valids,
    )


@pytest.mark.parametrize("with_vtrace", [False, True], ids=["gae", "vtrace"])
@pytest.mark.parametrize("some_invalid", [False, True], ids=["all_valid", "some_invalid"])
@pytest.mark.parametrize("num_actions", [2, 5])
def test_losses_and_their_gradients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_actions: int, some_invalid: bool, with_vtrace: bool
) -> None:
    """Far from the old policy: ratios are clipped, clamped to [0.05, 20], and values leave their interval."""
    flags = ("--kl_loss_coeff=0.3", "--exploration_loss_coeff=0.2", "--ppo_clip_value=0.4", "--normalize_returns=False")
    cfg = make_cfg(tmp_path, *flags, f"--with_vtrace={with_vtrace}", "--recurrence=8")
    mb = random_minibatch(num_actions)
    num_invalids = int((~mb.valids).sum()) if some_invalid else 0
    if not some_invalid:
        mb.valids = torch.ones_like(mb.valids)
    weights = torch.tensor([0.7, 1.1, 1.3, 0.9])  # autograd may ask for any combination

    def run() -> tuple[LossOutput, torch.Tensor, torch.Tensor]:
        gen = generator(9)
        logits = (2.5 * torch.randn(BATCH, num_actions, generator=gen)).requires_grad_()
        values = (mb["values"] + torch.randn(BATCH, generator=gen)).requires_grad_()
        distribution = CategoricalActionDistribution(logits)
        out = policy_update.minibatch_losses(distribution, values, mb, num_invalids, spaces.Discrete(num_actions), cfg)
        losses = torch.stack([out.policy_loss, out.exploration_loss, out.kl_loss, out.value_loss])  # type: ignore
        (losses * weights).sum().backward()
        assert logits.grad is not None and values.grad is not None
        return out, logits.grad, values.grad

    out, grad_logits, grad_values = run()
    ratio = out.summaries["ratio"]
    assert ratio.max() > 1.2 and ratio.min() < 0.8
    monkeypatch.setattr(policy_update, "can_fuse", lambda *args: False)
    expected, expected_logits, expected_values = run()

    for name in ("policy_loss", "exploration_loss", "kl_loss", "value_loss", "kl_old"):
        torch.testing.assert_close(getattr(out, name), getattr(expected, name), rtol=2e-6, atol=1e-6)
    torch.testing.assert_close(grad_logits, expected_logits, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(grad_values, expected_values, rtol=1e-5, atol=1e-6)
    assert set(out.summaries) == set(expected.summaries)
    for name, value in expected.summaries.items():
        torch.testing.assert_close(out.summaries[name], value, rtol=1e-5, atol=1e-5)


# --- returns ---


@pytest.mark.parametrize("some_invalid", [False, True])
@pytest.mark.parametrize("shape", [(3, 1), (4, 8), (33, 130)], ids=str)
def test_returns(shape: tuple[int, int], some_invalid: bool) -> None:
    gen = generator(shape[0])
    rewards, ratio = torch.randn(shape, generator=gen), torch.rand(shape, generator=gen) * 2.0
    values = torch.randn(shape[0], shape[1] + 1, generator=gen)
    dones = torch.rand(shape, generator=gen) < 0.1
    valids = torch.rand(values.shape, generator=gen) < (0.7 if some_invalid else 2.0)
    valids[:, -1] = valids[:, -2]
    mask = valids.numpy() if some_invalid else None

    expected = returns.gae(rewards, dones, values, valids, 0.99, 0.95)
    given = host_returns.gae(rewards.numpy(), dones.numpy(), values.numpy(), mask, 0.99, 0.95)
    targets = torch.from_numpy(given[1])
    if some_invalid:  # invalid values count as zero in either
        targets = torch.where(valids[:, :-1], targets, expected.targets)
    torch.testing.assert_close(torch.from_numpy(given[0]), expected.advantages, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(targets, expected.targets, rtol=1e-4, atol=1e-5)

    clips = {"gamma": 0.99, "rho_clip": 1.0, "c_clip": 0.9}
    expected = returns.vtrace(ratio, rewards, dones, values, valids, **clips)
    given = host_returns.vtrace(
        ratio.numpy(),
        rewards.numpy(),
        dones.numpy(),
        values[:, :-1].numpy(),
        values[:, -1].numpy(),
        None if mask is None else mask[:, :-1],
        **clips,
    )
    for array, tensor in zip(given, expected, strict=True):
        torch.testing.assert_close(torch.from_numpy(array), tensor, rtol=1e-4, atol=1e-5)


# --- networks ---


@pytest.mark.parametrize("activation", [nn.ELU(), nn.ReLU(), nn.Tanh()], ids=lambda a: type(a).__name__)
@pytest.mark.parametrize("num_inputs", [3, 20])
@pytest.mark.parametrize("block_numbers", [2**18, 16 * 3, 1], ids=["one_block", "blocks", "single_rows"])
def test_dense_stack(
    activation: nn.Module, num_inputs: int, block_numbers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dense_stack, "_BLOCK_NUMBERS", block_numbers)
    torch.manual_seed(0)
    mlp, actor, critic = create_mlp([16, 12], num_inputs, activation), nn.Linear(12, 4), nn.Linear(12, 1)
    parameters = [*mlp.parameters(), *actor.parameters(), *critic.parameters()]
    x = torch.randn(10, num_inputs, requires_grad=True)
    weight = torch.randn(10, 5)

    def gradients(logits: torch.Tensor, values: torch.Tensor) -> list[torch.Tensor]:
        loss = (torch.cat([logits, values.reshape(-1, 1)], dim=1) * weight).sum()
        return list(torch.autograd.grad(loss, [x, *parameters]))

    features = mlp(x)
    expected = gradients(actor(features), critic(features))
    stack, heads = plain_stack(mlp), (plain_linear(actor), plain_linear(critic))
    assert stack is not None and heads[0] is not None and heads[1] is not None
    torch.testing.assert_close(dense(stack, x), features)
    given = gradients(*dense_with_heads(stack, heads[0], heads[1], x))
    torch.testing.assert_close(given, expected, rtol=1e-5, atol=1e-6)
    separately = gradients(*dense_with_heads(plain_stack(nn.Identity()), *heads, dense(stack, x)))  # type: ignore
    torch.testing.assert_close(separately, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("num_rows", "widest", "num_blocks"), [(0, 64, 1), (4096, 64, 1), (4097, 64, 2), (5, 2**19, 10)]
)
def test_row_blocks_cover_all_rows_and_fit_into_the_cache(num_rows: int, widest: int, num_blocks: int) -> None:
    blocks = row_blocks(
        slice(0, num_rows), [torch.empty(8, 4), torch.empty(8), torch.empty(widest, 8), torch.empty(widest)]
    )
    assert len(blocks) == num_blocks
    assert [row for block in blocks for row in range(block.start, block.stop)] == list(range(num_rows))


def test_what_is_not_differentiated_is_let_go_without_the_garbage_collector() -> None:
    x = torch.randn(40, 6)
    layers, actor, critic = (torch.randn(shape, requires_grad=True) for shape in ((8, 6), (3, 8), (1, 8)))
    biases = [torch.zeros(n, requires_grad=True) for n in (8, 3, 1)]
    gc.collect()
    gc.disable()
    try:
        stack = dense_stack.DenseStack((layers, biases[0]), "relu")
        logits, values = dense_with_heads(stack, (actor, biases[1]), (critic, biases[2]), x)
        kept = weakref.ref(logits.grad_fn.computed)  # type: ignore[union-attr]
        assert kept() is not None
        del logits, values
        assert kept() is None
    finally:
        gc.enable()


def test_gru_layer_is_a_gru_on_cut_sequences() -> None:
    torch.manual_seed(0)
    num_rows, num_steps, size = 5, 7, 6
    gru = nn.GRU(4, size)
    x = torch.randn(num_rows * num_steps, 4, requires_grad=True)  # trajectory after trajectory
    states = torch.randn(num_rows * num_steps, size)
    ends = torch.rand(num_rows, num_steps) < 0.3
    weight = torch.randn(num_rows * num_steps, size)
    parameters = [x, *gru.parameters()]

    packed, initial, inverse = build_rnn_inputs(x, ends.flatten().float(), states, num_steps)
    expected = build_core_out_from_seq(gru(packed, initial.unsqueeze(0))[0], inverse)
    by_step = x.unflatten(0, (num_rows, num_steps)).transpose(0, 1).flatten(0, 1)
    first = states[::num_steps]
    output = gru_layer(by_step, first, rows_to_reset(ends.numpy()), tuple(gru.all_weights[0]))  # type: ignore
    output = output.unflatten(0, (num_steps, num_rows)).transpose(0, 1).flatten(0, 1)
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-6)

    given_loss = (output * weight).sum()
    expected_grads = torch.autograd.grad((expected * weight).sum(), parameters)
    given_grads = torch.autograd.grad(given_loss, parameters, retain_graph=True)
    torch.testing.assert_close(given_grads, expected_grads, rtol=1e-4, atol=1e-5)
    with pytest.raises(RuntimeError, match="only once"):
        torch.autograd.grad(given_loss, parameters)


# --- normalisation ---


@pytest.mark.parametrize("some_invalid", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("flags", [(), ("--obs_scale=255.0", "--obs_subtract_mean=7.0")], ids=["plain", "scaled"])
def test_images(tmp_path: Path, flags: tuple[str, ...], dtype: Any, some_invalid: bool) -> None:
    space = spaces.Dict(obs=spaces.Box(0, 255, (2, 5, 4), dtype))
    pieces = ObservationNormalizer(space, make_cfg(tmp_path, *flags))
    whole = copy.deepcopy(pieces)
    for seed in range(3):
        obs = torch.randint(0, 255, (3, 6, 2, 5, 4), generator=generator(seed)).to(
            torch.from_numpy(np.zeros(1, dtype)).dtype
        )
        valids = torch.rand(3, 5, generator=generator(seed)) < 0.5 if some_invalid else None
        assert can_normalize_images(pieces, {"obs": obs})
        steps, last = normalize_images(pieces, "obs", obs, valids)
        rows = None if valids is None else valids.flatten()
        flat = obs[:, :-1].flatten(0, 1)
        if rows is not None:
            whole.update({"obs": flat}, rows)
        expected = whole({"obs": flat})["obs"] if rows is None else whole.normalize_frozen({"obs": flat})["obs"]
        torch.testing.assert_close(steps, expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(last, whole.normalize_frozen({"obs": obs[:, -1]})["obs"], rtol=1e-4, atol=1e-4)
    for (name, buffer), other in zip(pieces.named_buffers(), whole.buffers(), strict=True):
        torch.testing.assert_close(buffer, other, rtol=1e-5, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("shape", [(1,), (3,)])
def test_scaler_on_the_host(shape: tuple[int]) -> None:
    normalizer = RunningMeanStdInPlace(shape)
    twin = copy.deepcopy(normalizer)
    for seed in range(3):
        x = torch.randn(20, *shape, generator=generator(seed)) * 3.0 + 1.0
        scaler = normalizer.on_host()
        scaler.update(x.numpy())
        given = torch.from_numpy(scaler.normalized(x.numpy()))
        back = torch.from_numpy(scaler.denormalized(given.numpy()))
        twin(x)
        torch.testing.assert_close(given, x, rtol=1e-5, atol=1e-6)
        twin(x, denormalize=True)
        torch.testing.assert_close(back, x, rtol=1e-5, atol=1e-5)
    for buffer, other in zip(normalizer.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(buffer, other)


# --- optimiser ---


def test_direct_steps_are_those_of_adam() -> None:
    params = [
        nn.Parameter(torch.randn(4, 3, generator=generator())),
        nn.Parameter(torch.randn(3, generator=generator())),
    ]
    twins = copy.deepcopy(params)
    direct, plain = PortableAdam(params, lr=0.01, fused=True), torch.optim.Adam(twins, lr=0.01)
    assert can_step_directly(direct)
    for seed in range(3):
        for p, twin in zip(params, twins, strict=True):
            p.grad = torch.randn(p.shape, generator=generator(seed))
            twin.grad = p.grad.clone()
        direct.step_directly()
        plain.step()
    torch.testing.assert_close(params, twins)
    for mine, theirs in zip(direct.state_dict()["state"].values(), plain.state_dict()["state"].values(), strict=True):
        assert set(mine) == set(theirs)
        for name, value in theirs.items():
            torch.testing.assert_close(mine[name], value)


def test_direct_steps_are_for_plain_fused_adam_only() -> None:
    params = [nn.Parameter(torch.zeros(2))]
    assert not can_step_directly(torch.optim.Adam(params))
    assert not can_step_directly(PortableAdam(params, fused=False))
    assert not can_step_directly(PortableAdam(params, fused=True, weight_decay=0.1))
    observed = PortableAdam(params, fused=True)
    handle = observed.register_step_post_hook(lambda *args: None)
    assert not can_step_directly(observed)
    handle.remove()
    assert can_step_directly(observed)

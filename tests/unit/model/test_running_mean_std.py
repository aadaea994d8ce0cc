"""Running statistics against NumPy, single samples, excluded rows, and the cache of constants."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sample_factory.algo.utils.running_mean_std import (
    RunningMeanStdDictInPlace,
    RunningMeanStdInPlace,
    running_mean_std_summaries,
)


def _merge_reference(normalizer: RunningMeanStdInPlace, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance after one more batch, by the plain formula in float64."""
    mean, var = normalizer.running_mean.numpy().copy(), normalizer.running_var.numpy().copy()
    count, n = normalizer.count.item(), len(x)
    batch_var = x.var(axis=0, ddof=1) if n > 1 else np.zeros(x.shape[1:])
    delta = x.mean(axis=0) - mean
    new_var = (var * count + batch_var * n + delta**2 * count * n / (count + n)) / (count + n)
    return mean + delta * n / (count + n), new_var


def test_constants_are_those_that_checkpoints_were_trained_with() -> None:
    x = torch.tensor([[0.004], [1.0]])
    for normalizer in (
        RunningMeanStdInPlace((1,)),
        RunningMeanStdDictInPlace(spaces.Dict(x=spaces.Box(-1, 1, (1,)))).running_mean_std["x"],
    ):
        normalizer.running_mean.zero_()
        normalizer.running_var.zero_()
        normalizer.eval()
        normalized = x.clone()
        normalizer(normalized)
        torch.testing.assert_close(normalized, torch.tensor([[0.004 / 1e-5**0.5], [5.0]]))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=5), st.integers(0, 1000))
def test_batches_are_merged_as_specified(sizes: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    normalizer = RunningMeanStdInPlace((3, 2))
    for size in sizes:
        x = rng.normal(2.0, 3.0, (size, 3, 2)).astype(np.float32)
        mean, var = _merge_reference(normalizer, x.astype(np.float64))
        normalizer(torch.from_numpy(x.copy()))
        np.testing.assert_allclose(normalizer.running_mean.numpy(), mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(normalizer.running_var.numpy(), var, rtol=1e-5, atol=1e-6)
    assert normalizer.count.item() == 1 + sum(sizes)


def test_buffers_are_float64_and_large_offsets_do_no_harm() -> None:
    normalizer = RunningMeanStdInPlace((1,))
    for _ in range(50):
        normalizer(10000.0 + torch.randn(1000))
    assert all(buffer.dtype == torch.float64 for buffer in normalizer.buffers())
    # What remains is the pseudo-observation at 0 that the count starts with.
    assert normalizer.running_var.item() == pytest.approx(1.0 + 1e8 / 50001, rel=0.01)


def test_normalises_clips_and_restores() -> None:
    normalizer = RunningMeanStdInPlace((2,), clip=2.0).eval()
    normalizer.running_mean.copy_(torch.tensor([1.0, -1.0]))
    normalizer.running_var.copy_(torch.tensor([4.0, 9.0]))
    x = torch.tensor([[2.0, 2.0], [100.0, -100.0]])
    normalizer(x)
    torch.testing.assert_close(x, torch.tensor([[0.5, 1.0], [2.0, -2.0]]))
    normalizer(x, denormalize=True)
    torch.testing.assert_close(x, torch.tensor([[2.0, 2.0], [5.0, -7.0]]))


def test_denormalising_clamps_its_input_and_updates_nothing() -> None:
    normalizer = RunningMeanStdInPlace((1,))
    x = torch.tensor([[10.0, 1.0], [-10.0, 0.0]])  # trajectories of values [N, T]
    normalizer(x, denormalize=True)
    torch.testing.assert_close(x, torch.tensor([[5.0, 1.0], [-5.0, 0.0]]), atol=1e-4, rtol=0.0)
    assert normalizer.count.item() == 1


def test_norm_only_scales_without_shift_or_clamp() -> None:
    normalizer = RunningMeanStdInPlace((1,), norm_only=True).eval()
    normalizer.running_mean.fill_(3.0)
    normalizer.running_var.fill_(4.0)
    x = torch.tensor([100.0])
    normalizer(x)
    assert x.item() == pytest.approx(50.0, rel=1e-5)
    normalizer(x, denormalize=True)
    assert x.item() == pytest.approx(100.0, rel=1e-5)


def test_per_channel_statistics() -> None:
    normalizer = RunningMeanStdInPlace((3, 4, 5), per_channel=True)
    x = torch.randn(6, 3, 4, 5, dtype=torch.float64).float() * torch.tensor([1.0, 2.0, 3.0])[:, None, None] + 1.0
    batch_var, batch_mean = torch.var_mean(x.double(), dim=(0, 2, 3))
    normalizer(x.clone())
    # The batch counts as six samples, the initial pseudo-observation as one.
    torch.testing.assert_close(normalizer.running_mean, batch_mean * 6 / 7, atol=1e-5, rtol=1e-5)
    expected_var = (1 + 6 * batch_var + batch_mean**2 * 6 / 7) / 7
    torch.testing.assert_close(normalizer.running_var, expected_var, atol=1e-5, rtol=1e-5)
    normalizer.eval()
    y = x.clone()
    normalizer(y)
    std = torch.sqrt(normalizer.running_var + 1e-5).float()[:, None, None]
    expected = (x - normalizer.running_mean.float()[:, None, None]) / std
    torch.testing.assert_close(y, expected.clamp(-5, 5))


def test_q32_single_sample_counts_with_variance_zero() -> None:
    normalizer = RunningMeanStdInPlace((2,))
    x = torch.tensor([[3.0, -1.0]])
    normalizer(x)
    torch.testing.assert_close(normalizer.running_mean, torch.tensor([1.5, -0.5], dtype=torch.float64))
    # (1 * 1 + 0 * 1 + delta^2 * 1/2) / 2
    torch.testing.assert_close(normalizer.running_var, torch.tensor([2.75, 0.75], dtype=torch.float64))
    assert torch.isfinite(x).all()


def test_empty_batch_changes_nothing() -> None:
    normalizer = RunningMeanStdInPlace((2,))
    normalizer(torch.zeros(0, 2))
    assert normalizer.count.item() == 1 and not normalizer.running_mean.any()


@pytest.mark.parametrize("as_indices", [False, True])
@pytest.mark.parametrize("num_valid", [0, 1, 7])
def test_q30_only_valid_rows_count(as_indices: bool, num_valid: int) -> None:
    x = torch.randn(10, 3)
    valid = torch.zeros(10, dtype=torch.bool)
    valid[torch.randperm(10)[:num_valid]] = True
    x[~valid] = float("nan")
    expected, normalizer = RunningMeanStdInPlace((3,)), RunningMeanStdInPlace((3,))
    expected.update(x[valid])
    normalizer(x.clone(), valid_rows=valid.nonzero().squeeze(1) if as_indices else valid)
    for name, buffer in expected.state_dict().items():
        torch.testing.assert_close(normalizer.state_dict()[name], buffer, msg=name)


def test_wrong_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\[4\]"):
        RunningMeanStdInPlace((4,))(torch.zeros(3, 2))


@pytest.mark.parametrize("shape", [(1,), (4,), (2, 3)])
def test_scripted_module_does_the_same(shape: tuple[int, ...]) -> None:
    eager = RunningMeanStdInPlace(shape)
    scripted = torch.jit.script(RunningMeanStdInPlace(shape))
    assert scripted.clip == eager.clip and scripted.eps == eager.eps and tuple(scripted.input_shape) == shape
    for seed in range(3):
        x = torch.randn((5, *shape), generator=torch.Generator().manual_seed(seed))
        y = x.clone()
        eager(x)
        scripted(y)
        torch.testing.assert_close(x, y)
    eager.eval(), scripted.eval()
    for denormalize in (False, True):
        x = torch.randn(5, *shape)
        y = x.clone()
        eager(x, denormalize)
        scripted(y, denormalize)
        torch.testing.assert_close(x, y)
    assert running_mean_std_summaries(scripted).keys() == {"running_mean", "running_std"}
    scripted.load_state_dict(eager.state_dict())


def _write_by_state_dict(normalizer: RunningMeanStdInPlace) -> RunningMeanStdInPlace:
    normalizer.load_state_dict({name: torch.full_like(x, 4.0) for name, x in normalizer.state_dict().items()})
    return normalizer


def _write_through_detached(normalizer: RunningMeanStdInPlace) -> RunningMeanStdInPlace:
    views = [buffer.detach() for buffer in normalizer.buffers()]
    torch._foreach_copy_(views, [torch.full_like(view, 4.0) for view in views])
    return normalizer


def _write_in_inference_mode(normalizer: RunningMeanStdInPlace) -> RunningMeanStdInPlace:
    with torch.inference_mode():
        normalizer.running_mean.fill_(4.0)
        normalizer.running_var.fill_(4.0)
    return normalizer


def _write_behind_the_version_counter(normalizer: RunningMeanStdInPlace) -> RunningMeanStdInPlace:
    for buffer in normalizer.buffers():
        buffer.numpy().fill(4.0)  # what another process does to shared memory
    return normalizer


def _replace_buffers(normalizer: RunningMeanStdInPlace) -> RunningMeanStdInPlace:
    normalizer._apply(lambda x: torch.full_like(x, 4.0))  # what Module.to(device) does
    return normalizer


def _copy_and_write(normalizer: RunningMeanStdInPlace) -> RunningMeanStdInPlace:
    return _write_by_state_dict(copy.deepcopy(normalizer))


def _pickle_and_write(normalizer: RunningMeanStdInPlace) -> RunningMeanStdInPlace:
    return _write_by_state_dict(pickle.loads(pickle.dumps(normalizer)))


@pytest.mark.parametrize(
    "write",
    [
        _write_by_state_dict,
        _write_through_detached,
        _write_in_inference_mode,
        _write_behind_the_version_counter,
        _replace_buffers,
        _copy_and_write,
        _pickle_and_write,
    ],
)
def test_new_statistics_are_used_at_once(write: Callable[[RunningMeanStdInPlace], RunningMeanStdInPlace]) -> None:
    normalizer = RunningMeanStdInPlace((2,)).eval()
    normalizer(torch.zeros(1, 2))  # fill the cache
    x = torch.full((1, 2), 6.0)
    write(normalizer)(x)
    torch.testing.assert_close(x, torch.ones(1, 2), atol=1e-5, rtol=0.0)


def test_constants_are_not_computed_again_while_nothing_changes() -> None:
    normalizer = RunningMeanStdInPlace((2,)).eval()
    assert normalizer.constants()[0] is normalizer.constants()[0]


def test_constants_cached_while_acting_can_be_used_for_learning() -> None:
    normalizer = RunningMeanStdInPlace((2,)).eval()
    with torch.inference_mode():
        normalizer(torch.zeros(1, 2))
    x = torch.ones(1, 2, requires_grad=True)
    mean, _, inv_std = normalizer.constants()
    ((x - mean) * inv_std).sum().backward()
    assert x.grad is not None and x.grad.all()


def test_dict_normalises_selected_keys_in_place() -> None:
    obs_space = spaces.Dict(a=spaces.Box(-1, 1, (2,)), b=spaces.Box(-1, 1, (3,)))
    normalizer = RunningMeanStdDictInPlace(obs_space, ["a"])
    assert list(normalizer.state_dict()) == [
        f"running_mean_std.a.{name}" for name in ("running_mean", "running_var", "count")
    ]
    x = {"a": torch.randn(8, 2), "b": torch.randn(8, 3)}
    before: dict[str, Tensor] = {key: value.clone() for key, value in x.items()}
    normalizer(x)
    assert not torch.equal(x["a"], before["a"]) and torch.equal(x["b"], before["b"])
    assert running_mean_std_summaries(normalizer).keys() == {"a_running_mean", "a_running_std"}
    assert RunningMeanStdDictInPlace(obs_space).running_mean_std.keys() == {"a", "b"}
    scripted = torch.jit.script(RunningMeanStdDictInPlace(obs_space, ["a"]))
    y = {key: value.clone() for key, value in before.items()}
    scripted(y)
    torch.testing.assert_close(x["a"], y["a"])


def test_unknown_keys_are_ignored() -> None:
    obs_space = spaces.Dict(a=spaces.Box(-1, 1, (2,)))
    assert RunningMeanStdDictInPlace(obs_space, ["a", "z"]).running_mean_std.keys() == {"a"}

"""Distributions against torch.distributions, masks in every accepted form, composite and unsupported spaces."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor
from torch.distributions import Categorical, Independent, Normal, kl_divergence

from sample_factory.algo.utils.action_distributions import (
    CategoricalActionDistribution,
    ContinuousActionDistribution,
    TupleActionDistribution,
    argmax_actions,
    calc_num_action_parameters,
    calc_num_actions,
    get_action_distribution,
    is_continuous_action_space,
    masked_log_softmax,
    masked_softmax,
    sample_actions_log_probs,
)
from sample_factory.algo.utils.spaces.discretized import Discretized
from tests.model_configs import box_actions

_MIXED = spaces.Tuple([spaces.Discrete(3), box_actions(2), spaces.Discrete(2)])
_RAGGED = spaces.Tuple([spaces.Discrete(3), spaces.Discrete(2), spaces.Discrete(4)])


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def _frequencies(distribution: Any, repeats: int, num_actions: int) -> Tensor:
    samples = torch.stack([distribution.sample()[0, 0] for _ in range(repeats)])
    return torch.bincount(samples, minlength=num_actions) / repeats


@pytest.mark.parametrize(
    ("space", "num_actions", "num_parameters"),
    [
        (spaces.Discrete(5), 1, 5),
        (spaces.Discrete(5, start=-2), 1, 5),
        (Discretized(11, -1.0, 1.0), 1, 11),
        (spaces.MultiDiscrete([3, 2, 4]), 3, 9),
        (spaces.MultiDiscrete(np.array([[3, 2], [4, 5]])), 4, 14),
        (box_actions(3), 3, 6),
        (_MIXED, 4, 9),
        (spaces.Tuple([_RAGGED, box_actions(1)]), 4, 11),
    ],
    ids=str,
)
def test_sizes(space: spaces.Space, num_actions: int, num_parameters: int) -> None:
    assert calc_num_actions(space) == num_actions
    assert calc_num_action_parameters(space) == num_parameters
    distribution = get_action_distribution(space, torch.randn(7, num_parameters))
    actions, log_probs = sample_actions_log_probs(distribution)
    assert actions.shape == (7, num_actions)
    assert log_probs.shape == distribution.entropy().shape == (7,)
    torch.testing.assert_close(distribution.log_prob(actions), log_probs)
    torch.testing.assert_close(distribution.log_prob(actions.float()), log_probs)  # as trajectory buffers store them


@pytest.mark.parametrize(
    "space",
    [
        spaces.Text(5),
        spaces.MultiBinary(3),
        spaces.Sequence(spaces.Discrete(2)),
        spaces.Graph(box_actions(2), None),
        spaces.Dict(a=spaces.Discrete(2)),
    ],
    ids=lambda space: type(space).__name__,
)
@pytest.mark.parametrize("error", [ValueError, NotImplementedError])
def test_unsupported_space_is_named(space: spaces.Space, error: type[Exception]) -> None:
    for nested in (space, spaces.Tuple([spaces.Discrete(2), space])):
        for function in (calc_num_actions, calc_num_action_parameters):
            with pytest.raises(error, match=type(space).__name__):
                function(nested)


def test_actions_of_a_box_have_one_dimension() -> None:
    with pytest.raises(ValueError, match="Box"):
        calc_num_actions(spaces.Box(-1.0, 1.0, (2, 3)))


def test_is_continuous() -> None:
    assert is_continuous_action_space(box_actions(1))
    assert not is_continuous_action_space(_MIXED)
    assert not is_continuous_action_space(Discretized(3, 0.0, 1.0))


def test_wrong_number_of_logits_is_refused() -> None:
    with pytest.raises(AssertionError, match="3"):
        get_action_distribution(spaces.Discrete(3), torch.zeros(2, 4))


def test_categorical_agrees_with_torch() -> None:
    logits, other_logits = 3 * torch.randn(50, 6), 3 * torch.randn(50, 6)
    ours, other = CategoricalActionDistribution(logits), CategoricalActionDistribution(other_logits)
    theirs, their_other = Categorical(logits=logits), Categorical(logits=other_logits)
    actions = torch.randint(0, 6, (50, 1))
    torch.testing.assert_close(ours.probs, theirs.probs)
    torch.testing.assert_close(ours.log_prob(actions), theirs.log_prob(actions.squeeze(1)))
    torch.testing.assert_close(ours.log_prob(actions.squeeze(1)), ours.log_prob(actions))
    torch.testing.assert_close(ours.entropy(), theirs.entropy())
    torch.testing.assert_close(ours.kl_divergence(other), kl_divergence(theirs, their_other))
    uniform = Categorical(logits=torch.zeros(50, 6))
    symmetric = 0.5 * (kl_divergence(theirs, uniform) + kl_divergence(uniform, theirs))
    torch.testing.assert_close(ours.symmetric_kl_with_uniform_prior(), symmetric)
    assert torch.equal(argmax_actions(ours), logits.argmax(dim=1))


@pytest.mark.parametrize("method", ["sample", "sample_gumbel"])
def test_categorical_samples_follow_the_probabilities(method: str) -> None:
    distribution = CategoricalActionDistribution(torch.tensor([[0.0, 1.0, -1.0, 2.0]]).expand(20000, 4))
    actions = getattr(distribution, method)()
    assert actions.shape == ((20000, 1) if method == "sample" else (20000,))
    frequencies = torch.bincount(actions.flatten(), minlength=4) / 20000
    torch.testing.assert_close(frequencies, distribution.probs[0], atol=0.015, rtol=0.0)


def test_log_prob_of_several_actions_of_one_row() -> None:
    distribution = CategoricalActionDistribution(torch.tensor([[0.0, 1.0, 2.0]]))
    torch.testing.assert_close(distribution.log_prob(torch.tensor([[0, 2]])), distribution.log_probs[0, [0, 2]])


def test_nan_probabilities_are_an_error() -> None:
    with pytest.raises(ValueError, match="NaN"):
        CategoricalActionDistribution(torch.tensor([[0.0, math.nan]])).sample()


def test_logits_of_minus_infinity_are_allowed() -> None:
    distribution = CategoricalActionDistribution(torch.tensor([[0.0, -math.inf]]).expand(100, 2))
    assert not distribution.sample().any()


def test_masked_softmax() -> None:
    logits, mask = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]]), torch.tensor([[1, 0, 1], [0, 0, 0]])
    expected = Categorical(logits=torch.tensor([1.0, 3.0])).probs
    probs = masked_softmax(logits, mask)
    torch.testing.assert_close(probs[0, [0, 2]], expected)
    assert probs[0, 1] == 0 and not probs[1].any()
    torch.testing.assert_close(masked_log_softmax(logits, mask)[0, [0, 2]], expected.log())
    assert masked_log_softmax(logits, mask)[0, 1] < -1e8


def test_short_names_of_probabilities() -> None:
    distribution = CategoricalActionDistribution(torch.randn(3, 4), torch.tensor([[1, 0, 1, 1]]).expand(3, 4))
    assert distribution.p is distribution.probs and distribution.log_p is distribution.log_probs


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int8, torch.float32])
def test_masked_categorical_is_the_categorical_of_allowed_actions(dtype: torch.dtype) -> None:
    logits, other_logits = torch.randn(30, 5), torch.randn(30, 5)
    mask = torch.tensor([1, 0, 1, 1, 0]).to(dtype).expand(30, 5)
    allowed = [0, 2, 3]
    ours, other = CategoricalActionDistribution(logits, mask), CategoricalActionDistribution(other_logits, mask)
    small, small_other = (CategoricalActionDistribution(x[:, allowed]) for x in (logits, other_logits))
    torch.testing.assert_close(ours.entropy(), small.entropy())
    torch.testing.assert_close(ours.kl_divergence(other), small.kl_divergence(small_other))
    torch.testing.assert_close(
        ours.symmetric_kl_with_uniform_prior(), small.symmetric_kl_with_uniform_prior(), atol=1e-6, rtol=1e-5
    )
    for _ in range(20):
        assert torch.isin(ours.sample(), torch.tensor(allowed)).all()
    assert torch.isin(argmax_actions(ours), torch.tensor(allowed)).all()


def test_without_any_allowed_action_samples_are_uniform() -> None:
    logits = torch.tensor([[5.0, 0.0, -5.0]])
    frequencies = _frequencies(CategoricalActionDistribution(logits, torch.zeros(1, 3)), 3000, 3)
    torch.testing.assert_close(frequencies, torch.full((3,), 1 / 3), atol=0.04, rtol=0.0)


def test_gradients_of_masked_logits_are_finite() -> None:
    logits = torch.randn(4, 3, requires_grad=True)
    distribution = CategoricalActionDistribution(logits, torch.tensor([[1, 1, 0]]).expand(4, 3))
    loss = distribution.entropy().sum() + distribution.symmetric_kl_with_uniform_prior().sum()
    loss.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None and torch.isfinite(logits.grad).all()
    assert not logits.grad[:, 2].any()


def test_continuous_agrees_with_torch() -> None:
    params, other_params = torch.randn(40, 6), torch.randn(40, 6)
    ours, other = ContinuousActionDistribution(params), ContinuousActionDistribution(other_params)
    theirs, their_other = (Independent(Normal(p[:, :3], p[:, 3:].exp()), 1) for p in (params, other_params))
    actions = torch.randn(40, 3)
    torch.testing.assert_close(ours.log_prob(actions), theirs.log_prob(actions))
    torch.testing.assert_close(ours.entropy(), theirs.entropy())
    torch.testing.assert_close(ours.kl_divergence(other), kl_divergence(theirs, their_other), atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(kl_divergence(ours, other), kl_divergence(theirs, their_other), atol=1e-4, rtol=1e-5)
    assert ours.batch_shape == theirs.batch_shape and ours.event_shape == theirs.event_shape
    torch.testing.assert_close(ours.mean, theirs.mean)
    assert torch.equal(argmax_actions(ours), params[:, :3])


def test_bounds_of_standard_deviations_can_be_read_and_changed() -> None:
    class Narrow(ContinuousActionDistribution):
        stddev_max = 2.0

    params = torch.tensor([[0.0, 0.0, -100.0, 100.0]])
    distribution = ContinuousActionDistribution(params)
    assert distribution.stddevs.tolist() == [pytest.approx([distribution.stddev_min, distribution.stddev_max])]
    assert (distribution.stddev_min, distribution.stddev_max) == (1e-4, 1e4)
    assert Narrow(params).stddevs.tolist() == [pytest.approx([1e-4, 2.0])]


def test_continuous_samples() -> None:
    distribution = ContinuousActionDistribution(torch.tensor([[1.0, -2.0, math.log(0.5), math.log(2.0)]]))
    samples = distribution.sample((20000,))
    assert samples.shape == (20000, 1, 2) and distribution.sample().shape == (1, 2)
    torch.testing.assert_close(samples.mean(dim=0), distribution.means, atol=0.05, rtol=0.0)
    torch.testing.assert_close(samples.std(dim=0), distribution.stddevs, atol=0.05, rtol=0.0)
    params = torch.zeros(1, 2, requires_grad=True)
    assert not ContinuousActionDistribution(params).sample().requires_grad
    assert ContinuousActionDistribution(params).rsample().requires_grad


def test_continuous_summaries() -> None:
    summaries = ContinuousActionDistribution(torch.tensor([[1.0, 3.0, 0.0, 0.0]])).summaries()
    assert {key: value.item() for key, value in summaries.items()} == {
        "action_mean": 2.0,
        "action_mean_min": 1.0,
        "action_mean_max": 3.0,
        "action_log_std_mean": 0.0,
        "action_log_std_min": 0.0,
        "action_log_std_max": 0.0,
        "action_stddev_mean": 1.0,
        "action_stddev_min": 1.0,
        "action_stddev_max": 1.0,
    }


def test_q28_symmetric_kl_of_continuous_actions() -> None:
    params = torch.randn(40, 6)
    ours, prior = ContinuousActionDistribution(params), ContinuousActionDistribution(torch.zeros(40, 6))
    expected = 0.5 * (ours.kl_divergence(prior) + prior.kl_divergence(ours))
    torch.testing.assert_close(ours.symmetric_kl_with_uniform_prior(), expected, atol=1e-4, rtol=1e-4)
    mixed = get_action_distribution(_MIXED, torch.randn(40, 9))
    assert mixed.symmetric_kl_with_uniform_prior().shape == (40,)


def _per_space(space: spaces.Tuple, logits: Tensor, masks: list[Any]) -> list[Any]:
    """The definition: one distribution per sub-space on its own slice of the logits."""
    sizes = [calc_num_action_parameters(s) for s in space.spaces]
    parts = zip(space.spaces, logits.split(sizes, dim=1), masks, strict=True)
    return [get_action_distribution(s, part, mask) for s, part, mask in parts]


def _assert_equals_sum_of_parts(joint: Any, other: Any, parts: list[Any], other_parts: list[Any]) -> None:
    actions = joint.sample()
    columns = actions.split([1 if hasattr(p, "probs") else p.means.shape[1] for p in parts], dim=1)
    log_prob = sum(p.log_prob(c) for p, c in zip(parts, columns, strict=True))
    torch.testing.assert_close(joint.log_prob(actions), log_prob)
    torch.testing.assert_close(joint.entropy(), sum(p.entropy() for p in parts))
    kl = sum(p.kl_divergence(q) for p, q in zip(parts, other_parts, strict=True))
    torch.testing.assert_close(joint.kl_divergence(other), kl)
    symmetric = sum(p.symmetric_kl_with_uniform_prior() for p in parts)
    torch.testing.assert_close(joint.symmetric_kl_with_uniform_prior(), symmetric)


@pytest.mark.parametrize(
    "space", [_RAGGED, _MIXED, spaces.Tuple([spaces.Discrete(3), spaces.Discrete(3)])], ids=["ragged", "mixed", "even"]
)
def test_tuple_is_the_sum_of_its_parts(space: spaces.Tuple) -> None:
    logits, other_logits = torch.randn(2, 50, calc_num_action_parameters(space)).unbind()
    joint, other = TupleActionDistribution(space, logits), TupleActionDistribution(space, other_logits)
    no_masks = [None] * len(space.spaces)
    parts, other_parts = _per_space(space, logits, no_masks), _per_space(space, other_logits, no_masks)
    _assert_equals_sum_of_parts(joint, other, parts, other_parts)
    assert len(joint.distributions) == len(joint.split_logits) == len(space.spaces)
    for ours, part in zip(joint.distributions, parts, strict=True):
        torch.testing.assert_close(ours.entropy(), part.entropy())


def test_tuple_samples_follow_the_probabilities_of_each_part() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0, 1.0, 0.0, -1.0, 0.0, 1.0, 0.5]]).expand(20000, 9)
    distribution = TupleActionDistribution(_RAGGED, logits)
    actions = distribution.sample()
    for i, part in enumerate(distribution.distributions):
        frequencies = torch.bincount(actions[:, i], minlength=part.probs.shape[1]) / 20000
        torch.testing.assert_close(frequencies, part.probs[0], atol=0.015, rtol=0.0)


def test_multi_discrete_is_a_tuple_of_discretes() -> None:
    logits = torch.randn(20, 9)
    multi = get_action_distribution(spaces.MultiDiscrete([3, 2, 4]), logits)
    composite = get_action_distribution(_RAGGED, logits)
    actions = multi.sample()
    torch.testing.assert_close(multi.log_prob(actions), composite.log_prob(actions))
    assert torch.equal(argmax_actions(multi), argmax_actions(composite))


def test_q24_argmax_of_tuples_has_one_row_per_sample() -> None:
    logits = torch.randn(8, 9)
    discrete = argmax_actions(get_action_distribution(_RAGGED, logits))
    expected = torch.stack([part.argmax(dim=1) for part in logits.split([3, 2, 4], dim=1)], dim=1)
    assert discrete.shape == (8, 3) and torch.equal(discrete, expected)

    mixed = argmax_actions(get_action_distribution(_MIXED, logits))
    assert mixed.shape == (8, 4)
    torch.testing.assert_close(mixed[:, 1:3], logits[:, 3:5])
    assert torch.equal(mixed[:, 0].long(), logits[:, :3].argmax(dim=1))
    assert torch.equal(mixed[:, 3].long(), logits[:, 7:].argmax(dim=1))


def _random_masks(sizes: list[int], batch_size: int) -> list[Tensor]:
    masks = [torch.rand(batch_size, n) < 0.5 for n in sizes]
    for mask in masks:
        mask[torch.arange(batch_size), torch.randint(0, mask.shape[1], (batch_size,))] = True
    return masks


@pytest.mark.parametrize("form", ["sequence", "flat"])
def test_q06_every_sample_of_a_tuple_has_its_own_mask(form: str) -> None:
    logits, other_logits = torch.randn(2, 50, 9).unbind()
    masks = _random_masks([3, 2, 4], 50)
    given = masks if form == "sequence" else torch.cat(masks, dim=1)
    joint, other = (TupleActionDistribution(_RAGGED, x, given) for x in (logits, other_logits))
    parts, other_parts = (_per_space(_RAGGED, x, masks) for x in (logits, other_logits))
    _assert_equals_sum_of_parts(joint, other, parts, other_parts)
    for _ in range(20):
        chosen = joint.sample()
        for i, mask in enumerate(masks):
            assert mask.gather(1, chosen[:, i : i + 1]).all()
    for i, mask in enumerate(masks):
        assert mask.gather(1, joint.argmax()[:, i : i + 1]).all()


def test_q06_mask_of_a_mixed_tuple_covers_its_discrete_parts() -> None:
    logits, masks = torch.randn(50, 9), _random_masks([3, 2], 50)
    flat = TupleActionDistribution(_MIXED, logits, torch.cat(masks, dim=1))
    sequence = TupleActionDistribution(_MIXED, logits, [masks[0], None, masks[1]])
    parts = _per_space(_MIXED, logits, [masks[0], None, masks[1]])
    for joint in (flat, sequence):
        _assert_equals_sum_of_parts(joint, joint, parts, parts)


def test_q06_other_tensors_are_indexed_by_sub_space() -> None:
    space = spaces.Tuple([spaces.Discrete(3), spaces.Discrete(3)])
    logits, mask = torch.randn(5, 6), torch.tensor([1, 0, 1]).expand(10, 3)
    joint = TupleActionDistribution(space, logits, mask)
    parts = _per_space(space, logits, [mask[:5], mask[5:]])
    _assert_equals_sum_of_parts(joint, joint, parts, parts)


def test_mask_that_does_not_fit_is_explained() -> None:
    with pytest.raises(ValueError, match=r"expected \[batch, 9\]"):
        TupleActionDistribution(_RAGGED, torch.randn(2, 9), torch.ones(2, 8)).sample()
    with pytest.raises(ValueError, match="2 masks"):
        TupleActionDistribution(_RAGGED, torch.randn(2, 9), [torch.ones(2, 3), torch.ones(2, 2)]).sample()


def test_tuple_part_without_allowed_action_samples_existing_actions_only() -> None:
    masks = [torch.zeros(500, 3), torch.zeros(500, 2), torch.ones(500, 4)]
    actions = TupleActionDistribution(_RAGGED, torch.randn(500, 9), masks).sample()
    assert set(actions[:, 0].tolist()) == {0, 1, 2}
    assert set(actions[:, 1].tolist()) == {0, 1}


def test_tuple_built_while_acting_can_be_used_for_learning() -> None:
    with torch.inference_mode():
        TupleActionDistribution(_RAGGED, torch.randn(2, 9)).sample()
    logits = torch.randn(2, 9, requires_grad=True)
    TupleActionDistribution(_RAGGED, logits).entropy().sum().backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None and logits.grad.any()


def test_discretized() -> None:
    space = Discretized(11, -1.0, 1.0)
    assert isinstance(space, spaces.Discrete) and space.n == 11
    assert [space.to_continuous(a) for a in (0, 5, 10)] == pytest.approx([-1.0, 0.0, 1.0])
    np.testing.assert_allclose(space.to_continuous(np.array([0, 1])), [-1.0, -0.8])
    with pytest.raises(ValueError, match="n=1"):
        Discretized(1, 0.0, 1.0)

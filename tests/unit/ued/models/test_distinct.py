"""Observations without repetition: the places and contents stay what they were."""

from __future__ import annotations

import pytest
import torch

from sample_factory.ued.models.distinct import DistinctObservations
from tests.unit.ued.models.specs import CORE_OPTIONS, random_observations, small_student

STEPS, ENVS, KINDS = 9, 6, 5


def repetitive(generator: torch.Generator) -> dict[str, torch.Tensor]:
    """A few different observations in many places."""
    kinds = random_observations([KINDS], generator)
    which = torch.randint(0, KINDS, [STEPS, ENVS], generator=generator)
    return {name: x[which] for name, x in kinds.items()}


def restored(distinct: DistinctObservations) -> dict[str, torch.Tensor]:
    return {name: x[distinct.rows] for name, x in distinct.obs.items()}


def assert_same(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[name], expected[name]) for name in expected)


@pytest.fixture
def obs():
    return repetitive(torch.Generator().manual_seed(0))


def test_every_observation_is_kept_once(obs):
    distinct = DistinctObservations.of(obs, 2)
    assert len(distinct.obs["image"]) == KINDS
    assert_same(restored(distinct), obs)


def test_observations_that_differ_in_one_place_only():
    images = torch.zeros(8, 3, 3, 1)
    images[1, 2, 2, 0] = 1.0
    images[2, 0, 0, 0] = -0.0
    obs = {"image": images, "agent_dir": torch.tensor([0, 0, 0, 1, 0, 0, 0, 0])}
    distinct = DistinctObservations.of(obs, 1)
    assert len(distinct.obs["image"]) == 4
    assert_same(restored(distinct), obs)


def test_bytes():
    obs = {"image": torch.randint(0, 2, [40, 3, 3, 1], dtype=torch.uint8).mul_(0), "flag": torch.arange(40) % 2 == 0}
    distinct = DistinctObservations.of(obs, 1)
    assert len(distinct.obs["flag"]) == 2
    assert_same(restored(distinct), obs)


def test_mostly_different_observations_are_left_in_order():
    obs = {"image": torch.rand(STEPS, ENVS, 3, 3, 1, generator=torch.Generator().manual_seed(0))}
    distinct = DistinctObservations.of(obs, 2)
    assert torch.equal(distinct.rows, torch.arange(STEPS * ENVS).view(STEPS, ENVS))
    assert_same(restored(distinct), obs)


def test_parts_need_no_more_than_they_have(obs):
    obs["agent_dir"][:, 2] = torch.arange(STEPS) % 2
    idx = (slice(None), torch.tensor([4, 2]))
    part = DistinctObservations.of(obs, 2)[idx]
    assert len(torch.unique(part.rows)) == len(part.obs["image"])
    assert_same(restored(part), {name: x[idx] for name, x in obs.items()})
    flat = DistinctObservations.of(obs, 2).flatten()
    assert_same(restored(flat), {name: x.flatten(0, 1) for name, x in obs.items()})


@pytest.mark.parametrize("core", CORE_OPTIONS)
@pytest.mark.parametrize("num_hidden", [0, 1, 2])
def test_networks_do_not_notice(obs, core, num_hidden):
    model = small_student(core, value_ensemble_size=2, n_hidden_layers=num_hidden)
    generator = torch.Generator().manual_seed(1)
    resets = torch.rand(STEPS, ENVS, generator=generator) < 0.2
    weights = torch.randn(STEPS, ENVS, 9, generator=generator)
    results = []
    for run in (model.sequence, model.sequence_by_steps):
        model.zero_grad()
        outputs = torch.cat(run(obs, model.initial_carry(ENVS), resets), -1)
        (outputs * weights).sum().backward()
        results.append({"outputs": outputs} | {name: p.grad.clone() for name, p in model.named_parameters()})
    for name, expected in results[1].items():
        assert torch.allclose(results[0][name], expected, atol=1e-4, rtol=1e-4), name


@pytest.mark.parametrize("core", ["lstm", "gru"])
def test_a_second_gradient_is_refused(obs, core):
    model = small_student(core)
    values, _ = model.sequence(obs, model.initial_carry(ENVS), torch.zeros(STEPS, ENVS, dtype=torch.bool))
    values.sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="only once"):
        values.sum().backward()

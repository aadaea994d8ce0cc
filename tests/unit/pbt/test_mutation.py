from __future__ import annotations

import copy
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sample_factory.pbt import mutation
from sample_factory.pbt.mutation import (
    MutationSettings,
    mutate_hyperparams,
    mutate_reward_shaping,
    mutate_value,
    perturb_batch_size,
    perturb_exponential_decay,
    perturb_float,
    perturb_vtrace,
)
from sample_factory.utils.attr_dict import AttrDict

ALWAYS = MutationSettings(mutation_rate=1.0, perturb_min=1.1, perturb_max=1.5)
NEVER = MutationSettings(mutation_rate=0.0, perturb_min=1.1, perturb_max=1.5)
CFG = AttrDict(rollout=32, batch_size=1024)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_perturb_float_goes_both_ways_equally_often():
    generator = rng()
    results = [perturb_float(3.0, 1.5, generator) for _ in range(2000)]
    assert set(results) == {2.0, 4.5}
    assert 900 < results.count(2.0) < 1100


def test_perturbation_leaves_global_random_streams_alone():
    random.seed(1)
    np.random.seed(1)
    expected = random.random(), np.random.random()
    random.seed(1)
    np.random.seed(1)
    perturb_float(1.0)
    perturb_vtrace(1.0, CFG)
    perturb_exponential_decay(0.99, CFG)
    perturb_batch_size(1024, CFG)
    assert (random.random(), np.random.random()) == expected


def test_vtrace_thresholds_move_by_half_a_percent():
    assert {perturb_vtrace(2.0, CFG, rng=rng(i)) for i in range(20)} == {2.0 * 1.005, 2.0 / 1.005}


@given(st.floats(0.5, 0.9999), st.integers(0, 1000))
def test_exponential_decay_scales_the_distance_to_one(gamma: float, seed: int):
    changed = perturb_exponential_decay(gamma, CFG, rng=rng(seed))
    ratio = (1.0 - changed) / (1.0 - gamma)
    assert 1.01 - 1e-6 <= max(ratio, 1.0 / ratio) <= 1.2 + 1e-6


def test_perturbations_are_those_of_the_given_random_stream():
    for perturb in (perturb_float, lambda x, rng: perturb_exponential_decay(x, CFG, rng=rng)):
        assert [perturb(0.9, rng=rng(i)) for i in range(9)] == [perturb(0.9, rng=rng(i)) for i in range(9)]


def test_exponential_decay_never_reaches_zero():
    assert all(perturb_exponential_decay(1e-9, CFG, rng=rng(i)) >= 1e-8 for i in range(20))


def test_batch_size_is_a_bounded_multiple_of_the_rollout():
    assert {perturb_batch_size(1024, CFG, rng=rng(i)) for i in range(20)} == {832, 1216}
    assert perturb_batch_size(10_000, CFG, rng=rng()) == 1536  # 1.5 times the configured size
    assert perturb_batch_size(8, CFG, rng=rng()) == 32  # at least one rollout


def test_mutation_rate_is_the_probability_of_a_change():
    settings = MutationSettings(mutation_rate=0.15, perturb_min=1.1, perturb_max=1.5)
    generator = rng()
    num_changed = sum(mutate_value("learning_rate", 1.0, 1.0, settings, CFG, generator) != 1.0 for _ in range(4000))
    assert 0.13 < num_changed / 4000 < 0.17


def test_numbers_change_by_a_factor_of_the_configured_range():
    generator = rng()
    values = [mutate_value("x", 10, 10, ALWAYS, CFG, generator) for _ in range(500)]
    factors = [max(v / 10, 10 / v) for v in values]
    assert all(isinstance(v, float) for v in values)
    assert min(factors) >= 1.1 - 1e-9 and max(factors) <= 1.5 + 1e-9
    assert min(factors) < 1.12 and max(factors) > 1.48


def test_changed_values_rarely_return_to_their_default():
    generator = rng()
    num_resets = sum(mutate_value("x", 2.0, 7.0, ALWAYS, CFG, generator) == 7.0 for _ in range(10_000))
    assert 60 < num_resets < 150  # 1 %


def test_elements_of_sequences_return_to_their_own_defaults(monkeypatch):
    monkeypatch.setattr(mutation, "RESET_TO_DEFAULT_PROBABILITY", 1.0)
    assert mutate_value("x", [3.0, 4.0], (1.0, 2.0), ALWAYS, CFG, rng()) == (1.0, 2.0)
    for other in ((1.0,), 1.0, None):
        changed = mutate_value("x", [3.0, 4.0], other, ALWAYS, CFG, rng())
        assert len(changed) == 2 and not {1.0, 3.0, 4.0} & set(changed)


def test_bools_are_negated_and_sequences_change_element_by_element():
    assert mutate_value("flag", True, True, ALWAYS, CFG, rng()) is False
    changed = mutate_value("pair", [1.0, -2.0], (1.0, -2.0), ALWAYS, CFG, rng())
    assert isinstance(changed, tuple) and changed[0] > 0 > changed[1] and changed != (1.0, -2.0)
    assert mutate_value("pair", [1.0, -2.0], None, NEVER, CFG, rng()) == (1.0, -2.0)


def test_other_types_are_an_error():
    with pytest.raises(RuntimeError, match="optimizer='adam'"):
        mutate_value("optimizer", "adam", "adam", ALWAYS, CFG, rng())


def test_special_rules_apply_by_name():
    changed = mutate_value("gamma", 0.99, 0.99, ALWAYS, CFG, rng())
    assert 1.01 - 1e-9 <= max((1 - changed) / 0.01, 0.01 / (1 - changed)) <= 1.2 + 1e-9


def test_hyperparams_are_copied_and_only_tuned_ones_change():
    params = {"learning_rate": 1e-3, "gamma": 0.99}
    mutated = mutate_hyperparams(params, params, {"learning_rate"}, ALWAYS, CFG, rng())
    assert params == {"learning_rate": 1e-3, "gamma": 0.99}
    assert mutated["gamma"] == 0.99 and mutated["learning_rate"] != 1e-3


def test_all_numeric_leaves_of_reward_shaping_change():
    scheme = {"kill": 1.0, "delta": {"health": (0.5, -0.5), "armor": 2}, "mode": "hard", "unused": None}
    original = copy.deepcopy(scheme)
    mutated = mutate_reward_shaping(scheme, scheme, None, ALWAYS, CFG, rng())
    assert scheme == original
    assert mutated["mode"] == "hard" and mutated["unused"] is None
    assert mutated["kill"] != 1.0 and mutated["delta"]["armor"] != 2
    assert all(a != b for a, b in zip(mutated["delta"]["health"], (0.5, -0.5), strict=True))


def test_reward_categories_restrict_the_change_with_everything_below():
    scheme = {"kill": 1.0, "delta": {"health": {"up": 0.5}}, "selected_weapon": 3.0}
    mutated = mutate_reward_shaping(scheme, scheme, ["delta", "selected_weapon"], ALWAYS, CFG, rng())
    assert mutated["kill"] == 1.0
    assert mutated["delta"]["health"]["up"] != 0.5 and mutated["selected_weapon"] != 3.0


def test_no_reward_shaping_stays_none():
    assert mutate_reward_shaping(None, None, None, ALWAYS, CFG, rng()) is None

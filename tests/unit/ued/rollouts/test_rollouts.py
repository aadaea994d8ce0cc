"""What a rollout records, and how episodes end and begin in it."""

from __future__ import annotations

import pytest
import torch

from sample_factory.ued.models.registration import make_teacher_model
from sample_factory.ued.rollouts import collect_rollout, collect_teacher_rollout, log_probs_of
from sample_factory.ued.steps import gumbel_noise
from tests.unit.ued.models.specs import CORE_OPTIONS
from tests.unit.ued.rollouts.counting_env import (
    TIME_LIMIT,
    CountingEnv,
    CountingLevels,
    CountingTeacherEnv,
    counting_student,
)

STEPS = 13
LENGTHS = [2, 5, 6, 7, 30]


@pytest.fixture(params=CORE_OPTIONS)
def model(request):
    return counting_student(request.param)


def collect(model, seed=0, lengths=LENGTHS, **options):
    env, generator = CountingEnv(), torch.Generator().manual_seed(seed)
    state = env.reset(CountingLevels(torch.tensor(lengths)), generator)

    def restart(idx, states):
        return env.reset(env.levels_of(states[idx]), generator)

    return collect_rollout(env, state, model, STEPS, restart, generator, **options)


def test_episodes_end_and_begin_again(model):
    rollout = collect(model)
    for column, length in enumerate(LENGTHS):
        period = min(length, TIME_LIMIT)
        expected = [(t + 1) % period == 0 for t in range(STEPS)]
        assert rollout.dones[:, column].tolist() == expected
        assert rollout.truncated[:, column].tolist() == [done and length > TIME_LIMIT for done in expected]
        assert rollout.obs["time"][:, column].tolist() == [t % period for t in range(STEPS)]
    assert torch.equal(rollout.rewards, rollout.actions + 100.0 * torch.tensor(LENGTHS))
    assert rollout.start_levels.length.tolist() == LENGTHS


def test_restart_decides_on_new_levels(model):
    env, generator = CountingEnv(), torch.Generator().manual_seed(0)
    asked = []

    def restart(idx, states):
        asked.append((idx.tolist(), states.length[idx].tolist()))
        return env.reset(CountingLevels(torch.full_like(idx, 9)), generator)

    state = env.reset(CountingLevels(torch.tensor([2, 9, 2])), generator)
    rollout = collect_rollout(env, state, model, 4, restart, generator)
    assert asked == [([0, 2], [2, 2])]
    assert rollout.obs["image"][:, 0, 0, 0, 0].tolist() == [2, 2, 9, 9]


def test_recorded_values_and_log_probs_are_those_of_the_sequence(model):
    rollout = collect(model)
    values, logits = model.sequence(rollout.obs, rollout.initial_carry, rollout.resets)
    assert rollout.values.shape == (STEPS, len(LENGTHS), 2)
    assert torch.allclose(rollout.values, values, atol=1e-5)
    assert torch.allclose(rollout.log_probs, log_probs_of(logits, rollout.actions), atol=1e-5)


def test_last_values_use_the_last_carry_without_a_reset(model):
    longer = collect(model, lengths=[30, 30], seed=3)
    env, generator = CountingEnv(), torch.Generator().manual_seed(3)
    state = env.reset(CountingLevels(torch.tensor([30, 30])), generator)
    shorter = collect_rollout(env, state, model, 4, lambda idx, states: states[idx], generator)
    values, _, _ = model.step(env.observe(state), shorter.final_carry, torch.zeros(2, dtype=torch.bool))
    assert torch.allclose(shorter.last_values, values)
    # No episode ends before step 5: the next value of a longer rollout is the same.
    assert torch.allclose(longer.values[4], values, atol=1e-5)


def test_the_final_carry_is_that_of_an_episode_that_ends_with_the_rollout(model):
    env, generator = CountingEnv(), torch.Generator().manual_seed(3)
    state = env.reset(CountingLevels(torch.tensor([2, 30])), generator)
    rollout = collect_rollout(env, state, model, 2, lambda idx, states: states[idx], generator)
    assert rollout.dones[-1].tolist() == [True, False]
    carry, no_resets = model.initial_carry(2), torch.zeros(2, dtype=torch.bool)
    for t in range(2):
        _, _, carry = model.step({name: x[t] for name, x in rollout.obs.items()}, carry, no_resets)
    torch.testing.assert_close(tuple(rollout.final_carry), tuple(carry), atol=1e-5, rtol=1e-4)


def test_final_values_belong_to_the_true_last_observation(model):
    rollout = collect(model, bootstrap_time_limits=True)
    assert rollout.final_values.shape == rollout.values.shape
    assert not rollout.final_values[~rollout.truncated].any()
    column, end = 4, TIME_LIMIT - 1
    assert rollout.truncated[end, column]
    # The same episode, with one more observation instead of a new start.
    obs = {name: x[: end + 2, column : column + 1].clone() for name, x in rollout.obs.items()}
    obs["time"][-1] = TIME_LIMIT
    obs["image"][-1, 0, 0, 0, 0], obs["image"][-1, 0, 1, 1, 0] = LENGTHS[column], TIME_LIMIT
    no_resets = torch.zeros(end + 2, 1, dtype=torch.bool)
    values, _ = model.sequence(obs, model.initial_carry(1), no_resets)
    assert torch.allclose(rollout.final_values[end, column], values[-1, 0], atol=1e-5)


def test_no_final_values_unless_asked(model):
    assert collect(model).final_values is None


def test_the_generator_decides_everything(model):
    first, same, other = collect(model), collect(model), collect(model, seed=1)
    assert torch.equal(first.actions, same.actions) and torch.equal(first.values, same.values)
    assert not torch.equal(first.actions, other.actions)


def test_a_given_carry_is_used_and_recorded(model):
    carry = tuple(torch.ones_like(part) for part in model.initial_carry(len(LENGTHS)))
    rollout = collect(model, initial_carry=carry)
    assert all(torch.equal(a, torch.ones_like(a)) for a in rollout.initial_carry)
    values, _ = model.sequence(rollout.obs, carry, rollout.resets)
    assert torch.allclose(rollout.values, values, atol=1e-5)


def test_resets_are_dones_shifted_by_one(model):
    rollout = collect(model)
    assert not rollout.resets[0].any()
    assert torch.equal(rollout.resets[1:], rollout.dones[:-1])


def test_parts_of_a_rollout(model):
    rollout = collect(model, bootstrap_time_limits=True)
    part = rollout.select_envs(torch.tensor([3, 0]))
    assert part.num_envs == 2 and part.num_steps == STEPS
    assert torch.equal(part.rewards, rollout.rewards[:, [3, 0]])
    assert part.start_levels.length.tolist() == [7, 2]
    values, _ = model.sequence(part.obs, part.initial_carry, part.resets)
    assert torch.allclose(part.values, values, atol=1e-5)


def test_noise_samples_the_categorical_distribution():
    logits = torch.tensor([0.5, -1.0, 1.5])
    actions = (logits + gumbel_noise([40_000, 3], torch.Generator().manual_seed(0))).argmax(-1)
    frequencies = torch.bincount(actions, minlength=3) / 40_000
    assert torch.allclose(frequencies, logits.softmax(-1), atol=0.01)


@pytest.mark.parametrize("core", CORE_OPTIONS)
def test_a_teacher_builds_levels(core):
    env, generator = CountingTeacherEnv(), torch.Generator().manual_seed(0)
    size = {} if core == "none" else {"recurrent_hidden_dim": 8}
    options = {**CORE_OPTIONS[core], **size, "n_conv_filters": 4}
    model = make_teacher_model("default_teacher_cnn", env.observation_spec, env.num_actions, options, generator)
    rollout, levels = collect_teacher_rollout(env, 6, model, generator)
    assert torch.equal(levels.length, rollout.actions[0])
    assert rollout.dones.tolist() == [[False] * 6] * 3 + [[True] * 6]
    assert not rollout.rewards.any() and not rollout.last_values.any()
    values, logits = model.sequence(rollout.obs, rollout.initial_carry, rollout.resets)
    assert torch.allclose(rollout.values, values, atol=1e-5)
    assert torch.allclose(rollout.log_probs, log_probs_of(logits, rollout.actions), atol=1e-5)


def test_actions_of_a_teacher_are_samples():
    env, generator = CountingTeacherEnv(), torch.Generator().manual_seed(0)
    options = {"recurrent_arch": "lstm", "recurrent_hidden_dim": 8, "n_conv_filters": 4}
    model = make_teacher_model("default_teacher_cnn", env.observation_spec, env.num_actions, options, generator)
    with torch.no_grad():
        model.policy.output.bias.copy_(torch.linspace(-1, 1, 5))  # a policy that is not uniform
    rollout, _ = collect_teacher_rollout(env, 8000, model, generator)
    _, logits = model.sequence(rollout.obs, rollout.initial_carry, rollout.resets)
    for step_logits, actions in zip(logits, rollout.actions, strict=True):
        frequencies = torch.bincount(actions, minlength=5) / 8000
        assert torch.allclose(frequencies, step_logits.softmax(-1).mean(0), atol=0.02)
    assert (frequencies - 0.2).abs().max() > 0.05

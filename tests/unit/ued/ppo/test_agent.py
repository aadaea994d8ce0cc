"""The agent: minibatches, optimiser, schedule, statistics, state."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sample_factory.ued.models.distinct import DistinctObservations
from sample_factory.ued.models.registration import make_teacher_model
from sample_factory.ued.ppo.agent import STAT_NAMES, PPOAgent, PPOConfig
from sample_factory.ued.ppo.losses import categorical, ppo_losses
from sample_factory.ued.rollouts import Rollout, collect_teacher_rollout, log_probs_of
from tests.unit.ued.models.specs import CORE_OPTIONS, random_observations, small_student
from tests.unit.ued.rollouts.counting_env import CountingTeacherEnv

STEPS, ENVS = 6, 4


def make_rollout(model, num_envs=ENVS, seed=0) -> Rollout:
    """A rollout of the model's own policy on random observations, with random rewards."""
    generator = torch.Generator().manual_seed(seed)
    obs = random_observations([STEPS, num_envs], generator)
    dones = torch.rand(STEPS, num_envs, generator=generator) < 0.2
    carry = model.initial_carry(num_envs)
    resets = torch.cat([torch.zeros_like(dones[:1]), dones[:-1]])
    with torch.no_grad():
        values, logits = model.sequence(obs, carry, resets)
    actions = torch.randint(0, 7, [STEPS, num_envs], generator=generator)
    return Rollout(
        obs=obs,
        actions=actions,
        rewards=torch.rand(STEPS, num_envs, generator=generator),
        dones=dones,
        truncated=torch.zeros_like(dones),
        log_probs=log_probs_of(logits, actions),
        values=values,
        initial_carry=carry,
        final_carry=carry,
        last_values=torch.zeros_like(values[0]),
    )


def make_agent(core="lstm", model_options=None, **config) -> tuple[PPOAgent, Rollout]:
    model = small_student(core, **(model_options or {}))
    return PPOAgent(model, PPOConfig(**config)), make_rollout(model)


def update(agent, rollout, seed=0):
    advantages, targets = agent.advantages(rollout)
    return agent.update(rollout, advantages, targets, torch.Generator().manual_seed(seed))


def plain_update(agent: PPOAgent, rollout: Rollout) -> tuple[list[Tensor], dict[str, float]]:
    """All epochs with one minibatch, written down step by step: new parameters and mean statistics."""
    config, model = agent.config, copy.deepcopy(agent.model)
    parameters = list(model.parameters())
    first, second = ([torch.zeros_like(p) for p in parameters] for _ in range(2))
    advantages, targets = agent.advantages(rollout)
    sums = dict.fromkeys(STAT_NAMES, 0.0)
    for k in range(config.n_epochs):
        values, logits = model.sequence_by_steps(rollout.obs, rollout.initial_carry, rollout.resets)
        log_probs, entropy = categorical(logits, rollout.actions)
        losses = ppo_losses(
            log_probs,
            entropy,
            values,
            rollout.log_probs,
            rollout.values,
            advantages[..., 0],
            targets,
            clip_eps=config.clip_eps,
            clip_value_loss=config.clip_value_loss,
            value_loss_coef=config.value_loss_coef,
            entropy_coef=config.entropy_coef,
        )
        grads = torch.autograd.grad(losses.total, parameters)
        norm = torch.cat([g.flatten() for g in grads]).norm()
        lr = config.learning_rate(k)
        with torch.no_grad():
            for p, g, m, v in zip(parameters, grads, first, second, strict=True):
                g = g * min(1.0, config.max_grad_norm / norm)
                m.lerp_(g, 0.1)
                v.lerp_(g * g, 0.001)
                p -= lr * m / (1 - 0.9 ** (k + 1)) / ((v / (1 - 0.999 ** (k + 1))).sqrt() + config.adam_eps)
        stats = (losses.total, losses.actor, losses.value, losses.entropy, values.mean(), targets.mean())
        for name, stat in zip(STAT_NAMES, (*stats, advantages[..., 0].mean(), norm), strict=True):
            sums[name] += stat.item() / config.n_epochs
    return parameters, sums


def test_steps_to_be_recorded_are_the_usual_ones() -> None:
    agents = [make_agent(max_grad_norm=0.05, lr=1e-2)[0] for _ in range(2)]
    rollout = make_rollout(agents[0].model)
    for agent in agents:
        update(agent, rollout)
    usual, recorded = agents
    advantages, targets = usual.advantages(rollout)
    obs = usual.model.prepare(rollout.obs, batch_ndim=2)
    (batch,) = usual.minibatches(rollout, obs, advantages, targets, torch.Generator())
    for _ in range(2):
        stats = usual._train_on(batch, 3e-3)
        torch.testing.assert_close(recorded._train_recorded(batch.clone(), torch.tensor(3e-3)), stats)
    for p, expected in zip(recorded.model.parameters(), usual.model.parameters(), strict=True):
        torch.testing.assert_close(p, expected)


@pytest.mark.parametrize("core", CORE_OPTIONS)
@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("clip_value_loss", [True, False])
def test_an_update_step_by_step(core, heads, clip_value_loss):
    agent, rollout = make_agent(
        core,
        {"value_ensemble_size": heads},
        n_epochs=3,
        entropy_coef=0.01,
        lr=1e-2,
        lr_final=1e-3,
        lr_anneal_steps=2,
        max_grad_norm=0.1,
        clip_value_loss=clip_value_loss,
    )
    expected, expected_stats = plain_update(agent, rollout)
    stats = update(agent, rollout)
    for actual, wanted in zip(agent.model.parameters(), expected, strict=True):
        assert torch.allclose(actual, wanted, atol=2e-4, rtol=1e-3)
    assert stats == pytest.approx(expected_stats, rel=1e-3, abs=1e-5)


def test_counters():
    agent, rollout = make_agent(n_epochs=3, n_minibatches=2)
    update(agent, rollout)
    update(agent, rollout)
    assert (agent.n_updates, agent.n_grad_updates) == (2, 12)


def test_linear_schedule():
    config = PPOConfig(lr=1e-3, lr_final=1e-4, lr_anneal_steps=10)
    assert [config.learning_rate(k) for k in (0, 5, 10, 20)] == pytest.approx([1e-3, 5.5e-4, 1e-4, 1e-4])


@pytest.mark.parametrize(
    "options", [{"lr_final": None, "lr_anneal_steps": 10}, {"lr_final": 1e-4, "lr_anneal_steps": 0}]
)
def test_constant_rate(options):
    assert PPOConfig(lr=1e-3, **options).learning_rate(7) == 1e-3


def test_minibatches_of_recurrent_networks_are_whole_sequences():
    agent, rollout = make_agent("lstm", n_minibatches=2)
    marked = torch.arange(ENVS).expand(STEPS, ENVS)
    rollout.actions = marked
    rollout.initial_carry = tuple(torch.arange(ENVS).float().unsqueeze(1).expand(ENVS, 16) for _ in range(2))
    advantages, targets = agent.advantages(rollout)
    generator = torch.Generator().manual_seed(0)
    seen = []
    for _ in range(3):
        parts = list(
            agent.minibatches(rollout, DistinctObservations.of(rollout.obs, 2), advantages, targets, generator)
        )
        order = torch.cat([part.actions[0] for part in parts])
        assert sorted(order.tolist()) == list(range(ENVS))
        for part in parts:
            assert part.actions.shape == (STEPS, 2)
            assert torch.equal(part.actions, part.actions[:1].expand(STEPS, 2))
            assert torch.equal(part.initial_carry[0][:, 0], part.actions[0].float())
            assert torch.equal(part.targets, targets[:, part.actions[0]])
            assert torch.equal(part.resets, rollout.resets[:, part.actions[0]])
        seen.append(order.tolist())
    assert seen[0] != seen[1] or seen[1] != seen[2]  # a new permutation every epoch


def test_minibatches_of_feed_forward_networks_are_transitions():
    agent, rollout = make_agent("none", n_minibatches=3)
    rollout.actions = torch.arange(STEPS * ENVS).view(STEPS, ENVS)
    advantages, targets = agent.advantages(rollout)
    parts = list(
        agent.minibatches(
            rollout, DistinctObservations.of(rollout.obs, 2), advantages, targets, torch.Generator().manual_seed(0)
        )
    )
    order = torch.cat([part.actions for part in parts])
    assert order.tolist() != sorted(order.tolist()) and sorted(order.tolist()) == list(range(STEPS * ENVS))
    for part in parts:
        assert torch.equal(part.targets, targets.flatten(0, 1)[part.actions])
        images = part.obs.obs["image"][part.obs.rows]
        assert torch.equal(images, rollout.obs["image"].flatten(0, 1)[part.actions])


@pytest.mark.parametrize("core, message", [("gru", "4 environments"), ("none", "24 transitions")])
def test_minibatches_must_be_equal(core, message):
    agent, rollout = make_agent(core, n_minibatches=5)
    with pytest.raises(ValueError, match=f"{message} cannot be divided into n_minibatches=5"):
        update(agent, rollout)


def test_a_single_environment_learns_like_any_other():
    agent, _ = make_agent("lstm", n_epochs=1)
    rollout = make_rollout(agent.model, num_envs=1)
    _, expected = plain_update(agent, rollout)
    stats = update(agent, rollout)
    assert abs(expected["actor_loss"]) < 1e-4  # mean of normalised advantages, as ratios are 1 in the first epoch
    assert stats == pytest.approx(expected, abs=1e-5)
    agent, _ = make_agent("lstm", n_epochs=8, lr=1e-2)
    _, expected = plain_update(agent, rollout)
    assert expected["actor_loss"] < -0.02
    assert update(agent, rollout) == pytest.approx(expected, rel=2e-2, abs=1e-4)


def test_gradients_are_clipped_by_their_global_norm():
    norms = []
    agent, rollout = make_agent(n_epochs=1, max_grad_norm=1e-3)
    step = agent._optimizer.step
    agent._optimizer.step = lambda: (
        norms.append(torch.cat([p.grad.flatten() for p in agent.model.parameters()]).norm().item()),
        step(),
    )
    stats = update(agent, rollout)
    assert norms == pytest.approx([1e-3], rel=1e-4)
    assert stats["grad_norm"] > 1e-2


@pytest.mark.parametrize("share, factor", [(0.7, 0.7), (1.3, 1.0)])
def test_gradients_are_clipped_exactly_from_the_limit_on(share, factor):
    agent, rollout = make_agent(n_epochs=1)
    norm = update(agent, rollout)["grad_norm"]
    agent, rollout = make_agent(n_epochs=1, max_grad_norm=share * norm)
    assert update(agent, rollout)["grad_norm"] == pytest.approx(norm, rel=1e-5)
    clipped = torch.cat([p.grad.flatten() for p in agent.model.parameters()]).norm().item()
    assert clipped == pytest.approx(factor * norm, rel=1e-4)


def test_moments_of_adam_decay_as_usual():
    agent, rollout = make_agent(n_epochs=1)
    update(agent, rollout)
    for parameter in agent.model.parameters():
        state, grad = agent._optimizer.state[parameter], parameter.grad
        assert torch.allclose(state["exp_avg"], 0.1 * grad, rtol=1e-3, atol=1e-9)
        assert torch.allclose(state["exp_avg_sq"], 0.001 * grad.square(), rtol=1e-3, atol=1e-12)


def test_gradients_and_statistics_are_synchronised_before_clipping():
    agent, rollout = make_agent(n_epochs=1)
    plain, _ = make_agent(n_epochs=1)
    expected = update(plain, rollout)
    calls = []

    def double(tensors):
        calls.append(len(tensors))
        for tensor in tensors:
            tensor.mul_(2.0)

    agent.gradient_sync = double
    stats = update(agent, rollout)
    assert calls == [len(list(agent.model.parameters())) + 1]
    assert stats == pytest.approx({name: 2 * value for name, value in expected.items()}, rel=1e-4, abs=1e-6)


def test_a_restored_agent_continues_exactly():
    agent, rollout = make_agent("gru", n_minibatches=2, lr=1e-2, lr_final=0.0, lr_anneal_steps=100)
    update(agent, rollout)
    saved = copy.deepcopy(agent.state_dict())
    update(agent, rollout, seed=5)
    restored, _ = make_agent("gru", n_minibatches=2, lr=1e-2, lr_final=0.0, lr_anneal_steps=100)
    restored.load_state_dict(saved)
    update(restored, rollout, seed=5)
    assert restored.n_grad_updates == agent.n_grad_updates
    for name, tensor in agent.model.state_dict().items():
        assert torch.equal(tensor, restored.model.state_dict()[name]), name


def test_a_restored_agent_has_its_own_adam_eps():
    agent, rollout = make_agent(adam_eps=1e-5, lr=1e-2)
    update(agent, rollout)
    saved = copy.deepcopy(agent.state_dict())
    restored, _ = make_agent(adam_eps=1e30, lr=1e-2)  # steps of which are nothing
    restored.load_state_dict(saved)
    update(restored, rollout)
    for name, tensor in saved["model"].items():
        assert torch.equal(tensor, restored.model.state_dict()[name]), name


@pytest.mark.parametrize("name, value", [("n_epochs", 0), ("n_minibatches", 0), ("max_grad_norm", 0.0)])
def test_wrong_settings_are_named(name, value):
    with pytest.raises(ValueError, match=f"{name}={value}"):
        PPOConfig(**{name: value})


@pytest.mark.parametrize("core", CORE_OPTIONS)
def test_policies_move_towards_what_pays(core):
    agent, rollout = make_agent(core, lr=3e-3, n_epochs=20)
    rollout.rewards = (rollout.actions == 3).float()
    rollout.values = torch.zeros_like(rollout.values)
    rollout.dones[:] = True
    before = rollout.log_probs[rollout.actions == 3].mean()
    update(agent, rollout)
    _, logits = agent.model.sequence(rollout.obs, rollout.initial_carry, rollout.resets)
    assert log_probs_of(logits, rollout.actions)[rollout.actions == 3].mean() > before + 0.1


@pytest.mark.parametrize("num_minibatches", [1, 2])
def test_a_teacher_with_large_images(num_minibatches):
    env, generator = CountingTeacherEnv(), torch.Generator().manual_seed(0)
    spec = replace(env.observation_spec, image=(10, 9, 1))
    options = {"recurrent_arch": "lstm", "recurrent_hidden_dim": 8, "n_conv_filters": 4}
    model = make_teacher_model("default_teacher_cnn", spec, env.num_actions, options, generator)
    rollout, _ = collect_teacher_rollout(env_with_images(env, spec), 6, model, generator)
    rollout.rewards[-1] = torch.arange(6.0)
    assert model.prepare(rollout.obs, 2).windows is not None
    agent = PPOAgent(model, PPOConfig(n_epochs=1, n_minibatches=num_minibatches, lr=1e-2))
    expected, expected_stats = plain_update(agent, rollout)
    stats = update(agent, rollout)
    if num_minibatches == 1:
        assert stats == pytest.approx(expected_stats, rel=1e-3, abs=1e-5)
        for actual, wanted in zip(agent.model.parameters(), expected, strict=True):
            assert torch.allclose(actual, wanted, atol=2e-4)
    assert agent.n_grad_updates == num_minibatches


def env_with_images(env, spec):
    """The environment with images of another size, in which the first column is built up step by step."""
    observe = env.observe

    def observe_large(state, generator):
        image = torch.zeros(len(state), *spec.image)
        image[:, : int(state.time[0]), 0] = 1.0
        return {**observe(state, generator), "image": image}

    env.observe = observe_large
    return env

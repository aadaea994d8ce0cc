"""UED on a GPU: trains, stops and goes on; CUDA graphs compute what single kernels do."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch

from sample_factory.ued import captured_steps
from sample_factory.ued.curricula.playing import FreshLevels, begin
from sample_factory.ued.envs.maze.env import MazeEnv
from sample_factory.ued.envs.maze.generator import RandomWalls
from sample_factory.ued.models.actor_critic import ActorCritic
from sample_factory.ued.models.cores import GruCore, LstmCore
from sample_factory.ued.models.registration import make_student_model
from sample_factory.ued.ppo.agent import PPOAgent, PPOConfig
from sample_factory.ued.rollouts import Rollout, collect_rollout
from tests.integration.ued.harness import METHODS, rows, train_here
from tests.unit.ued.models.specs import CORE_OPTIONS

pytestmark = pytest.mark.timeout(180)


@pytest.mark.parametrize("method", ["dr", "robust_plr", "accel", "parallel_plr", "paired", "sfl"])
def test_trains_and_goes_on(tmp_path: Path, method: str) -> None:
    train_here(tmp_path, *METHODS[method], "--device=cuda", "--n_total_updates=2")
    train_here(tmp_path, *METHODS[method], "--device=cuda", "--n_total_updates=4", "--from_last_checkpoint")
    assert rows(tmp_path / "run")[-1]["n_updates"] == "4"


def test_what_was_trained_on_a_gpu_goes_on_without_one(tmp_path: Path) -> None:
    train_here(tmp_path, *METHODS["robust_plr"], "--device=cuda", "--n_total_updates=2")
    train_here(tmp_path, *METHODS["robust_plr"], "--device=cpu", "--n_total_updates=3", "--from_last_checkpoint")
    assert rows(tmp_path / "run")[-1]["n_updates"] == "3"


STEPS, ENVS, EPISODE_STEPS = 40, 12, 9


def make_maze() -> MazeEnv:
    return MazeEnv(7, 7, EPISODE_STEPS, RandomWalls(7, 7, 8), device="cuda")


def make_student(core: str, *, is_captured: bool) -> ActorCritic:
    env, generator = make_maze(), torch.Generator().manual_seed(0)
    size = {} if core == "none" else {"recurrent_hidden_dim": 16}
    options = {**CORE_OPTIONS[core], **size, "hidden_dim": 8, "n_conv_filters": 4, "value_ensemble_size": 2}
    model = make_student_model("default_student_cnn", env.observation_spec, env.num_actions, options, generator).cuda()
    model.cuda_graphs = "auto" if is_captured else "never"
    with torch.no_grad():
        model.policy.output.weight.mul_(30)  # a policy that is not uniform
    return model


def play(env: MazeEnv, model: ActorCritic, seed: int) -> Rollout:
    """On the same levels, whatever the model."""
    generator = torch.Generator("cuda").manual_seed(seed)
    state, restart = begin(env, env.sample_levels(ENVS, generator), generator)
    return collect_rollout(env, state, model, STEPS, restart, generator, bootstrap_time_limits=True)


@pytest.mark.parametrize("core", CORE_OPTIONS)
def test_recorded_rollouts_are_those_of_single_kernels(core: str) -> None:
    env = make_maze()
    models = [make_student(core, is_captured=is_captured) for is_captured in (False, True)]
    for seed in range(3):
        expected, rollout = (play(env, model, seed) for model in models)
        assert expected.dones.any()
        for name in ("actions", "rewards", "dones", "truncated", "log_probs", "values", "final_values", "last_values"):
            torch.testing.assert_close(getattr(rollout, name), getattr(expected, name), rtol=1e-4, atol=1e-4)
        for part, expected_part in zip(rollout.final_carry, expected.final_carry, strict=True):
            torch.testing.assert_close(part, expected_part, rtol=1e-4, atol=1e-4)
        for name, x in expected.obs.items():
            assert torch.equal(rollout.obs[name], x)
    assert [len(captured_steps._stretches.get(model, {})) for model in models] == [0, 1]


def test_recorded_rollouts_begin_episodes_on_fresh_levels() -> None:
    env, generator = make_maze(), torch.Generator("cuda").manual_seed(0)
    model = make_student("lstm", is_captured=True)
    state = env.reset(env.sample_levels(ENVS, generator))
    rollout = collect_rollout(env, state, model, STEPS, FreshLevels(env, ENVS, generator), generator)
    assert len(captured_steps._stretches[model]) == 1
    assert rollout.dones.sum() >= ENVS * (STEPS // EPISODE_STEPS)
    levels = env.levels_of(state)
    assert len(torch.unique(levels.wall_map.flatten(1).int(), dim=0)) == ENVS


@pytest.mark.parametrize("core", ["lstm", "gru"])
def test_sequences_are_those_of_single_steps(core: str) -> None:
    torch.manual_seed(0)
    layer = {"lstm": LstmCore, "gru": GruCore}[core](5, 6).cuda()
    x = torch.randn(STEPS, ENVS, 5, device="cuda", requires_grad=True)
    carry = tuple(torch.randn_like(part) for part in layer.initial_carry(ENVS))
    resets = torch.rand(STEPS, ENVS, device="cuda") < 0.2
    weights = torch.randn(STEPS, ENVS, 6, device="cuda")
    inputs = [x, *layer.parameters()]

    states = layer.sequence(torch.nn.functional.linear(x, *layer.input_layer).flatten(0, 1), None, carry, resets)
    expected = layer.sequence_by_steps(x, carry, resets)

    torch.testing.assert_close(states, expected, rtol=1e-4, atol=1e-5)
    gradients = torch.autograd.grad((states * weights).sum(), inputs)
    expected_gradients = torch.autograd.grad((expected * weights).sum(), inputs)
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("num_minibatches", [1, 3])
@pytest.mark.parametrize("core", CORE_OPTIONS)
def test_recorded_updates_are_those_of_single_kernels(core: str, num_minibatches: int) -> None:
    env = make_maze()
    config = PPOConfig(n_epochs=3, n_minibatches=num_minibatches, lr=1e-3, lr_final=1e-4, lr_anneal_steps=20)
    agents = [PPOAgent(make_student(core, is_captured=is_captured), config) for is_captured in (False, True)]
    for seed in range(3):
        rollout = play(env, agents[0].model, seed)
        reports = [
            agent.update(rollout, *agent.advantages(rollout), torch.Generator("cuda").manual_seed(seed))
            for agent in agents
        ]
        for name, value in reports[0].items():
            assert math.isclose(reports[1][name], value, rel_tol=2e-2, abs_tol=1e-3), name
    assert [agent._captured.is_recorded for agent in agents] == [False, True]
    expected = agents[0].model.state_dict()
    for name, x in agents[1].model.state_dict().items():
        torch.testing.assert_close(x, expected[name], rtol=2e-2, atol=1e-3, msg=lambda m, n=name: f"{n}: {m}")


def test_recorded_updates_go_on_after_a_checkpoint_was_loaded() -> None:
    env, config = make_maze(), PPOConfig(n_epochs=4, lr=1e-3)
    agent, other = (PPOAgent(make_student("lstm", is_captured=True), config) for _ in range(2))
    rollout = play(env, agent.model, 0)

    def update(learner: PPOAgent) -> dict[str, float]:
        return learner.update(rollout, *learner.advantages(rollout), torch.Generator("cuda").manual_seed(0))

    for learner in (agent, other):
        update(learner)
    update(agent)
    other.load_state_dict(copy.deepcopy(agent.state_dict()))
    assert update(other) == pytest.approx(update(agent), rel=1e-3, abs=1e-5)

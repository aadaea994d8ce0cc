"""An environment whose every number can be predicted: it counts steps, and ends when a level's length is reached."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from sample_factory.ued.envs.interfaces import ObservationSpec, StepOutcome
from sample_factory.ued.envs.tensor_struct import TensorStruct
from sample_factory.ued.models.actor_critic import ActorCritic
from sample_factory.ued.models.registration import make_student_model
from tests.unit.ued.models.specs import CORE_OPTIONS

TIME_LIMIT = 6


@dataclass(frozen=True)
class CountingLevels(TensorStruct):
    length: Tensor  # [B] int64: steps until the goal; never reached if above the time limit


@dataclass(frozen=True)
class CountingState(TensorStruct):
    length: Tensor
    time: Tensor  # [B] int64
    seen: Tensor  # [B] int64: sum of the actions of the episode


class CountingEnv:
    """The image shows level and time, the reward is that of the last action plus 100 times the level's length."""

    num_actions = 3
    max_episode_steps = TIME_LIMIT
    observation_spec = ObservationSpec(image=(3, 3, 1), scalars={"time": TIME_LIMIT + 1}, vectors={})

    def sample_levels(self, num_levels: int, generator: Generator) -> CountingLevels:
        return CountingLevels(torch.randint(1, 9, [num_levels], generator=generator))

    def reset(self, levels: CountingLevels, generator: Generator) -> CountingState:
        zeros = torch.zeros_like(levels.length)
        return CountingState(levels.length.clone(), zeros, zeros.clone())

    def step(self, state: CountingState, actions: Tensor, generator: Generator) -> StepOutcome:
        state.time.add_(1)
        state.seen.add_(actions)
        at_goal, at_limit = state.time >= state.length, state.time >= TIME_LIMIT
        return StepOutcome(actions + 100.0 * state.length, at_goal | at_limit, at_limit & ~at_goal)

    def observe(self, state: CountingState) -> dict[str, Tensor]:
        image = torch.zeros(len(state), 3, 3, 1)
        image[:, 0, 0, 0] = state.length
        image[:, 1, 1, 0] = state.time
        return {"image": image, "time": state.time.clone()}

    def levels_of(self, state: CountingState) -> CountingLevels:
        return CountingLevels(state.length.clone())

    def level_metrics(self, levels: CountingLevels) -> dict[str, Tensor]:
        return {"passable": levels.length <= TIME_LIMIT}

    def solved(self, episode_return: Tensor) -> Tensor:
        return episode_return > 0


def counting_student(core: str) -> ActorCritic:
    """A small network for it, whose policy is not uniform."""
    size = {} if core == "none" else {"recurrent_hidden_dim": 8}
    options = {**CORE_OPTIONS[core], **size, "n_scalar_embeddings": 7, "value_ensemble_size": 2}
    env, generator = CountingEnv(), torch.Generator().manual_seed(0)
    model = make_student_model("default_student_cnn", env.observation_spec, env.num_actions, options, generator)
    with torch.no_grad():
        model.policy.output.weight.mul_(30)
    return model


class CountingTeacherEnv:
    """Builds levels whose length is the first action."""

    num_actions = 5
    episode_length = 4
    observation_spec = ObservationSpec(image=(3, 3, 1), scalars={"time": 4}, vectors={"noise": 2})

    def reset(self, num_levels: int, generator: Generator) -> CountingState:
        zeros = torch.zeros(num_levels, dtype=torch.int64)
        return CountingState(zeros, zeros.clone(), zeros.clone())

    def step(self, state: CountingState, actions: Tensor, generator: Generator) -> None:
        state.length.copy_(torch.where(state.time == 0, actions, state.length))
        state.time.add_(1)

    def observe(self, state: CountingState, generator: Generator) -> dict[str, Tensor]:
        return {
            "image": torch.zeros(len(state), 3, 3, 1),
            "time": state.time.clone(),
            "noise": torch.rand(len(state), 2, generator=generator),
        }

    def decode(self, state: CountingState) -> CountingLevels:
        return CountingLevels(state.length.clone())

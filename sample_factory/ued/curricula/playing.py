"""Students play levels: rollouts to learn from, and whole episodes to judge from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic

import torch
from torch import Generator, Tensor

from sample_factory.ued.curricula.prioritisation import Ints
from sample_factory.ued.curricula.scores import ScoredRollout
from sample_factory.ued.envs.interfaces import Levels, State, UedEnv
from sample_factory.ued.models.actor_critic import ActorCritic
from sample_factory.ued.rollouts import Rollout
from sample_factory.ued.steps import Starts, gumbel_noise

_STEPS_BETWEEN_CHECKS = 32
_WORTH_COMPACTING = 0.75  # share of rows still of interest below which the others are dropped


class SameStarts(Starts[State]):
    """Every episode begins like the first one of its environment."""

    is_per_env = True

    def __init__(self, starts: State) -> None:
        self._starts = starts

    def __call__(self, done: Tensor, state: State) -> State:
        return self._starts[done]

    def take(self, count: int) -> State:
        return self._starts


def begin(
    env: UedEnv[Levels, State], levels: Levels, generator: Generator
) -> tuple[State, Callable[[Tensor, State], State]]:
    """Start states of the levels, and what lets finished episodes begin again on the level of their environment.

    Where starting needs no random numbers, start states are copied: a handful of levels costs as much to start as all.
    """
    before = generator.get_state()
    starts = env.reset(levels, generator)
    is_random = not torch.equal(before, generator.get_state())

    def start_again(done: Tensor, state: State) -> State:
        return env.reset(levels[done], generator)

    return (starts, start_again) if is_random else (starts.clone(), SameStarts(starts))


class FreshLevels(Starts[State], Generic[Levels, State]):
    """Episodes begin on new random levels, which are drawn ``chunk`` at a time: drawing one costs as much as many."""

    is_per_env = False

    def __init__(self, env: UedEnv[Levels, State], chunk: int, generator: Generator) -> None:
        self._env, self._chunk, self._generator = env, chunk, generator
        self._starts: State | None = None
        self._used = 0

    def __call__(self, done: Tensor, state: State) -> State:
        return self.take(len(done))

    def take(self, count: int) -> State:
        if self._starts is None or self._used + count > len(self._starts):
            levels = self._env.sample_levels(max(self._chunk, count), self._generator)
            self._starts, self._used = self._env.reset(levels, self._generator), 0
        first = self._used
        self._used += count
        return self._starts[first : self._used]


def to_score(rollout: Rollout, advantages: Tensor, copies: int, first: Ints | None = None) -> ScoredRollout:
    """What scores look at, for levels whose ``copies`` lie side by side.

    ``first``: int64 [N], position of the first level that is equal to each of the N: equal levels form one group.
    None: every level is a group of its own.
    """
    num_levels = rollout.num_envs // copies
    group = torch.arange(num_levels) if first is None else torch.from_numpy(first)
    return ScoredRollout(
        rewards=rollout.rewards,
        dones=rollout.dones,
        values=rollout.values,
        advantages=advantages,
        group=group.to(rollout.rewards.device).repeat_interleave(copies),
        num_groups=num_levels,
    )


@dataclass(frozen=True)
class EpisodeTally:
    """Per level, of the episodes that count: ``total_return`` float64 [N], ``num_solved`` and ``num_episodes`` int64
    [N]. ``env_steps``: how many steps all environments made together.
    """

    total_return: Tensor
    num_solved: Tensor
    num_episodes: Tensor
    env_steps: int

    @property
    def solved_rate(self) -> Tensor:
        """float64 [N], 0 without an episode."""
        return self.num_solved / self.num_episodes.clamp(min=1).double()

    @property
    def mean_return(self) -> Tensor:
        """float64 [N], 0 without an episode."""
        return self.total_return / self.num_episodes.clamp(min=1)


@torch.no_grad()
def play_episodes(
    env: UedEnv[Levels, State],
    levels: Levels,
    model: ActorCritic,
    *,
    num_episodes: int,
    max_steps: int,
    generator: Generator,
) -> EpisodeTally:
    """Play every level over and over, with sampled actions, for at most ``max_steps`` steps.

    Only its first ``num_episodes`` finished episodes count. Levels that have them are dropped on the way: batches get
    smaller, results do not change.
    """
    state, restart = begin(env, levels, generator)
    count = len(levels)
    carry = model.initial_carry(count)
    noise = gumbel_noise([min(_STEPS_BETWEEN_CHECKS, max_steps), count, model.num_actions], generator)
    device = noise.device
    rows = torch.arange(count, device=device)
    reset = torch.zeros(count, dtype=torch.bool, device=device)
    running = torch.zeros(count, dtype=torch.float64, device=device)
    total_return = torch.zeros(count, dtype=torch.float64, device=device)
    num_solved = torch.zeros(count, dtype=torch.int64, device=device)
    episodes = torch.zeros(count, dtype=torch.int64, device=device)
    steps_done, env_steps = 0, 0
    while True:
        for step_noise in noise:
            _, logits, carry = model.step(env.observe(state), carry, reset)
            outcome = env.step(state, (logits + step_noise).argmax(-1), generator)
            running += outcome.reward
            reset = outcome.done
            done = reset.nonzero().squeeze(1)
            if len(done):
                counted = done[episodes[rows[done]] < num_episodes]
                ended = rows[counted]
                total_return[ended] += running[counted]
                num_solved[ended] += env.solved(running[counted]).long()
                episodes[ended] += 1
                running[done] = 0.0
                state.put(done, restart(rows[done], state))
        steps_done += len(noise)
        env_steps += len(noise) * len(rows)
        wanted = (episodes[rows] < num_episodes).nonzero().squeeze(1)
        if steps_done >= max_steps or not len(wanted):
            return EpisodeTally(total_return, num_solved, episodes, env_steps)
        if len(wanted) <= _WORTH_COMPACTING * len(rows):
            rows, reset, running, state = rows[wanted], reset[wanted], running[wanted], state[wanted]
            carry = tuple(part[wanted] for part in carry)
        length = min(_STEPS_BETWEEN_CHECKS, max_steps - steps_done)
        noise = gumbel_noise([length, len(rows), model.num_actions], generator)

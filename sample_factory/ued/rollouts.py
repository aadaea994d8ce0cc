"""Collecting experience: a batch of environments is stepped by one agent, without gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from sample_factory.ued.captured_steps import captured_steps, may_capture
from sample_factory.ued.envs.interfaces import Observations, StepOutcome, TeacherEnv, UedEnv
from sample_factory.ued.models.acting import Actor
from sample_factory.ued.models.actor_critic import ActorCritic
from sample_factory.ued.models.cores import Carry
from sample_factory.ued.rollout_threads import rollout_threads
from sample_factory.ued.steps import Starts, Steps, gumbel_noise, in_step, joined, write_samples

Restart = Callable[[Tensor, Any], Any]
"""Start states of the environments whose episode ended, given their indices (int64 ``[n]``) and all states."""


@dataclass
class Rollout:
    """T steps of B environments, time-major; K value functions.

    ``dones`` and ``truncated`` (bool) are after the step. ``initial_carry`` is the carry before the first step,
    ``final_carry`` the one after the last (not reset, even if the last step ended an episode). ``last_values`` ``[B,
    K]``: of the observation after the last step; zeros if all episodes ended there. ``final_values``: of the true last
    observation of truncated episodes, zero elsewhere; ``None`` if nobody asked for them.
    """

    obs: Observations  # [T, B, ...]
    actions: Tensor  # [T, B] int64
    rewards: Tensor  # [T, B]
    dones: Tensor  # [T, B]
    truncated: Tensor  # [T, B]
    log_probs: Tensor  # [T, B]
    values: Tensor  # [T, B, K]
    initial_carry: Carry
    final_carry: Carry
    last_values: Tensor  # [B, K]
    start_levels: Any | None = None
    final_values: Tensor | None = None  # [T, B, K]

    @property
    def num_steps(self) -> int:
        return self.rewards.shape[0]

    @property
    def num_envs(self) -> int:
        return self.rewards.shape[1]

    @property
    def resets(self) -> Tensor:
        """Before which steps the carry is reset, bool ``[T, B]``: the steps after the end of an episode. Not before
        the first one, whose carry is ``initial_carry`` as it is.
        """
        return torch.cat([torch.zeros_like(self.dones[:1]), self.dones[:-1]])

    def select_envs(self, idx: Any) -> Rollout:
        """The part of some environments: ``idx`` is a slice or int64 ``[n]``."""
        return Rollout(
            obs={name: tensor[:, idx] for name, tensor in self.obs.items()},
            actions=self.actions[:, idx],
            rewards=self.rewards[:, idx],
            dones=self.dones[:, idx],
            truncated=self.truncated[:, idx],
            log_probs=self.log_probs[:, idx],
            values=self.values[:, idx],
            initial_carry=tuple(part[idx] for part in self.initial_carry),
            final_carry=tuple(part[idx] for part in self.final_carry),
            last_values=self.last_values[idx],
            start_levels=None if self.start_levels is None else self.start_levels[idx],
            final_values=None if self.final_values is None else self.final_values[:, idx],
        )


def _any(flags: Tensor) -> bool:
    return bool(flags.numpy().any()) if flags.device.type == "cpu" else bool(flags.any())


@torch.no_grad()
def collect_rollout(
    env: UedEnv,
    state: Any,
    model: ActorCritic,
    num_steps: int,
    restart: Restart,
    generator: Generator,
    *,
    bootstrap_time_limits: bool = False,
    initial_carry: Carry | None = None,
) -> Rollout:
    """``num_steps`` steps from the start states ``state``, which is advanced in place.

    :param restart: gives the start states of episodes that begin during the rollout
    :param generator: of actions and of the environment
    :param bootstrap_time_limits: compute ``final_values``
    :param initial_carry: carry before the first step; zeros by default
    """
    num_envs = len(state)
    first_carry = model.initial_carry(num_envs) if initial_carry is None else initial_carry
    levels = env.levels_of(state)
    noise = gumbel_noise([num_steps, num_envs, model.num_actions], generator).to(model.device)
    rest = first_carry, generator, bootstrap_time_limits
    steps = None
    if isinstance(restart, Starts) and may_capture(env, model):
        steps = captured_steps(env, state, model, noise, restart, *rest)
    if steps is None:
        steps = _single_steps(env, state, model, noise, restart, *rest)
    last_values = steps.next_values(env.observe(state))
    return Rollout(
        obs=steps.obs,
        actions=steps.actions,
        rewards=steps.rewards,
        dones=steps.dones,
        truncated=steps.truncated,
        log_probs=log_probs_of(steps.logits, steps.actions),
        values=model.head_values(steps.outputs),
        initial_carry=first_carry,
        final_carry=steps.carry,
        last_values=last_values,
        start_levels=levels,
        final_values=steps.final_values,
    )


def _single_steps(
    env: UedEnv,
    state: Any,
    model: ActorCritic,
    noise: Tensor,
    restart: Restart,
    carry: Carry,
    generator: Generator,
    with_final_values: bool,
) -> Steps:
    """One step after the other, from ``state`` on, which is advanced in place; ``noise`` ``[T, B, A]``."""
    num_steps, num_envs = noise.shape[:2]
    actor = Actor(model, num_steps, num_envs, carry)
    observations: list[Observations] = []
    actions = torch.empty([num_steps, num_envs], dtype=torch.int64, device=noise.device)
    outcomes: list[StepOutcome] = []
    final_values = noise.new_zeros(num_steps, num_envs, model.value_ensemble_size) if with_final_values else None
    with rollout_threads("student", noise.device) as step_done:
        for t, (noise_now, actions_now) in enumerate(in_step(noise, actions)):
            obs = env.observe(state)
            observations.append(obs)
            write_samples(actor.act(obs), noise_now, actions_now)
            outcome = env.step(state, actions_now, generator)
            outcomes.append(outcome)
            if final_values is not None:
                _add_final_values(final_values[t], env, state, model, actor, outcome.truncated)
            if _any(outcome.done):
                done_idx = outcome.done.nonzero().squeeze(1)
                state.put(done_idx, restart(done_idx, state))
                if t + 1 < num_steps:
                    actor.reset(done_idx)
            step_done()
    rewards, dones, truncated = (
        torch.stack([getattr(outcome, name) for outcome in outcomes]) for name in ("reward", "done", "truncated")
    )
    return Steps(
        obs=joined(observations),
        actions=actions,
        rewards=rewards,
        dones=dones,
        truncated=truncated,
        outputs=actor.outputs,
        logits=actor.logits,
        carry=actor.carry,
        next_values=actor.next_values,
        final_values=final_values,
    )


def _add_final_values(
    target: Tensor, env: UedEnv, state: Any, model: ActorCritic, actor: Actor, truncated: Tensor
) -> None:
    """Write the values of the current observations of truncated environments into their rows of ``target`` [B, K]."""
    idx = truncated.nonzero().squeeze(1)
    if len(idx) == 0:
        return
    obs = {name: x[idx] for name, x in env.observe(state).items()}
    no_reset = torch.zeros(len(idx), dtype=torch.bool, device=idx.device)
    target[idx] = model.step(obs, tuple(part[idx] for part in actor.carry), no_reset)[0]


def log_probs_of(logits: Tensor, actions: Tensor) -> Tensor:
    """Log-probabilities ``[...]`` of ``actions`` ``[...]`` under categorical ``logits`` ``[..., A]``."""
    # torch normalises short rows slowly
    return logits.gather(-1, actions.unsqueeze(-1)).squeeze(-1) - logits.logsumexp(-1)


@torch.no_grad()
def collect_teacher_rollout(
    env: TeacherEnv,
    num_levels: int,
    model: ActorCritic,
    generator: Generator,
    *,
    initial_carry: Carry | None = None,
) -> tuple[Rollout, Any]:
    """One whole episode of ``num_levels`` teachers, and the levels they built.

    Rewards are zero: the students' score belongs into ``rewards[-1]``. The last step ends all episodes.
    """
    num_steps = env.episode_length
    state = env.reset(num_levels, generator)
    first_carry = model.initial_carry(num_levels) if initial_carry is None else initial_carry
    actor = Actor(model, num_steps, num_levels, first_carry)
    noise = gumbel_noise([num_steps, num_levels, model.num_actions], generator).to(model.device)
    observations: list[Observations] = []
    actions = torch.empty([num_steps, num_levels], dtype=torch.int64, device=noise.device)
    with rollout_threads("teacher", noise.device) as step_done:
        for noise_now, actions_now in in_step(noise, actions):
            obs = env.observe(state, generator)
            observations.append(obs)
            write_samples(actor.act(obs), noise_now, actions_now)
            env.step(state, actions_now, generator)
            step_done()
    values, logits = model.head_values(actor.outputs), actor.logits
    dones = torch.zeros(num_steps, num_levels, dtype=torch.bool, device=noise.device)
    dones[-1] = True
    rollout = Rollout(
        obs=joined(observations),
        actions=actions,
        rewards=torch.zeros_like(dones, dtype=torch.float32),
        dones=dones,
        truncated=torch.zeros_like(dones),
        log_probs=log_probs_of(logits, actions),
        values=values,
        initial_carry=first_carry,
        final_carry=actor.carry,
        last_values=torch.zeros_like(values[-1]),
    )
    return rollout, env.decode(state)

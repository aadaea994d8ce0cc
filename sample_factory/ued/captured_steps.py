"""Rollouts on a GPU: a stretch of some dozen steps is recorded as one CUDA graph and launched again and again.

A step is some fifty kernels of two microseconds each, and launching one takes longer than that. The recording works on
memory of its own, ``_Memory``: states and carries are copied there before a rollout, noise before every stretch, and
what the steps record is copied from there after it. Episodes that end begin again without the host: the start states
lie ready, and whoever needs one takes it. Between stretches the host replaces those that were taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Generator, Tensor

from sample_factory.algo.utils.cuda_graphs import Recording
from sample_factory.model.capturable import NEVER
from sample_factory.ued.envs.interfaces import Observations, StepOutcome, UedEnv
from sample_factory.ued.models.acting import Actor
from sample_factory.ued.models.actor_critic import ActorCritic
from sample_factory.ued.models.cores import Carry
from sample_factory.ued.steps import Starts, Steps, in_step, joined, write_samples
from sample_factory.utils.logging import log

_NUM_REHEARSALS = 2
_LONGEST_STRETCH = 64  # steps
_MOST_STARTS = 2**15  # that lie ready
_MAX_RECORDINGS = 4  # per network


def may_capture(env: UedEnv[Any, Any], model: ActorCritic) -> bool:
    """Whether rollouts can be recorded: environments say so themselves, see :class:`CapturableEnv`."""
    return model.is_capturable and bool(getattr(env, "is_capturable", False))


def stretch_length(num_steps: int, num_envs: int) -> int:
    """Steps per recording: the largest divisor of ``num_steps`` that is not too large.

    >>> stretch_length(256, 32), stretch_length(256, 4096), stretch_length(250, 32), stretch_length(7, 10**6)
    (64, 8, 50, 1)
    """
    most = max(1, min(_LONGEST_STRETCH, _MOST_STARTS // num_envs))
    return next(length for length in range(min(most, num_steps), 0, -1) if num_steps % length == 0)


class _Memory:
    """What a recording of ``num_steps`` steps reads and writes.

    ``starts``: start states that lie ready, ``used`` (int64 scalar) of them taken. ``resets``: where the carry is set
    to zero before the next step, bool ``[B]``.
    """

    def __init__(self, state: Any, starts: Any, is_per_env: bool, carry: Carry, noise: Tensor) -> None:
        self.state, self.starts, self.is_per_env = state.clone(), starts.clone(), is_per_env
        self.carry = tuple(part.clone() for part in carry)
        self.noise = noise.clone()  # [C, B, A]
        self.used = torch.zeros((), dtype=torch.int64, device=noise.device)
        self.resets = torch.zeros(len(state), dtype=torch.bool, device=noise.device)

    def begin_rollout(self, state: Any, starts: Any, carry: Carry) -> None:
        self.state.put(slice(None), state)
        self.starts.put(slice(None), starts)
        for target, source in zip(self.carry, carry, strict=True):
            target.copy_(source)
        self.used.zero_()
        self.resets.zero_()

    def begin_episodes(self, done: Tensor) -> None:
        """New episodes where ``done``, bool ``[B]``; the host takes no part in it."""
        starts = self.starts
        if not self.is_per_env:
            order = done.cumsum(0)
            starts = starts[(order + (self.used - 1)).clamp_(min=0)]
            self.used.add_(order[-1])
        for name, target in self.state.as_dict().items():
            mask = done.view(-1, *[1] * (target.ndim - 1))
            target.copy_(torch.where(mask, getattr(starts, name), target))

    def replace_used(self, supply: Starts[Any]) -> None:
        """Put new start states in the place of those that were taken; waits for the device."""
        used, size = int(self.used), len(self.starts)
        if used == 0:
            return
        self.starts.put(slice(0, size - used), self.starts[used:].clone())
        self.starts.put(slice(size - used, size), supply.take(used))
        self.used.zero_()


Recorded = tuple[Observations, dict[str, Tensor]]
"""Observations of a stretch, and the other things its steps record, named as in :class:`Steps`."""


def _take_steps(
    env: UedEnv[Any, Any], model: ActorCritic, memory: _Memory, generator: Generator, with_final_values: bool
) -> Recorded:
    """The work of a recording: all steps of a stretch. It does the same whatever is in the memory."""
    num_steps, num_envs = memory.noise.shape[:2]
    actor = Actor(model, num_steps, num_envs, memory.carry)
    actions = torch.empty([num_steps, num_envs], dtype=torch.int64, device=memory.noise.device)
    no_resets = torch.zeros_like(memory.resets)
    resets, observations, final_values = memory.resets, [], []
    outcomes: list[StepOutcome] = []
    for noise_now, actions_now in in_step(memory.noise, actions):
        actor.reset(resets)
        obs = env.observe(memory.state)
        observations.append(obs)
        write_samples(actor.act(obs), noise_now, actions_now)
        outcome = env.step(memory.state, actions_now, generator)
        outcomes.append(outcome)
        if with_final_values:
            values = model.step(env.observe(memory.state), actor.carry, no_resets)[0]
            final_values.append(values.masked_fill(~outcome.truncated.unsqueeze(1), 0.0))
        memory.begin_episodes(outcome.done)
        resets = outcome.done
    memory.resets.copy_(resets)
    for target, source in zip(memory.carry, actor.carry, strict=True):
        target.copy_(source)
    others = {
        "actions": actions,
        "rewards": torch.stack([outcome.reward for outcome in outcomes]),
        "dones": torch.stack([outcome.done for outcome in outcomes]),
        "truncated": torch.stack([outcome.truncated for outcome in outcomes]),
        "outputs": actor.outputs,
        "logits": actor.logits,
    }
    if with_final_values:
        others["final_values"] = torch.stack(final_values)
    return joined(observations), others


@dataclass
class _Stretch:
    """A recording, its memory, the environment it belongs to, and where the weights were when it was made."""

    memory: _Memory
    recording: Recording[Recorded]
    env: UedEnv[Any, Any]
    addresses: list[int]


_stretches: WeakKeyDictionary[ActorCritic, dict[Any, _Stretch]] = WeakKeyDictionary()


def captured_steps(
    env: UedEnv[Any, Any],
    state: Any,
    model: ActorCritic,
    noise: Tensor,
    starts: Starts[Any],
    carry: Carry,
    generator: Generator,
    with_final_values: bool,
) -> Steps | None:
    """Steps from ``state`` on, which is advanced in place, for noise ``[T, B, A]``.

    ``None``: they cannot be recorded, and nothing has changed but that some start states were drawn.
    """
    num_steps, num_envs = noise.shape[:2]
    length = stretch_length(num_steps, num_envs)
    ready = starts.take(num_envs if starts.is_per_env else length * num_envs)
    key = (num_envs, length, starts.is_per_env, with_final_values)
    stretch = _find(env, model, key)
    if stretch is None:
        memory = _Memory(state, ready, starts.is_per_env, carry, noise[:length])
        try:
            recording = Recording(
                lambda: _take_steps(env, model, memory, generator, with_final_values), _NUM_REHEARSALS
            )
        except Exception as exc:
            model.cuda_graphs = NEVER
            log.warning("Rollouts are launched kernel by kernel, a CUDA graph is impossible: %s", exc)
            return None
        stretch = _Stretch(memory, recording, env, _addresses(model))
        _keep(stretch, model, key)
    stretch.memory.begin_rollout(state, ready, carry)
    obs, others = _play(stretch, noise, starts, length)
    state.put(slice(None), stretch.memory.state)
    last_carry = tuple(part.clone() for part in stretch.memory.carry)
    return Steps(
        obs=obs,
        carry=last_carry,
        next_values=Actor(model, 1, num_envs, last_carry).next_values,
        **others,
    )


def _play(stretch: _Stretch, noise: Tensor, starts: Starts[Any], length: int) -> Recorded:
    """What all steps record."""
    memory = stretch.memory
    all_obs: Observations = {}
    all_others: dict[str, Tensor] = {}
    for first in range(0, len(noise), length):
        if first > 0 and not memory.is_per_env:
            memory.replace_used(starts)
        memory.noise.copy_(noise[first : first + length])
        for target, source in zip((all_obs, all_others), stretch.recording.replay(), strict=True):
            for name, x in source.items():
                if first == 0:
                    target[name] = x.new_empty(len(noise), *x.shape[1:])
                target[name][first : first + length].copy_(x)
    return all_obs, all_others


def _find(env: UedEnv[Any, Any], model: ActorCritic, key: Any) -> _Stretch | None:
    """The recording for rollouts of this kind, unless the environment or the weights are others now."""
    stretch = _stretches.get(model, {}).get(key)
    return stretch if stretch is not None and stretch.env is env and stretch.addresses == _addresses(model) else None


def _keep(stretch: _Stretch, model: ActorCritic, key: Any) -> None:
    kept = _stretches.setdefault(model, {})
    kept.pop(key, None)
    if len(kept) >= _MAX_RECORDINGS:
        kept.pop(next(iter(kept)))
    kept[key] = stretch


def _addresses(model: ActorCritic) -> list[int]:
    return [x.data_ptr() for x in (*model.parameters(), *model.buffers())]

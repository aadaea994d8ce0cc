"""What batched and non-batched environment runners have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import numpy as np

from sample_factory.algo.sampling.env_faults import EnvFaults
from sample_factory.algo.utils.env_info import EnvInfo
from sample_factory.algo.utils.life_signs import unobserved
from sample_factory.algo.utils.shared_buffers import Block, BufferMgr, rollout_worker_device
from sample_factory.cfg.configurable import Configurable
from sample_factory.utils.timing import Timing
from sample_factory.utils.typing import Config, PolicyID

__all__ = [
    "FinishedRollouts",
    "VectorEnvRunner",
    "record_episode_statistics_wrapper_stats",
    "rollout_worker_device",
]

_EPISODE_KEY = "episode"


class FinishedRollouts(NamedTuple):
    """Rows of one block that hold experience of one policy; what travels from a rollout worker to a batcher."""

    policy_id: PolicyID
    block_idx: int
    rows: slice | np.ndarray  # rows of the trajectory tensors on the block's device


class VectorEnvRunner(Configurable, ABC):
    """Steps the environments of one split and writes what happened into its current trajectory block.

    One cycle: :meth:`update_trajectory_buffers` until it has a block, :meth:`generate_policy_request`, wait until every
    requested policy has answered, :meth:`advance_rollouts`. Never blocks on anything but the environments themselves.
    """

    faults: EnvFaults

    def __init__(
        self,
        cfg: Config,
        env_info: EnvInfo,
        worker_idx: int,
        split_idx: int,
        buffer_mgr: BufferMgr,
        sampling_device: str,
        life_signs: memoryview | None = None,
        num_restarts: int = 0,
    ):
        super().__init__(cfg)
        self._life_signs = unobserved() if life_signs is None else life_signs
        self._num_restarts = num_restarts
        self.env_info = env_info
        self.worker_idx, self.split_idx = worker_idx, split_idx
        self.buffer_mgr = buffer_mgr
        self.channel = buffer_mgr.channel
        self.sampling_device = sampling_device

        self.rollout_step = 0
        self._blocks = buffer_mgr.blocks_of(worker_idx, split_idx)
        self._views = [buffer_mgr.block_view(block) for block in self._blocks]
        self._next_block = 0
        self._block: Block | None = None
        self._data: dict[str, Any] = {}

    def num_free_blocks(self) -> int:
        """How many blocks no batcher needs, the one that is being filled among them."""
        return sum(self.channel.is_free(block.idx) for block in self._blocks)

    @abstractmethod
    def init(self, timing: Timing) -> None:
        """Create and reset the environments, take the first block."""

    @abstractmethod
    def generate_policy_request(self) -> list[PolicyID]:
        """Ask for actions for the current step; returns the policies asked (none if no agent is active)."""

    @abstractmethod
    def advance_rollouts(self, timing: Timing) -> tuple[list[FinishedRollouts], list[dict[str, Any]]]:
        """All policies answered: act, record, and return finished rollouts and episode reports."""

    @abstractmethod
    def close(self) -> None:
        """Close the environments."""

    @abstractmethod
    def _start_block(self, previous: dict[str, Any]) -> None:
        """Carry observations and recurrent states over into step 0 of the new block."""

    def update_trajectory_buffers(self) -> bool:
        """Whether there is a block to write into; takes the next one if it was given back by all batchers."""
        if self._block is not None:
            return True
        block = self._blocks[self._next_block]
        if not self.channel.is_free(block.idx):
            return False
        previous, self._data = self._data, self._views[self._next_block]
        self._block = block
        self._next_block = (self._next_block + 1) % len(self._blocks)
        self._start_block(previous)
        return True

    def _hand_over_block(self, finished: list[FinishedRollouts]) -> list[FinishedRollouts]:
        """Mark the block as held by the batchers that get rows of it, and forget it."""
        assert self._block is not None
        for rollouts in finished:
            self.channel.hold_block(rollouts.policy_id, self._block.idx)
        self._block = None
        self.rollout_step = 0
        return finished


def record_episode_statistics_wrapper_stats(info: dict[str, Any]) -> tuple[float, float] | None:
    """``(return, length)`` recorded by gymnasium's RecordEpisodeStatistics, if this info has them.

    Gymnasium 0.29 stores one-element arrays, 1.x plain numbers.
    """
    episode = info.get(_EPISODE_KEY)
    if not isinstance(episode, dict) or "r" not in episode or "l" not in episode:
        return None
    reward, length = (float(np.asarray(episode[key]).reshape(-1)[0]) for key in ("r", "l"))
    return reward, length

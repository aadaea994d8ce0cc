"""Trajectory memory shared by rollout workers, inference workers and batchers.

The only declaration of what a trajectory contains is :func:`trajectory_layout`. Rows are handed out in *blocks*:
slices with one row per agent of a split, owned by that split for the whole run. A split fills one block while
batchers copy from the others, so no pool, queue or lock is needed, and the rows of a dead worker are known.

Every tensor is indexed ``[row, step]`` and stored step after step: what is read and written while sampling, the rows
of a block at one step, is contiguous memory. Batchers, who want whole rows, transpose while they copy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from sample_factory.algo.utils.action_distributions import calc_num_action_parameters, calc_num_actions
from sample_factory.algo.utils.env_info import EnvInfo
from sample_factory.algo.utils.level_tables import CUT_OFF, LevelTables
from sample_factory.algo.utils.life_signs import LifeSigns
from sample_factory.algo.utils.misc import MAGIC_FLOAT, MAGIC_INT
from sample_factory.algo.utils.multiprocessing_utils import get_mp_ctx
from sample_factory.algo.utils.policy_channel import PolicyChannel
from sample_factory.algo.utils.rl_utils import trajectories_per_training_iteration
from sample_factory.algo.utils.tensor_dict import TensorDict
from sample_factory.algo.utils.topology import sampling_topology
from sample_factory.algo.utils.torch_utils import to_torch_dtype
from sample_factory.cfg.configurable import Configurable
from sample_factory.cfg.shadowing import flag_value
from sample_factory.utils.gpu_utils import gpus_for_process
from sample_factory.utils.typing import Config, Device, PolicyID

_CACHE_LINE_BYTES = 64


@dataclass(frozen=True)
class TrajectoryField:
    """One tensor of a trajectory. ``extra_step``: it also has a value for the step after the last one."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    extra_step: bool = False
    fill: float | None = None  # None: poison


def trajectory_layout(env_info: EnvInfo, rnn_size: int) -> list[TrajectoryField]:
    """Every field besides the observations, in the order they are stored."""
    num_actions, num_params = action_info(env_info)
    f32 = torch.float32
    fields = [
        TrajectoryField("rnn_states", (rnn_size,), f32, extra_step=True),
        TrajectoryField("actions", (num_actions,), f32),
        TrajectoryField("action_logits", (num_params,), f32),
        TrajectoryField("log_prob_actions", (), f32),
        TrajectoryField("values", (), f32, extra_step=True),
        TrajectoryField("policy_version", (), f32),
        TrajectoryField("rewards", (), f32, fill=-42.42),
        TrajectoryField("dones", (), torch.bool, fill=1),
        TrajectoryField("time_outs", (), torch.bool, fill=0),
        TrajectoryField("policy_id", (), torch.int32, fill=-1),
        TrajectoryField("valids", (), torch.bool, extra_step=True, fill=0),
    ]
    if env_info.level_spec is not None:
        fields.append(TrajectoryField("level_id", (), torch.int64, fill=CUT_OFF))
    return fields


def policy_device(cfg: Config, policy_id: PolicyID) -> torch.device:
    """Where the model of a policy lives: the CPU, or the GPUs dealt out to policies in turn."""
    if cfg.device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    gpus = gpus_for_process(policy_id, 1)
    return torch.device("cuda", index=gpus[0]) if gpus else torch.device("cpu")


def rollout_worker_device(worker_idx: int, cfg: Config, env_info: EnvInfo) -> torch.device:
    """Where the trajectories of a rollout worker live."""
    if not cfg.actor_worker_gpus or not env_info.gpu_observations or not torch.cuda.is_available():
        return torch.device("cpu")
    gpus = gpus_for_process(worker_idx, num_gpus_per_process=1, gpu_mask=cfg.actor_worker_gpus)
    return torch.device("cuda", index=gpus[0]) if gpus else torch.device("cpu")


def init_tensor(
    leading_dimensions: Sequence[int],
    tensor_type: torch.dtype | np.dtype | type,
    tensor_shape: Sequence[int],
    device: torch.device | str,
    share: bool,
) -> Tensor:
    """Poisoned tensor ``[*leading_dimensions, *tensor_shape]`` (zero-sized dims dropped), in shared memory if asked."""
    dtype = tensor_type if isinstance(tensor_type, torch.dtype) else to_torch_dtype(tensor_type)
    shape = [*leading_dimensions, *(d for d in tensor_shape if d)]
    if dtype.is_floating_point:
        fill: float = MAGIC_FLOAT
    elif dtype == torch.bool:
        fill = 0
    else:
        fill = MAGIC_INT
    tensor = torch.empty(shape, dtype=dtype, device=device)
    if share and tensor.device.type == "cpu":
        tensor.share_memory_()
    return tensor.fill_(fill)


def action_info(env_info: EnvInfo) -> tuple[int, int]:
    """``(number of actions, number of distribution parameters)``."""
    return calc_num_actions(env_info.action_space), calc_num_action_parameters(env_info.action_space)


def _padding(dtype: torch.dtype | np.dtype | type, shape: Sequence[int]) -> int:
    """Unused rows that shift every step by a cache line: the steps of a row would otherwise compete for the same lines
    of the cache where the number of rows is a power of two, which makes reading a row four times slower.
    """
    torch_dtype = dtype if isinstance(dtype, torch.dtype) else to_torch_dtype(dtype)
    row_bytes = torch_dtype.itemsize * math.prod(d for d in shape if d)
    return -(-_CACHE_LINE_BYTES // row_bytes) if row_bytes < _CACHE_LINE_BYTES else 0


def alloc_trajectory_tensors(
    env_info: EnvInfo,
    num_traj: int,
    rollout: int,
    rnn_size: int,
    device: torch.device | str,
    share: bool,
    time_major: bool = False,
) -> TensorDict:
    """``num_traj`` rows of ``rollout`` steps: observations ``[N, T+1, ...]`` first, then the fields of the layout.

    ``time_major`` is about memory, not about indices: the tensors are transposed views of ``[T(+1), N, ...]``.
    """
    if not isinstance(env_info.obs_space, spaces.Dict):
        raise ValueError(f"obs_space must be a gymnasium Dict space, got {env_info.obs_space}")

    def alloc(steps: int, dtype: torch.dtype | np.dtype | type, shape: Sequence[int]) -> Tensor:
        if time_major:
            padded = init_tensor([steps, num_traj + _padding(dtype, shape)], dtype, shape, device, share)
            return padded[:, :num_traj].transpose(0, 1)
        return init_tensor([num_traj, steps], dtype, shape, device, share)

    tensors = TensorDict()
    tensors["obs"] = TensorDict()
    for key, space in env_info.obs_space.spaces.items():
        if space.shape is None or space.dtype is None:
            raise ValueError(f"observation {key!r}: {space} has no fixed shape; use Box or Discrete components")
        tensors["obs"][key] = alloc(rollout + 1, space.dtype, space.shape)
    for field in trajectory_layout(env_info, rnn_size):
        tensor = alloc(rollout + 1 if field.extra_step else rollout, field.dtype, field.shape)
        tensors[field.name] = tensor if field.fill is None else tensor.fill_(field.fill)
    return tensors


@dataclass(frozen=True)
class Block:
    """Rows ``[start, stop)`` of the trajectory tensors on ``device``, owned by one split of one rollout worker."""

    idx: int
    worker_idx: int
    split_idx: int
    device: Device
    start: int
    stop: int

    @property
    def rows(self) -> slice:
        return slice(self.start, self.stop)


class BufferMgr(Configurable):
    """Allocates all trajectory memory of a run and deals it out in blocks."""

    def __init__(self, cfg: Config, env_info: EnvInfo):
        super().__init__(cfg)
        self.env_info = env_info
        share = not cfg.serial_mode
        mp_ctx = get_mp_ctx(cfg.serial_mode)

        self.trajectories_per_training_iteration = trajectories_per_training_iteration(cfg)
        self.max_batches_to_accumulate = cfg.num_batches_to_accumulate if cfg.async_rl else 1
        self.topology = sampling_topology(cfg)
        self.num_splits = self.topology.num_splits
        self.agents_per_split = env_info.num_agents * cfg.num_envs_per_worker // self.num_splits
        self.blocks_per_split = self._num_blocks_per_split()
        self.blocks = self._make_blocks()

        # lazy: models are a layer above; the public path of this module is older than the layers
        from sample_factory.model.model_utils import get_rnn_size

        rnn_size = get_rnn_size(cfg)
        rows: dict[Device, int] = {}
        for block in self.blocks:
            rows[block.device] = max(rows.get(block.device, 0), block.stop)
        self.traj_tensors_torch: dict[Device, TensorDict] = {
            device: alloc_trajectory_tensors(env_info, num_rows, cfg.rollout, rnn_size, device, share, time_major=True)
            for device, num_rows in rows.items()
        }
        for tensors in self.traj_tensors_torch.values():
            tensors["rnn_states"].zero_()  # models without memory never write it

        self.policy_versions = torch.zeros([cfg.num_policies], dtype=torch.int32)
        if share:
            self.policy_versions.share_memory_()
        self.life_signs = LifeSigns(
            cfg.num_workers, cfg.num_policies, self.topology.inference_workers_per_policy, share
        )
        self.levels: LevelTables | None = None  # with a curriculum only
        if env_info.level_spec is not None:
            num_envs = cfg.num_workers * cfg.num_envs_per_worker
            self.levels = LevelTables(env_info.level_spec, num_stored_levels(cfg), num_envs, share)
        self.channel = PolicyChannel(
            num_policies=cfg.num_policies,
            num_workers=cfg.num_workers,
            num_splits=self.num_splits,
            agents_per_split=self.agents_per_split,
            num_blocks=len(self.blocks),
            inference_workers_per_policy=self.topology.inference_workers_per_policy,
            local_inference=self.topology.inference_in_rollout_workers,
            batched_sampling=cfg.batched_sampling,
            mp_ctx=mp_ctx,
        )

    def _num_blocks_per_split(self) -> int:
        """Asynchronous: one block is filled while one is copied. Synchronous: all rollouts of an iteration are kept."""
        if self.cfg.async_rl:
            return 2
        return max(1, rollouts_per_iteration(self.cfg, self.env_info))

    def _make_blocks(self) -> list[Block]:
        cfg = self.cfg
        blocks: list[Block] = []
        next_row: dict[Device, int] = {}
        for worker_idx in range(cfg.num_workers):
            device = str(rollout_worker_device(worker_idx, cfg, self.env_info))
            for split_idx in range(self.num_splits):
                for _ in range(self.blocks_per_split):
                    start = next_row.get(device, 0)
                    next_row[device] = stop = start + self.agents_per_split
                    blocks.append(Block(len(blocks), worker_idx, split_idx, device, start, stop))
        return blocks

    def blocks_of(self, worker_idx: int, split_idx: int) -> list[Block]:
        first = (worker_idx * self.num_splits + split_idx) * self.blocks_per_split
        return self.blocks[first : first + self.blocks_per_split]

    def blocks_of_worker(self, worker_idx: int) -> range:
        """Indices of all blocks of a rollout worker."""
        per_worker = self.num_splits * self.blocks_per_split
        return range(worker_idx * per_worker, (worker_idx + 1) * per_worker)

    def block_view(self, block: Block) -> dict[str, Any]:
        """The rows of one block as a nested dict of views: tensors on a GPU, NumPy arrays on the CPU."""
        tensors = self.traj_tensors_torch[block.device][block.rows]
        return tensors if block.device != "cpu" else _to_numpy(tensors)

    def release(self, policy_id: PolicyID, block_idx: int) -> None:
        """Give a block back to the split that owns it."""
        self.channel.release_block(policy_id, block_idx, self.blocks[block_idx].worker_idx)


def num_stored_levels(cfg: Config) -> int:
    """Slots for levels that may be replayed."""
    return int(flag_value(cfg, "curriculum_buffer_size")) if flag_value(cfg, "curriculum") in ("plr", "accel") else 1


def _to_numpy(tensors: dict[str, Any]) -> dict[str, Any]:
    return {key: _to_numpy(t) if isinstance(t, dict) else t.numpy() for key, t in tensors.items()}


def rollouts_per_iteration(cfg: Config, env_info: EnvInfo) -> int:
    """How many rollouts every split contributes to one synchronous training iteration; practically unlimited if
    async.
    """
    if cfg.async_rl:
        return 10**10
    num_agents = cfg.num_workers * cfg.num_envs_per_worker * env_info.num_agents
    wanted = trajectories_per_training_iteration(cfg) * cfg.num_policies
    if wanted < num_agents or wanted % num_agents:
        raise ValueError(
            f"--async_rl=False: one training iteration takes {wanted} trajectories of all policies, which must be a "
            f"positive multiple of the {num_agents} agents; "
            "change --batch_size, --num_batches_per_epoch or --num_envs_per_worker"
        )
    return wanted // num_agents

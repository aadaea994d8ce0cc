"""From a batch of trajectories to the flat dataset the SGD steps work on."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sample_factory.algo.learning import host_returns
from sample_factory.algo.learning.captured_preparation import CapturedPreparation
from sample_factory.algo.learning.host_images import can_normalize_images, normalize_images
from sample_factory.algo.learning.level_curriculum import JudgedRollouts, LevelCurriculum
from sample_factory.algo.learning.returns import bootstrap_time_outs, gae
from sample_factory.algo.utils.cuda_graphs import is_capturing
from sample_factory.algo.utils.host_statistics import HostScaler
from sample_factory.algo.utils.rl_utils import prepare_and_normalize_obs
from sample_factory.algo.utils.running_mean_std import RunningMeanStdInPlace
from sample_factory.algo.utils.tensor_dict import TensorDict, shallow_recursive_copy
from sample_factory.model.dense_stack import has_hooks
from sample_factory.model.standard_network import StandardNetwork
from sample_factory.utils.typing import Config, PolicyID
from sample_factory.utils.utils import log

ACTION_MASK_KEY = "action_mask"

_MAX_VECTOR = 256  # numbers
_NONE = (0.0, 1.0)  # no fixed shift and scale

# Stored at invalid samples instead of whatever the buffer holds, so that their log-probability is defined.
_INVALID_ACTION = 0.0
_INVALID_LOG_PROB = -1.0


class BatchPreparation:
    """Validity, observation normalisation, bootstrap values, returns and advantages of one batch."""

    def __init__(
        self,
        cfg: Config,
        policy_id: PolicyID,
        network: StandardNetwork | None = None,
        curriculum: LevelCurriculum | None = None,
        captured: CapturedPreparation | None = None,
    ) -> None:
        self.cfg = cfg
        self.policy_id = policy_id
        self.network = network  # that of the model, if it is a standard one
        self.curriculum = curriculum
        self.captured = captured  # None: kernels are launched one by one

    @torch.no_grad()
    def prepare(
        self, batch: TensorDict, actor_critic: Any, train_step: int, lock: AbstractContextManager[Any]
    ) -> tuple[TensorDict, int, int]:
        """Returns ``(dataset, dataset size D = N*T, number of invalid samples)``.

        ``batch``: trajectories ``[N, T+1, ...]`` / ``[N, T, ...]`` as in the trajectory buffer; it is left unchanged.
        The dataset has flat tensors ``[D, ...]``, row by row, and on the CPU ``dones_cpu``, ``rewards_cpu`` (float32)
        and ``valids_cpu`` (bool). Under V-trace ``next_values`` replaces ``advantages`` and ``returns``: those need the
        current network. ``lock`` is held while the normaliser statistics change.
        """
        buff = shallow_recursive_copy(batch)
        on_host = is_plain_host_batch(buff)
        captured = None if on_host or self.curriculum is not None else self.captured
        if captured is not None:
            now = captured.on_device(train_step, batch["rewards"].device)
            found = captured.run("validity", batch, lambda: self._validity(buff, now), ())
            valids, host = found["valids"], _unpack(found["packed"].cpu())
        elif on_host:
            valids = self._find_valid_on_host(buff, train_step)  # [N, T+1]
        else:
            valids = self._find_valid(buff, train_step)
        level_ids, num_untrained = None, 0
        if self.curriculum is not None:
            level_ids = buff.pop("level_id")
            num_untrained = self.curriculum.exclude_untrained(valids, level_ids)
        if captured is None:
            host = self._copies_of_host(buff, valids) if on_host else _unpack(self._pack(buff, valids).cpu())
        valid_steps = host["valids_cpu"].numpy()
        num_invalids = valid_steps.size - int(np.count_nonzero(valid_steps))
        all_valid = num_invalids == 0
        buff["valids"] = valids

        if not actor_critic.training:
            actor_critic.train()
        if captured is not None and all_valid:
            # On a copy each time: it is called again where it cannot be recorded.
            work = partial(self._compute, actor_critic=actor_critic, lock=lock, on_host=False, all_valid=True)
            dataset = captured.run(
                "dataset", batch, lambda: work(shallow_recursive_copy(buff))[0], actor_critic.buffers()
            )
        else:
            dataset, values = self._compute(buff, actor_critic, lock, on_host, all_valid)
        if self.curriculum is not None and level_ids is not None:
            judged = (level_ids, batch["dones"], batch["rewards"], buff["rewards"], values)
            self.curriculum.judge(JudgedRollouts(*(x.cpu().numpy() for x in judged)))
        dataset.update(host)
        if self.cfg.value_bootstrap:
            dataset["rewards_cpu"] = dataset["rewards"].cpu()
        if not all_valid:
            self._report_invalid(batch, num_invalids - num_untrained)
            _neutralize_invalid(dataset)
        return dataset, dataset["valids"].shape[0], num_invalids

    def _compute(
        self,
        buff: TensorDict,
        actor_critic: Any,
        lock: AbstractContextManager[Any],
        on_host: bool,
        all_valid: bool,
    ) -> tuple[TensorDict, Tensor]:
        """The dataset of a batch whose valid steps are known, and the values ``[N, T+1]`` in units of rewards."""
        valids = buff["valids"]
        if is_capturing():
            valids = buff["valids"] = torch.ones_like(valids)  # not the one that this batch happened to have
        last_obs = self._normalize_obs(buff, actor_critic, None if all_valid else valids[:, :-1], lock)
        buff["values"] = self._with_bootstrap_value(buff, actor_critic, last_obs)
        values = self._add_returns(buff, actor_critic, on_host, all_valid)
        dataset = self._flatten(buff)
        if "returns" in dataset and self.cfg.normalize_returns:
            scaler = _host_scaler(actor_critic) if on_host and all_valid else None
            if scaler is None:
                _normalize_returns(actor_critic.returns_normalizer, dataset, all_valid)
            else:
                returns = dataset["returns"].numpy()
                scaler.update(returns)
                dataset["returns"] = torch.from_numpy(scaler.normalized(returns))
        return dataset, values

    def _validity(self, buff: TensorDict, train_step: Tensor) -> TensorDict:
        valids = self._find_valid(buff, train_step)
        return TensorDict(valids=valids, packed=self._pack(buff, valids))

    def _find_valid(self, buff: TensorDict, train_step: int | Tensor) -> Tensor:
        """bool ``[N, T+1]``: own experience that is not too old and whose numbers are finite."""
        is_own = buff["policy_id"] == self.policy_id
        is_recent = train_step - buff["policy_version"] < self.cfg.max_policy_lag
        # NaN spreads through the returns of its whole trajectory, and from there into the running statistics for good.
        is_finite = torch.isfinite(buff["rewards"].sum(dim=1)) & torch.isfinite(buff["values"][:, :-1].sum(dim=1))
        valids = is_own & is_recent & is_finite[:, None]  # [N, T]
        return torch.cat([valids, valids[:, -1:]], dim=1)

    def _find_valid_on_host(self, buff: TensorDict, train_step: int) -> Tensor:
        """:meth:`_find_valid` by NumPy."""
        policy_ids, versions = buff["policy_id"].numpy(), buff["policy_version"].numpy()
        rewards, values = buff["rewards"].numpy(), buff["values"].numpy()
        valids = np.empty(values.shape, dtype=bool)  # [N, T+1]
        np.greater(versions, np.float32(train_step - self.cfg.max_policy_lag), out=valids[:, :-1])
        valids[:, :-1] &= policy_ids == self.policy_id
        if not (math.isfinite(np.add.reduce(rewards, axis=None)) and math.isfinite(np.add.reduce(values, axis=None))):
            is_finite = np.isfinite(rewards.sum(axis=1)) & np.isfinite(values[:, :-1].sum(axis=1))
            valids[:, :-1] &= is_finite[:, None]
        valids[:, -1] = valids[:, -2]
        return torch.from_numpy(valids)

    def _pack(self, buff: TensorDict, valids: Tensor) -> Tensor:
        """What the host needs, for a single transfer, ``[3, N*T]``."""
        dones, rewards = buff["dones"].float(), buff["rewards"].float()
        return torch.stack([dones, rewards, valids[:, :-1].float()]).flatten(1)

    def _copies_of_host(self, buff: TensorDict, valids: Tensor) -> dict[str, Tensor]:
        """What :func:`_unpack` gives, by NumPy."""
        return {
            "dones_cpu": torch.from_numpy(buff["dones"].numpy().astype(np.float32).reshape(-1)),
            "rewards_cpu": torch.from_numpy(buff["rewards"].numpy().reshape(-1).copy()),
            "valids_cpu": torch.from_numpy(valids.numpy()[:, :-1].reshape(-1)),
        }

    def _normalize_obs(
        self, buff: TensorDict, actor_critic: Any, valids: Tensor | None, lock: AbstractContextManager[Any]
    ) -> TensorDict:
        """Replace ``obs`` by the flat ``normalized_obs`` ``[N*T, ...]``; returns the last observations ``[N, ...]``.

        Only valid steps enter the statistics, and the observation after the last step does not: the next rollout of the
        same environment starts with it.
        """
        obs = buff.pop("obs")
        mask = obs.pop(ACTION_MASK_KEY, None)
        if mask is not None:
            buff[ACTION_MASK_KEY] = mask[:, :-1]
        if self.network is not None and self.network.conv_head is not None and self.network.has_plain_normalizer:
            normalizer = actor_critic.obs_normalizer
            if can_normalize_images(normalizer, obs):
                with lock:
                    return self._normalize_images(buff, normalizer, obs, valids)
        if self.network is not None and self.network.has_plain_normalizer and valids is None:
            with lock:
                last = self._normalize_vectors(buff, actor_critic.obs_normalizer, obs)
            if last is not None:
                return last
        steps = TensorDict({key: _copy_steps(x) for key, x in obs.items()})
        last = TensorDict({key: x[:, -1] for key, x in obs.items()})
        valid_rows = None if valids is None else valids.flatten()  # [N*T]
        if self.network is not None and self.network.has_plain_normalizer:
            # The same, without asking the model where and how it wants its observations.
            with lock:
                buff["normalized_obs"] = actor_critic.obs_normalizer.normalize_steps(steps, valid_rows)
                return TensorDict(actor_critic.obs_normalizer.normalize_frozen(last))
        with lock:
            buff["normalized_obs"] = prepare_and_normalize_obs(actor_critic, steps, valid_rows)
            normalizer = getattr(actor_critic, "obs_normalizer", actor_critic)
            normalizer.eval()
            normalized_last = prepare_and_normalize_obs(actor_critic, last)
            normalizer.train()
        return TensorDict(normalized_last)

    def _normalize_vectors(self, buff: TensorDict, normalizer: Any, obs: TensorDict) -> TensorDict | None:
        """By NumPy, if all are short vectors of ordinary numbers; otherwise nothing was done and the result is None."""
        scalers = {}
        for key, x in obs.items():
            statistics = normalizer.statistics_of(key)
            scaler = None if statistics is None or has_hooks(statistics) else statistics.on_host()
            is_plain = x.dtype == torch.float32 and x.device.type == "cpu" and x.dim() == 3
            if scaler is None or not is_plain or x.shape[2] > _MAX_VECTOR or normalizer.fixed_constants(key) != _NONE:
                return None
            scalers[key] = scaler
        steps, last = TensorDict(), TensorDict()
        for key, scaler in scalers.items():
            x = obs[key].numpy()  # [N, T+1, D]
            size = x.shape[2]
            scaler.update(x[:, :-1].reshape(-1, size))
            x = scaler.normalized(x)
            dict.__setitem__(steps, key, torch.from_numpy(x[:, :-1].reshape(-1, size)))
            dict.__setitem__(last, key, torch.from_numpy(np.ascontiguousarray(x[:, -1])))
        buff["normalized_obs"] = steps
        return last

    def _normalize_images(
        self, buff: TensorDict, normalizer: Any, obs: TensorDict, valids: Tensor | None
    ) -> TensorDict:
        steps, last = TensorDict(), TensorDict()
        for key, x in obs.items():
            steps[key], last[key] = normalize_images(normalizer, key, x, valids)
        buff["normalized_obs"] = steps
        return last

    def _with_bootstrap_value(self, buff: TensorDict, actor_critic: Any, last_obs: TensorDict) -> Tensor:
        """Values ``[N, T+1]`` whose last column is that of the current network."""
        if self.network is not None:
            last_values = self.network.values(last_obs, buff["rnn_states"][:, -1])
        else:
            last_values = actor_critic(last_obs, buff["rnn_states"][:, -1], values_only=True)["values"]
        return torch.cat([buff["values"][:, :-1], last_values.reshape(-1, 1)], dim=1)

    def _add_returns(self, buff: TensorDict, actor_critic: Any, on_host: bool, all_valid: bool) -> Tensor:
        """Returns the values ``[N, T+1]`` in units of rewards."""
        cfg = self.cfg
        values = buff["values"]
        scaler = _host_scaler(actor_critic) if on_host and cfg.normalize_returns else None
        if scaler is not None:
            values = torch.from_numpy(scaler.denormalized(values.numpy()))
        elif cfg.normalize_returns:
            values = values.clone()
            actor_critic.returns_normalizer(values, denormalize=True)  # in place
        if cfg.value_bootstrap:
            buff["rewards"] = bootstrap_time_outs(buff["rewards"], values, buff["time_outs"], buff["dones"], cfg.gamma)
        if cfg.with_vtrace:
            buff["next_values"] = values[:, 1:]
        elif on_host:
            advantages, returns = host_returns.gae(
                buff["rewards"].numpy(),
                buff["dones"].numpy(),
                values.numpy(),
                None if all_valid else buff["valids"].numpy(),
                cfg.gamma,
                cfg.gae_lambda,
            )
            buff["advantages"], buff["returns"] = torch.from_numpy(advantages), torch.from_numpy(returns)
        else:
            buff["advantages"], buff["returns"] = gae(
                buff["rewards"], buff["dones"], values, buff["valids"], cfg.gamma, cfg.gae_lambda
            )
        return values

    def _flatten(self, buff: TensorDict) -> TensorDict:
        """Cut every tensor to T steps and join trajectories: ``[N, T(+1), ...]`` -> ``[N*T, ...]``."""
        num_steps = buff["rewards"].shape[1]
        dataset = TensorDict()
        for key, x in buff.items():
            if key != "normalized_obs":
                x = (x if x.shape[1] == num_steps else x[:, :num_steps]).flatten(0, 1)
            dict.__setitem__(dataset, key, x)
        return dataset

    def _report_invalid(self, batch: TensorDict, num_invalids: int) -> None:
        rewards = batch["rewards"]
        num_bad_rows = int((~torch.isfinite(rewards.sum(dim=1))).sum())
        if num_bad_rows > 0:
            log.error(f"Policy {self.policy_id}: {num_bad_rows} trajectories with non-finite rewards were left out")
        if num_invalids > rewards.numel() / 2:
            log.warning(
                f"Policy {self.policy_id}: {num_invalids} of {rewards.numel()} samples are invalid. "
                "Expected when several policies share environments or agents are inactive"
            )


def is_plain_host_batch(buff: TensorDict) -> bool:
    """Whether NumPy may read the small tensors of this batch as they are."""
    tensors = [buff[key] for key in ("rewards", "values", "policy_version")]
    return all(x.device.type == "cpu" and x.dtype == torch.float32 for x in tensors)


def _unpack(packed: Tensor) -> dict[str, Tensor]:
    return {"dones_cpu": packed[0], "rewards_cpu": packed[1], "valids_cpu": packed[2] > 0.5}


def _host_scaler(actor_critic: Any) -> HostScaler | None:
    normalizer = actor_critic.returns_normalizer
    if not isinstance(normalizer, RunningMeanStdInPlace) or has_hooks(normalizer):
        return None
    return normalizer.on_host()


def _copy_steps(x: Tensor) -> Tensor:
    """All steps but the last, joined: ``[N, T+1, ...]`` -> ``[N*T, ...]``. Always a copy, the caller may change it."""
    steps = x[:, :-1].contiguous() if len(x) > 1 else x[:, :-1].clone(memory_format=torch.contiguous_format)
    return steps.flatten(0, 1)


def _normalize_returns(normalizer: nn.Module, dataset: TensorDict, all_valid: bool) -> None:
    returns = dataset["returns"]
    if all_valid:
        normalizer(returns)  # in place
    else:
        normalizer(returns, False, dataset["valids"])


def _neutralize_invalid(dataset: TensorDict) -> None:
    """Give invalid samples harmless numbers: a masked loss still has a gradient of 0 * NaN = NaN otherwise."""
    invalid = ~dataset["valids"]
    dataset["actions"] = dataset["actions"].masked_fill(invalid[:, None], _INVALID_ACTION)
    dataset["log_prob_actions"] = dataset["log_prob_actions"].masked_fill(invalid, _INVALID_LOG_PROB)
    for key in ("values", "advantages", "returns"):
        if key in dataset:
            dataset[key] = dataset[key].masked_fill(invalid, 0.0)

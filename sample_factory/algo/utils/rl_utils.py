"""Sizes of batches, generalised advantage estimation, and the way of observations into a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from sample_factory.algo.utils.tensor_dict import TensorDict
from sample_factory.algo.utils.tensor_utils import ensure_torch_tensor
from sample_factory.utils.typing import Config

if TYPE_CHECKING:
    from sample_factory.algo.utils.env_info import EnvInfo

# On the CPU the doubling scan does more arithmetic than the plain loop and only wins where call overhead dominates.
_LONG_RECURRENCE, _NARROW_ROW = 128, 64

_Flags = Tensor | np.ndarray | bool | list | tuple


def trajectories_per_minibatch(cfg: Config) -> int:
    """Trajectories in one minibatch."""
    return cfg.batch_size // cfg.rollout


def trajectories_per_training_iteration(cfg: Config) -> int:
    """Trajectories in one batch given to the learner."""
    return cfg.num_batches_per_epoch * trajectories_per_minibatch(cfg)


def total_num_envs(cfg: Config) -> int:
    """Environments of all rollout workers."""
    return cfg.num_workers * cfg.num_envs_per_worker


def total_num_agents(cfg: Config, env_info: EnvInfo) -> int:
    """Agents of all rollout workers."""
    return total_num_envs(cfg) * env_info.num_agents


def num_agents_per_worker(cfg: Config, env_info: EnvInfo) -> int:
    """Agents of one rollout worker."""
    return cfg.num_envs_per_worker * env_info.num_agents


def samples_per_trajectory(trajectory: TensorDict) -> int:
    """Samples in a batch of trajectories: rows times steps of ``rewards`` ``[N, T]``."""
    num_rows, num_steps = trajectory["rewards"].shape[:2]
    return num_rows * num_steps


def make_dones(terminated: _Flags, truncated: _Flags) -> Any:
    """Episode ends: terminated or truncated. Tensors, arrays, bools or lists of bools (multi-agent environments)."""
    if isinstance(terminated, (list, tuple)) and isinstance(truncated, (list, tuple)):
        return [t or tr for t, tr in zip(terminated, truncated, strict=True)]
    return terminated | truncated  # type: ignore[operator]


def prepare_and_normalize_obs(
    model: nn.Module, obs: TensorDict | dict[str, Tensor], valid_rows: Tensor | None = None
) -> TensorDict | dict[str, Tensor]:
    """Observations as the encoders want them: on their device, normalised, in their dtype.

    Moves the tensors of ``obs`` to the device in place (of the dict). In training mode the statistics of the normaliser
    are updated first; ``valid_rows`` (see :meth:`RunningMeanStdInPlace.update`) then says which rows count.
    """
    for key, x in obs.items():
        device = model.device_for_input_tensor(key)  # type: ignore[operator]
        x = ensure_torch_tensor(x)
        # dict's own setter: TensorDict's looks at the key first
        dict.__setitem__(obs, key, x if device is None else x.to(device, non_blocking=True))

    if valid_rows is None or not model.training:
        normalized = model.normalize_obs(obs)  # type: ignore[operator]
    else:
        normalized = _normalize_with_valid_rows(model, obs, valid_rows)

    dtypes = {key: model.type_for_input_tensor(key) for key in normalized}  # type: ignore[operator]
    if all(x.dtype == dtypes[key] for key, x in normalized.items()):
        return normalized
    # A new dict: without any normalisation, normalize_obs() returns the caller's own.
    return TensorDict({key: x.to(dtypes[key]) for key, x in normalized.items()})


def _normalize_with_valid_rows(model: nn.Module, obs: TensorDict | dict[str, Tensor], valid_rows: Tensor) -> Any:
    # Users replace normalize_obs(obs), so the rows cannot be handed through it. Updating first and normalising with the
    # statistics held still is the same.
    normalizer: Any = model.obs_normalizer
    normalizer.update(obs, valid_rows)
    normalizer.eval()
    try:
        return model.normalize_obs(obs)  # type: ignore[operator]
    finally:
        normalizer.train()


def reverse_linear_recurrence(x: Tensor, coefficients: Tensor, x_last: Tensor | None = None) -> Tensor:
    """``y_t = x_t + coefficients_t * y_{t+1}``, computed from the last step backwards without autograd.

    :param x: time-major ``[T, ...]``, float.
    :param coefficients: same shape, at most 1 in magnitude: the scan multiplies them up.
    :param x_last: ``y_T``, the value after the last step ``[...]``; zero if ``None``.
    :returns: ``[T, ...]``
    """
    with torch.no_grad():
        if x_last is not None:
            x = torch.cat([x[:-1], (x[-1] + coefficients[-1] * x_last).unsqueeze(0)])
        is_long_and_narrow = x.shape[0] > _LONG_RECURRENCE and x[0].numel() < _NARROW_ROW
        if x.device.type != "cpu" or is_long_and_narrow:
            return _recurrence_scan(x, coefficients)
        return _recurrence_loop(x, coefficients)


def _recurrence_loop(x: Tensor, coefficients: Tensor) -> Tensor:
    # Two NumPy calls per step on contiguous rows; torch operators on such small rows cost several times more.
    result = x.detach().clone(memory_format=torch.contiguous_format)
    rows, factors = list(result.numpy()), list(coefficients.detach().contiguous().numpy())
    product = np.empty(x.shape[1:], dtype=result.numpy().dtype)
    for t in range(len(rows) - 2, -1, -1):
        np.multiply(factors[t], rows[t + 1], out=product)
        np.add(rows[t], product, out=rows[t])
    return result


def _recurrence_scan(x: Tensor, coefficients: Tensor) -> Tensor:
    # Recursive doubling: log2(T) rounds of three launches instead of T rounds of two.
    num_steps, stride = x.shape[0], 1
    while stride < num_steps:
        x = torch.cat([torch.addcmul(x[:-stride], coefficients[:-stride], x[stride:]), x[-stride:]])
        coefficients = torch.cat([coefficients[:-stride] * coefficients[stride:], coefficients[-stride:]])
        stride *= 2
    return x


def calculate_discounted_sum_torch(
    x: Tensor, dones: Tensor, valids: Tensor, discount: float, x_last: Tensor | None = None
) -> Tensor:
    """Discounted sums of ``x`` within episodes, carried unchanged across invalid steps.

    ``y_t = x_t + (discount * m_t + 1 - m_t) * (1 - d_t) * y_{t+1}``

    :param x: ``[T, N]`` time-major, with ``dones`` d and ``valids`` m (bool or 0/1) of the same shape.
    :param x_last: ``y_T`` ``[N]``; zero if ``None``.
    """
    valid, not_done = valids.to(x.dtype), 1.0 - dones.to(x.dtype)
    coefficients = (1.0 + (discount - 1.0) * valid) * not_done
    return reverse_linear_recurrence(x, coefficients, x_last)


def gae_advantages(
    rewards: Tensor, dones: Tensor, values: Tensor, valids: Tensor, gamma: float, gae_lambda: float
) -> Tensor:
    """Generalised advantage estimates (Schulman et al. 2016) with validity masks.

    With done flags d, validity m and values V::

        delta_t = (r_t - V_t) m_t + (1 - d_t) gamma V_{t+1} m_{t+1}
        A_t     = delta_t + (gamma lambda m_t + 1 - m_t) (1 - d_t) A_{t+1},    A_T = 0

    Where everything is valid this is ordinary GAE; estimates cross invalid steps without being discounted.

    :param rewards: ``[N, T]``, ``dones`` ``[N, T]`` bool or 0/1
    :param values: ``[N, T+1]``, not normalised; ``valids`` ``[N, T+1]`` bool or 0/1
    :returns: ``[N, T]`` float, without gradient
    """
    with torch.no_grad():
        zero = rewards.new_zeros(())
        dones_t, valids_t = dones.t(), valids.t() != 0  # [T, N], [T+1, N]
        # where, not multiplication: rewards and values of invalid steps may be NaN
        valid_values = torch.where(valids_t, values.t(), zero)
        valid_rewards = torch.where(valids_t[:-1], rewards.t(), zero)
        bootstrap = gamma * valid_values[1:] * (1.0 - dones_t.to(rewards.dtype))
        deltas = valid_rewards - valid_values[:-1] + bootstrap
        return calculate_discounted_sum_torch(deltas, dones_t, valids_t[:-1], gamma * gae_lambda).t().contiguous()

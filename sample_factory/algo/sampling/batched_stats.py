"""What the infos of a vectorised environment say about the episodes that ended."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import Tensor

from sample_factory.algo.sampling.sampling_utils import record_episode_statistics_wrapper_stats
from sample_factory.utils.dicts import iterate_recursively
from sample_factory.utils.utils import log


def episode_infos(infos: Any, finished: np.ndarray, rewards: np.ndarray, num_agents: int) -> dict[str, Any]:
    """Statistics besides reward and length.

    ``infos``: a dict over all agents or a list with one dict per agent; ``finished``: rows ``[F]`` of the agents whose
    episode ended, with the sums of their ``rewards`` ``[F]``. Infos may override the true objective: an environment
    knows it better than the sum of rewards.
    """
    stats: dict[str, Any] = {"true_objective": rewards}
    if isinstance(infos, dict):
        stats.update(_stats_from_dict(infos, finished, num_agents))
    elif isinstance(infos, list | tuple):
        stats.update(_stats_from_list(infos, finished, rewards))
    return stats


def _stats_from_dict(infos: dict[str, Any], finished: np.ndarray, num_agents: int) -> dict[str, Any]:
    """Numbers out of the info dict of a vectorised environment; per-agent arrays are restricted to finished agents."""
    stats: dict[str, Any] = {}
    for name, value in _leaves(infos):
        if isinstance(value, bool | int | float):
            stats[name] = value
        elif isinstance(value, Tensor | np.ndarray | np.generic):
            array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
            if array.dtype == object:
                continue
            if array.size == 1:
                stats[name] = array.reshape(-1)[0].item()
            elif array.shape[0] == num_agents:
                stats[name] = array[finished]
            else:
                log.warning(
                    f"Info {name!r} has shape {array.shape}, expected one value or one per agent ({num_agents})"
                )
    return stats


def _leaves(d: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in d.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _leaves(value, f"{name}/")
        else:
            yield name, value


def _stats_from_list(infos: Any, finished: np.ndarray, rewards: np.ndarray) -> dict[str, Any]:
    """The same keys as non-batched sampling reports, collected over the agents that finished."""
    finished_infos = [infos[row] for row in finished.tolist()]
    objectives = [info.get("true_objective", reward) for info, reward in zip(finished_infos, rewards, strict=True)]
    stats: dict[str, Any] = {"true_objective": np.asarray([float(value) for value in objectives if value is not None])}
    recorded = [record_episode_statistics_wrapper_stats(info) for info in finished_infos]
    recorded_pairs = [pair for pair in recorded if pair is not None]
    if recorded_pairs:
        stats["RecordEpisodeStatistics_reward"] = np.asarray([reward for reward, _ in recorded_pairs])
        stats["RecordEpisodeStatistics_len"] = np.asarray([length for _, length in recorded_pairs])
    extra: dict[str, list[Any]] = {}
    for info in finished_infos:
        for _, name, value in iterate_recursively(info.get("episode_extra_stats", {})):
            extra.setdefault(name, []).append(value)
    stats["episode_extra_stats"] = {name: np.asarray(values) for name, values in extra.items()}
    return stats

"""Fast evaluation: run many episodes of a saved experiment in parallel and write their statistics to CSV files."""

from __future__ import annotations

import csv
import itertools
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from sample_factory.algo.learning.checkpoints import CheckpointError, trusting_files
from sample_factory.algo.runners.summaries import episodic_tag
from sample_factory.algo.sampling.evaluation_sampling_api import EvalSamplingAPI
from sample_factory.algo.utils.env_info import EnvInfo, EnvProbeError, obtain_env_info_in_a_separate_process
from sample_factory.algo.utils.misc import ExperimentStatus
from sample_factory.cfg.persistence import complete_cfg
from sample_factory.cfg.shadowing import flag_value, shadowed_flags
from sample_factory.cfg.validation import ConfigError, check_cfg_before_evaluation
from sample_factory.envs.env_resolution import UnknownEnvError, resolve_env
from sample_factory.utils.typing import Config, PolicyID, StatusCode
from sample_factory.utils.utils import ensure_dir_exists, experiment_dir, log

_PRINT_INTERVAL_SEC = 1.0
_POLL_SEC = 0.1
_USAGE_ERROR = 2
_WITH_MIN_MAX = ("reward", "true_objective", "len")


def do_eval(cfg: Config) -> StatusCode:
    """Evaluate ``cfg.sample_env_episodes`` episodes of every policy of the experiment; returns the exit code."""
    cfg = complete_cfg(cfg)
    cfg.episode_counter = True
    cfg.decorrelate_envs_on_one_worker = False
    if "curriculum" not in shadowed_flags(cfg):
        cfg.curriculum = "none"  # the environment chooses its levels
    try:
        check_cfg_before_evaluation(cfg)
        resolve_env(cfg)
    except (ConfigError, UnknownEnvError) as exc:
        print(exc, file=sys.stderr)
        return _USAGE_ERROR
    try:
        env_info = obtain_env_info_in_a_separate_process(cfg)
        return generate_trajectories(cfg, env_info, cfg.sample_env_episodes)
    except (EnvProbeError, CheckpointError) as exc:
        log.error(exc)
        return ExperimentStatus.FAILURE


def generate_trajectories(cfg: Config, env_info: EnvInfo, sample_env_episodes: int = 1024) -> StatusCode:
    """Sample this many episodes of every policy, then log and write the statistics of all policies.

    Of several policies it is the mean number: chance decides which of them plays an episode.
    """
    cfg.sample_env_episodes = sample_env_episodes
    api = EvalSamplingAPI(cfg, env_info)
    with trusting_files(flag_value(cfg, "unsafe_load")):
        api.init()
    api.start()
    try:
        _wait_for_episodes(api, sample_env_episodes * cfg.num_policies, env_info.frameskip)
    except KeyboardInterrupt:
        log.info("Evaluation interrupted, reporting what there is")
    status = api.stop()
    for policy_id in range(cfg.num_policies):
        _print_eval_summaries(cfg, api.eval_stats, policy_id)
        _write_csv(cfg, api.eval_stats, policy_id)
    return status


def _wait_for_episodes(api: EvalSamplingAPI, num_episodes: int, frameskip: int) -> None:
    """Until all policies together have enough episodes or the sampler ended by itself (a worker died)."""
    started_at = last_print = time.time()
    while api.is_running and (num_sampled := sum(map(len, api.eval_episodes))) < num_episodes:
        time.sleep(_POLL_SEC)
        if time.time() - last_print > _PRINT_INTERVAL_SEC:
            last_print = time.time()
            _print_fps_stats(num_sampled, api.total_samples, last_print - started_at, frameskip)
            log.info(f"Progress: {num_sampled}/{num_episodes} episodes sampled")


def _print_fps_stats(num_episodes: int, num_samples: int, seconds: float, frameskip: int) -> None:
    fps = num_samples / max(seconds, 1e-8)
    with_skip = f" ({fps * frameskip:.1f} FPS with frameskip)" if frameskip > 1 else ""
    log.debug(
        f"Episodes collected: {num_episodes}, Samples collected: {num_samples}, throughput: {fps:.1f} FPS{with_skip}"
    )


def _print_eval_summaries(cfg: Config, eval_stats: dict[str, list[list[Any]]], policy_id: PolicyID) -> None:
    """Log the means (and extremes) of one policy's statistics as JSON, under the tags TensorBoard uses."""
    summary: dict[str, float] = {}
    for key, lists in eval_stats.items():
        values = lists[policy_id]
        if not values or not np.issubdtype(np.asarray(values).dtype, np.number):
            continue
        tag = episodic_tag(key)
        summary[tag] = float(np.mean(values))
        if key in _WITH_MIN_MAX:
            summary[f"{tag}_min"], summary[f"{tag}_max"] = float(np.min(values)), float(np.max(values))
    log.info(f"Policy {policy_id}: {json.dumps(summary, indent=4)}")


def _write_csv(cfg: Config, eval_stats: dict[str, list[list[Any]]], policy_id: PolicyID) -> None:
    """One row per episode, the row number first. Statistics some episodes do not have leave empty cells."""
    directory = Path(experiment_dir(cfg)) / (cfg.csv_folder_name or "")
    path = Path(ensure_dir_exists(str(directory))) / f"eval_p{policy_id}.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["", *eval_stats])
        rows = itertools.zip_longest(*(lists[policy_id] for lists in eval_stats.values()), fillvalue="")
        writer.writerows([index, *row] for index, row in enumerate(rows))
    log.info(f"Wrote {path}")


if __name__ == "__main__":
    raise SystemExit(
        "Nothing was evaluated: this module is imported by scripts; `python -m sample_factory.enjoy` is a program"
    )

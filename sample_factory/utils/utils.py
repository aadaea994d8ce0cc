"""Public names of the utilities; each is implemented in the module of its topic."""

from __future__ import annotations

from sample_factory.utils.arrays import (
    ensure_contigious,
    figure_to_numpy,
    max_with_idx,
    min_with_idx,
    numpy_all_the_way,
    numpy_flatten,
    op_with_idx,
    scale_to_range,
)
from sample_factory.utils.introspection import is_module_available, set_attr_if_exists, static_vars, str2bool
from sample_factory.utils.logging import debug_log_every_n, has_file_handler, init_file_logger, log, log_every_n
from sample_factory.utils.memory import memory_consumption_mb
from sample_factory.utils.paths import (
    cfg_file,
    cfg_file_old,
    ensure_dir_exists,
    experiment_dir,
    experiments_dir,
    get_free_disk_space_mb,
    get_username,
    maybe_ensure_dir_exists,
    project_tmp_dir,
    remove_if_exists,
    safe_ensure_dir_exists,
    summaries_dir,
    wandb_dir,
)
from sample_factory.utils.processes import (
    cores_for_worker_process,
    join_or_kill,
    kill,
    kill_processes,
    list_child_processes,
    set_process_cpu_affinity,
    set_process_niceness,
)
from sample_factory.utils.provenance import get_git_commit_hash, git_root, save_git_diff
from sample_factory.utils.retry import retry, safe_get, safe_put, safe_put_many

__all__ = [
    "cfg_file",
    "cfg_file_old",
    "cores_for_worker_process",
    "debug_log_every_n",
    "ensure_contigious",
    "ensure_dir_exists",
    "experiment_dir",
    "experiments_dir",
    "figure_to_numpy",
    "get_free_disk_space_mb",
    "get_git_commit_hash",
    "get_username",
    "git_root",
    "has_file_handler",
    "init_file_logger",
    "is_module_available",
    "join_or_kill",
    "kill",
    "kill_processes",
    "list_child_processes",
    "log",
    "log_every_n",
    "max_with_idx",
    "maybe_ensure_dir_exists",
    "memory_consumption_mb",
    "min_with_idx",
    "numpy_all_the_way",
    "numpy_flatten",
    "op_with_idx",
    "project_tmp_dir",
    "remove_if_exists",
    "retry",
    "safe_ensure_dir_exists",
    "safe_get",
    "safe_put",
    "safe_put_many",
    "save_git_diff",
    "scale_to_range",
    "set_attr_if_exists",
    "set_process_cpu_affinity",
    "set_process_niceness",
    "static_vars",
    "str2bool",
    "summaries_dir",
    "wandb_dir",
]

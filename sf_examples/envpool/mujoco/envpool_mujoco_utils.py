"""MuJoCo environments in EnvPool."""

from __future__ import annotations

from typing import Any

from sample_factory.utils.typing import Config, Env
from sf_examples.envpool.envpool_wrappers import envpool_seed, make_envpool_env
from sf_examples.mujoco.mujoco_utils import MUJOCO_ENVS, mujoco_env_by_name

__all__ = ["MUJOCO_ENVS", "make_mujoco_env"]


def make_mujoco_env(env_name: str, cfg: Config | None, env_config: Any, render_mode: str | None = None) -> Env:
    """``cfg.env_agents`` robots stepped together."""
    assert cfg is not None
    return make_envpool_env(
        mujoco_env_by_name(env_name).env_id,
        num_envs=cfg.env_agents,
        seed=envpool_seed(cfg.seed, env_config),
        render_mode=render_mode,
        num_threads=cfg.envpool_num_threads,
        thread_affinity_offset=cfg.envpool_thread_affinity_offset,
    )

"""Construction of one environment from its registered name."""

from __future__ import annotations

from typing import Any

from sample_factory.algo.utils.context import global_env_registry
from sample_factory.algo.utils.gymnasium_utils import patch_non_gymnasium_env
from sample_factory.algo.utils.vector_env_adapter import adapt_vector_env
from sample_factory.envs.env_wrappers import EpisodeCounterWrapper
from sample_factory.utils.typing import Config, Env
from sample_factory.utils.utils import log


def create_env(
    full_env_name: str, cfg: Config | None = None, env_config: Any = None, render_mode: str | None = None
) -> Env:
    """Call the registered factory and adapt what it returns.

    :param env_config: ``None`` or an AttrDict with ``worker_index``, ``vector_index``, ``env_id``.
    :raises ValueError: no factory is registered under this name.
    """
    env_registry = global_env_registry()
    if full_env_name not in env_registry:
        message = (
            f"Environment {full_env_name!r} is not registered (known: {sorted(env_registry)}): "
            "call register_env(name, make_env_func) before training starts"
        )
        log.error(message)
        raise ValueError(message)

    env = env_registry[full_env_name](full_env_name, cfg, env_config, render_mode)
    env = adapt_vector_env(patch_non_gymnasium_env(env))
    if cfg is not None and "episode_counter" in cfg and cfg.episode_counter:
        env = EpisodeCounterWrapper(env)
    return env

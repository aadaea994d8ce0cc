"""Independent random streams for every component, derived from one seed."""

from __future__ import annotations

import random
import zlib

import numpy as np
import torch

from sample_factory.algo.utils import random_streams
from sample_factory.utils.typing import Config


def component_seed_sequence(cfg: Config, component: str, *indices: int) -> np.random.SeedSequence:
    """Seed material of one component: a function of ``--seed``, its name and its indices; OS entropy without a seed.

    SeedSequence mixes its entropy words, so streams of different components are independent (O'Neill 2015).
    """
    if cfg.seed is None:
        return np.random.SeedSequence()
    return np.random.SeedSequence([int(cfg.seed) % 2**63, zlib.crc32(component.encode()), *indices])


def component_rng(cfg: Config, component: str, *indices: int) -> np.random.Generator:
    """The component's own stream. With a seed it is part of what checkpoints of this process hold."""
    rng = np.random.default_rng(component_seed_sequence(cfg, component, *indices))
    if cfg.seed is not None:
        random_streams.register("/".join([component, *map(str, indices)]), rng)
    return rng


def seed_process(cfg: Config, component: str, *indices: int) -> None:
    """Seed the global generators (``random``, NumPy, torch) of a worker process.

    Needed also without ``--seed``: children of the fork server start with identical NumPy and torch states.
    """
    random_streams.forget_all()
    words = component_seed_sequence(cfg, component, *indices).generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(int(words[1]))
    torch.manual_seed(int(words[2]))


def env_seed(cfg: Config, env_id: int, attempt: int = 0) -> int:
    """Seed of the first reset of one environment: its number without ``--seed``, a derived one with it. Later attempts
    to get it going (after faults) get other seeds, at random without ``--seed``.
    """
    if cfg.seed is None and attempt == 0:
        return env_id
    indices = (env_id, attempt) if attempt else (env_id,)
    return int(component_seed_sequence(cfg, "env", *indices).generate_state(1)[0]) % 2**31

"""Helpers of the DeepMind Lab example that need no DeepMind Lab."""

from __future__ import annotations

import hashlib

from sample_factory.utils.utils import is_module_available


def dmlab_available() -> bool:
    return is_module_available("deepmind_lab")


def string_to_hash_bucket(s: str, vocabulary_size: int) -> int:
    """Word id in ``[1, vocabulary_size - 1]`` that is the same in every process; 0 is left for padding."""
    digest = hashlib.md5(s.encode("utf-8"), usedforsecurity=False).hexdigest()
    return 1 + int(digest, 16) % (vocabulary_size - 1)

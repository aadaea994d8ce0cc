"""Version of the algorithm; raised when old checkpoints can no longer be continued."""

from __future__ import annotations

ALGO_VERSION = 83

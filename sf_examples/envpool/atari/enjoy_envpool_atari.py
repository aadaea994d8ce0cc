"""Watch or evaluate an agent trained with ``sf_examples.envpool.atari.train_envpool_atari``."""

from __future__ import annotations

import sys

from sample_factory.enjoy import enjoy
from sample_factory.utils.typing import StatusCode
from sf_examples.envpool.atari.train_envpool_atari import parse_atari_args, register_atari_components


def main() -> StatusCode:
    register_atari_components()
    status, _ = enjoy(parse_atari_args(evaluation=True))
    return status


if __name__ == "__main__":
    sys.exit(main())

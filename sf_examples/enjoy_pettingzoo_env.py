"""Watch or evaluate an agent trained with ``sf_examples.train_pettingzoo_env``."""

from __future__ import annotations

import sys

from sample_factory.enjoy import enjoy
from sample_factory.utils.typing import StatusCode
from sf_examples.train_pettingzoo_env import parse_custom_args, register_custom_components


def main() -> StatusCode:
    register_custom_components()
    status, _ = enjoy(parse_custom_args(evaluation=True))
    return status


if __name__ == "__main__":
    sys.exit(main())

"""Watch or evaluate an agent trained with ``sf_examples.train_gym_env``."""

from __future__ import annotations

import sys

from sample_factory.enjoy import enjoy
from sample_factory.envs.env_resolution import UnknownEnvError
from sample_factory.utils.typing import StatusCode
from sf_examples.train_gym_env import parse_custom_args, register_custom_components

EXIT_CODE_USAGE_ERROR = 2


def main() -> StatusCode:
    register_custom_components()
    cfg = parse_custom_args(evaluation=True)
    try:
        status, _ = enjoy(cfg)
        return status
    except UnknownEnvError as exc:
        print(exc, file=sys.stderr)
        return EXIT_CODE_USAGE_ERROR


if __name__ == "__main__":
    sys.exit(main())

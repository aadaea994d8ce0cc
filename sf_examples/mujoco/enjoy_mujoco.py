"""Watch or evaluate an agent trained with ``sf_examples.mujoco.train_mujoco``."""

from __future__ import annotations

import sys

from sample_factory.enjoy import enjoy
from sample_factory.utils.typing import StatusCode
from sf_examples.mujoco.train_mujoco import parse_mujoco_cfg, register_mujoco_components


def main() -> StatusCode:
    register_mujoco_components()
    status, _ = enjoy(parse_mujoco_cfg(evaluation=True))
    return status


if __name__ == "__main__":
    sys.exit(main())

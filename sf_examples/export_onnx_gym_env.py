"""Export an agent trained with ``sf_examples.train_gym_env`` to ``<experiment>.onnx`` in the current directory."""

from __future__ import annotations

import sys

from sample_factory.envs.env_resolution import UnknownEnvError
from sample_factory.export_onnx import export_onnx
from sample_factory.utils.typing import StatusCode
from sf_examples.train_gym_env import parse_custom_args, register_custom_components

EXIT_CODE_USAGE_ERROR = 2


def main() -> StatusCode:
    register_custom_components()
    cfg = parse_custom_args(evaluation=True)
    try:
        return export_onnx(cfg, f"{cfg.experiment}.onnx")
    except UnknownEnvError as exc:
        print(exc, file=sys.stderr)
        return EXIT_CODE_USAGE_ERROR


if __name__ == "__main__":
    sys.exit(main())

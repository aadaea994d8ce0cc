"""Export an agent trained with ``sf_examples.train_gym_env`` to ``<experiment>.onnx`` in the current directory."""

from __future__ import annotations

import sys

from sample_factory.export_onnx import export_onnx

from sample_factory.envs.env_resolution import UnknownEnvError, resolve_env
from sample_factory.utils.typing import StatusCode
from sf_examples.train_gym_env import EXIT_CODE_USAGE_ERROR, parse_custom_args, register_custom_components


def main() -> StatusCode:
    register_custom_components()
    cfg = parse_custom_args(evaluation=True)
    try:
        resolve_env(cfg)
    except UnknownEnvError as exc:
        print(exc, file=sys.stderr)
        return EXIT_CODE_USAGE_ERROR
    return export_onnx(cfg, f"{cfg.experiment}.onnx")


if __name__ == "__main__":
    sys.exit(main())

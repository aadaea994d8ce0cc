"""Upload an experiment: ``python -m sample_factory.huggingface.push_to_hub -r user/name -d train_dir/experiment``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from os.path import isfile, join
from typing import Any

from sample_factory.huggingface.huggingface_utils import generate_model_card, push_to_hf
from sample_factory.utils.paths import CONFIG_FILE_NAME, LEGACY_CONFIG_FILE_NAME


def push_argparser() -> argparse.ArgumentParser:
    """The command line of this module."""
    parser = argparse.ArgumentParser(prog="python -m sample_factory.huggingface.push_to_hub", description=__doc__)
    parser.add_argument("-r", "--hf_repository", required=True, help="Repository on the hub: user/name", type=str)
    parser.add_argument("-d", "--experiment_dir", required=True, help="Experiment folder to upload", type=str)
    parser.add_argument("--train_script", default=None, help="Module that trains, for the model card", type=str)
    parser.add_argument("--enjoy_script", default=None, help="Module that evaluates, for the model card", type=str)
    return parser


def read_experiment_config(experiment_dir: str) -> dict[str, Any]:
    """The configuration of an experiment; a `cfg.json` of old versions is renamed to `config.json` first."""
    config_file = join(experiment_dir, CONFIG_FILE_NAME)
    legacy_file = join(experiment_dir, LEGACY_CONFIG_FILE_NAME)
    if not isfile(config_file) and isfile(legacy_file):
        os.rename(legacy_file, config_file)
    if not isfile(config_file):
        raise FileNotFoundError(
            f"--experiment_dir={experiment_dir} has no {CONFIG_FILE_NAME}: give the folder <train_dir>/<experiment>"
        )
    with open(config_file, encoding="utf-8") as file:
        return json.load(file)


def main(argv: Sequence[str] | None = None) -> int:
    args = push_argparser().parse_args(argv)
    config = read_experiment_config(args.experiment_dir)
    generate_model_card(
        args.experiment_dir,
        config["algo"],
        config["env"],
        args.hf_repository,
        enjoy_name=args.enjoy_script,
        train_name=args.train_script,
    )
    push_to_hf(args.experiment_dir, args.hf_repository)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""``python -m sample_factory.ued.make_cmd``: print one training command per combination of values and trial."""

from __future__ import annotations

import argparse
import itertools
import json
import re
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sample_factory.ued.config.checks import USAGE_ERROR
from sample_factory.ued.config.files import (
    SHIPPED_DIR,
    ConfigFile,
    as_text,
    find_config,
    load_config,
    shipped_names,
)
from sample_factory.ued.config.parser import parse_tokens
from sample_factory.ued.config.run_id import MAX_LENGTH, run_id
from sample_factory.ued.config.train_args import import_module
from sample_factory.utils.standard_streams import survive_lost_output

MODULES = {
    "train": "sample_factory.ued.train",
    "eval": "sample_factory.ued.evaluate",
    "evaluate": "sample_factory.ued.evaluate",
}
WANDB_FILE = Path("config") / "wandb.json"
_WANDB_KEYS = ("base_url", "api_key")
_HARMLESS = re.compile(r"[\w@%+=:,./~-]*")  # no quotes around ~, so that the shell can expand it
_UNFIT_FOR_NAMES = re.compile(r"[^\w.+-]+")
_SEPARATOR = " \\\n"

Args = dict[str, Any]


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sample_factory.ued.make_cmd", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("--config", "-c", help="name of a configuration: a file in --dir, or a shipped one (maze/dr)")
    parser.add_argument("--dir", default="config/configs/", help="folder of your configurations (default %(default)s)")
    parser.add_argument("--n_trials", type=int, default=1, help="commands per combination; each has its own seed")
    parser.add_argument("--start_index", type=int, default=0, help="number of the first trial")
    parser.add_argument(
        "--count",
        action="store_true",
        help="say at the end, on standard error, how many commands and combinations there are",
    )
    parser.add_argument("--checkpoint", action="store_true", help="commands continue from the checkpoint of their run")
    parser.add_argument("--wandb_base_url", help="used if the configuration has a wandb_project")
    parser.add_argument("--wandb_api_key", help="used if the configuration has a wandb_project")
    parser.add_argument("--wandb_project", help="used instead of the wandb_project of the configuration")
    parser.add_argument("--include_wandb_group", action="store_true", help="group the trials of a combination")
    parser.add_argument("--list", action="store_true", help="print the names of the shipped configurations and end")
    parser.add_argument("--copy_shipped", action="store_true", help="copy the shipped configurations to --dir and end")
    return parser


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse; exits with code 2 and one message if something is wrong."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.config is None and not (args.list or args.copy_shipped):
        parser.error(f"--config is needed, for example --config=maze/dr; shipped are {', '.join(shipped_names())}")
    if args.n_trials < 1:
        parser.error(f"--n_trials={args.n_trials}: must be >= 1")
    if args.start_index < 0:
        parser.error(f"--start_index={args.start_index}: must be >= 0")
    return args


def combinations(config: ConfigFile) -> Iterator[Args]:
    """All combinations of values; the first flag varies fastest. Flags whose value is null are left out."""
    names = list(config.args)
    for values in itertools.product(*(config.args[name] for name in reversed(names))):
        pairs = zip(names, reversed(values), strict=True)
        yield {name: value for name, value in pairs if value is not None}


def name_of(config: ConfigFile, args: Args) -> str:
    """Run id of a combination, without trial; ValueError if its flags are wrong."""
    parsed = parse_tokens([(name, as_text(value)) for name, value in args.items()])
    if parsed.problems:
        raise ValueError(f"{config.path}: " + "; ".join(parsed.problems))
    # Numbers as they are written in the file: 1 stays 1.
    raw = {name: value for name, value in args.items() if not isinstance(value, str)}
    name = run_id({**parsed.values, **raw})
    return f"{config.xpid_prefix}-{name}" if config.xpid_prefix else name


def distinct_names(found: Sequence[Args], names: Sequence[str]) -> list[str]:
    """The names; those that several combinations have in common say what tells these apart, or each run would set the
    one before aside.
    """
    sharing: dict[str, list[Args]] = {}
    for name, args in zip(names, found, strict=True):
        sharing.setdefault(name, []).append(args)
    return [name + _differences(args, sharing[name]) for name, args in zip(names, found, strict=True)]


def _differences(args: Args, others: Sequence[Args]) -> str:
    """``-flag=value`` of every flag of which the others have another value, without signs that folders cannot have."""
    differing = [name for name in args if any(other.get(name) != args[name] for other in others)]
    return "".join(f"-{name}={_UNFIT_FOR_NAMES.sub('_', as_text(args[name]))}" for name in differing)


def commands(config: ConfigFile, options: argparse.Namespace, wandb: Args) -> Iterator[tuple[str, str]]:
    """Identity (run id, or the flags of an evaluation) and text of every command."""
    if config.command not in MODULES:
        raise ValueError(f"{config.path}: cmd={config.command!r}; choose {', '.join(MODULES)}")
    is_training = config.command == "train"
    for module in filter(None, config.args.get("env_module", ())):
        import_module(str(module))  # which registers environments and their flags
    found = list(combinations(config))
    names = distinct_names(found, [name_of(config, args) for args in found]) if is_training else [""] * len(found)
    for name, args in zip(names, found, strict=True):
        for trial in range(options.start_index, options.start_index + options.n_trials):
            flags: Args = {**wandb, **args}
            if "seed" in flags:
                flags["seed"] = _integer(config, flags["seed"]) + trial
            elif options.n_trials > 1 or options.start_index:
                flags["seed"] = 1 + trial
            if is_training:
                if options.checkpoint:
                    flags["from_last_checkpoint"] = True
                if options.include_wandb_group:
                    flags["wandb_group"] = name
                flags.pop("xpid", None)  # it comes last
                flags["xpid"] = f"{name}_{trial}"
                if len(flags["xpid"]) > MAX_LENGTH:
                    raise ValueError(f"the run id {flags['xpid']} is longer than {MAX_LENGTH} characters")
            yield flags.get("xpid") or _flag_lines(flags), f"python -m {MODULES[config.command]}{_flag_lines(flags)}"


def _integer(config: ConfigFile, seed: Any) -> int:
    try:
        return int(seed)
    except ValueError:
        raise ValueError(f"{config.path}: seed={seed!r} must be an integer") from None


def _flag_lines(flags: Args) -> str:
    return "".join(f"{_SEPARATOR}--{name}={_quoted(as_text(value))}" for name, value in flags.items())


def _quoted(text: str) -> str:
    if text == "*":
        return '"*"'
    return text if _HARMLESS.fullmatch(text) else shlex.quote(text)


def wandb_flags(config: ConfigFile, options: argparse.Namespace) -> Args:
    """Flags of Weights & Biases; none if the configuration names no project."""
    if config.wandb_project is None:
        return {}
    stored: Args = {}
    if WANDB_FILE.is_file():
        try:
            stored = json.loads(WANDB_FILE.read_text(encoding="utf-8"))
        except (OSError, ValueError) as exc:
            raise ValueError(f"{WANDB_FILE} cannot be read as JSON: {exc}") from exc
        if not isinstance(stored, dict) or sorted(stored) != sorted(_WANDB_KEYS):
            raise ValueError(f"{WANDB_FILE}: expected an object with exactly the keys {' and '.join(_WANDB_KEYS)}")
    flags = {
        "wandb_project": options.wandb_project or config.wandb_project,
        "wandb_base_url": options.wandb_base_url or stored.get("base_url"),
        "wandb_api_key": options.wandb_api_key or stored.get("api_key"),
    }
    return {name: value for name, value in flags.items() if value}


def summary(config: ConfigFile, identities: Sequence[str]) -> str:
    """What ``--count`` prints."""
    swept = {name: len(values) for name, values in config.args.items() if len(values) > 1}
    total = 1
    for size in swept.values():
        total *= size
    lines = [f"Generated {len(set(identities))} unique commands.", *(["Sweep over"] if swept else [])]
    return "\n".join([*lines, *(f"{name}: {size}" for name, size in swept.items()), f"Total num settings: {total}"])


def copy_shipped(directory: Path) -> list[Path]:
    """Copy the shipped configurations; existing files stay as they are. Returns the new files."""
    copied = []
    for name in shipped_names():
        target = directory / f"{name}.json"
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(SHIPPED_DIR / f"{name}.json", target)
            copied.append(target)
    return copied


def _print_copied(directory: Path) -> int:
    try:
        copied = copy_shipped(directory)
    except OSError as exc:
        print(f"make_cmd: error: --dir={directory}: the files cannot be copied there: {exc}", file=sys.stderr)
        return USAGE_ERROR
    print("\n".join(map(str, copied)))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    survive_lost_output()
    options = parse_args(argv)
    if options.list:
        print("\n".join(shipped_names()))
        return 0
    if options.copy_shipped:
        return _print_copied(Path(options.dir).expanduser())
    try:
        config = load_config(find_config(options.config, options.dir))
        found = list(commands(config, options, wandb_flags(config, options)))
    except ValueError as exc:
        print(f"make_cmd: error: {exc}", file=sys.stderr)
        return USAGE_ERROR
    for _, text in found:
        print(f"{text}\n")
    if options.count:
        # Not among the commands, which may be on their way into a script.
        print(summary(config, [identity for identity, _ in found]), file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())

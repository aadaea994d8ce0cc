"""Start TensorBoard on the experiments whose folders match glob filters.

``python -m sample_factory.utils.tb 'my_sweep*' '*seed_1*' --dir=./train_dir``. TensorBoard is restarted periodically,
which picks up new experiments and releases the memory it accumulates.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from sample_factory.utils.logging import log


def tb_argparser() -> argparse.ArgumentParser:
    """The command line of this module."""
    parser = argparse.ArgumentParser(prog="python -m sample_factory.utils.tb", description=__doc__)
    parser.add_argument("filters", nargs="+", help="glob patterns of experiment folders, relative to --dir")
    parser.add_argument("--dir", default="./train_dir", help="folder that holds the experiments")
    parser.add_argument("--port", default=6006, type=int, help="port of the TensorBoard server")
    parser.add_argument("--quiet", "-q", action="store_true", help="hide the output of TensorBoard")
    parser.add_argument(
        "--refresh_every", "-r", default=36000, type=int, help="restart TensorBoard after this many seconds"
    )
    parser.add_argument(
        "--reload_interval", default=60, type=int, help="seconds between two reads of the summaries by TensorBoard"
    )
    return parser


def matching_dirs(root: str, filters: Sequence[str]) -> list[Path]:
    """Folders below `root` that match any of the glob filters, sorted, without repetition."""
    found = {path for pattern in filters for path in Path(root).glob(pattern) if path.is_dir()}
    return sorted(found)


def tensorboard_command(args: argparse.Namespace, dirs: Sequence[Path]) -> list[str]:
    """The TensorBoard command line for these folders, labelled by their path below `args.dir`."""
    usable = []
    for path in dirs:
        label = path.relative_to(args.dir).as_posix()
        if set(label) & set(":,") or set(str(path)) & set(":,"):
            log.warning("Skipping %s: TensorBoard cannot handle ':' or ',' in the name of a folder", path)
        else:
            usable.append(f"{label}:{path}")
    return [
        *[sys.executable, "-m", "tensorboard.main"],
        f"--port={args.port}",
        f"--logdir_spec={','.join(usable)}",
        f"--reload_interval={args.reload_interval}",
    ]


def main(argv: Sequence[str] | None = None) -> int:
    args = tb_argparser().parse_args(argv)
    while True:
        dirs = matching_dirs(args.dir, args.filters)
        if not dirs:
            log.error("No folder in %s matches %s", args.dir, " ".join(args.filters))
            return 1
        log.info("Monitoring %d folders:\n%s", len(dirs), "\n".join(str(path) for path in dirs))
        status = _run_tensorboard(tensorboard_command(args, dirs), args.refresh_every, args.quiet)
        if status is not None:
            return status


def _run_tensorboard(command: list[str], refresh_every_sec: float, quiet: bool) -> int | None:
    """Exit code if TensorBoard ended by itself, None when its time was up (then it has been stopped)."""
    output = subprocess.DEVNULL if quiet else None
    with subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            return process.wait(timeout=refresh_every_sec)
        except subprocess.TimeoutExpired:
            log.info("Restarting TensorBoard to pick up new experiments")
        except KeyboardInterrupt:
            log.info("Stopping TensorBoard")
            process.terminate()
            process.wait()
            return 0
        process.terminate()
        process.wait()
        return None


if __name__ == "__main__":
    sys.exit(main())

"""Throughput next to other libraries in the setting of W1: CartPole-v1, 64 environments, rollouts of 32, one epoch.

    python -m benchmarks.peers --peers_python=.venv-peers/bin/python --pufferlib_python=.venv-puffer/bin/python

All of them train two layers of 64 with ELU in minibatches of 1024 and one thread. Opponents:

- Stable-Baselines3 PPO with DummyVecEnv,
- plain_ppo.py, one file and one loop without a framework, over a list of environments, and over SyncVectorEnv,
- the same loop over PufferLib's Serial vectorisation, if ``--pufferlib_python`` has pufferlib 2.0 and PyTorch.

Each round runs everything once, one after another; ratios are those within a round.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.compare import Side, interpreter, measurement_text, ours_side
from benchmarks.measuring import LOCK_HELP, MachineLock, Measurement, TooFewReports, measure
from benchmarks.results_io import REPOSITORY, Row, paired_row, write_result
from benchmarks.workloads import WORKLOADS

_FOREVER_SEC = "1000000"
OURS = ("W1", "W1s")


@dataclass(frozen=True)
class Peer:
    """A program that prints the progress lines of this project, and the ratios to it that are aimed at."""

    name: str
    description: str
    script: str
    arguments: tuple[str, ...] = ()
    asked: Mapping[str, float] | None = None

    def command(self, python: str, seed: int) -> list[str]:
        script = str(REPOSITORY / "benchmarks" / self.script)
        return [python, script, f"--seconds={_FOREVER_SEC}", f"--seed={seed}", *self.arguments]


PEERS = (
    Peer("sb3", "Stable-Baselines3, DummyVecEnv", "peer_sb3.py", (), {"W1": 3.0, "W1s": 1.5}),
    Peer("plain", "plain loop, list of environments", "plain_ppo.py", ("--envs=list",)),
    Peer("plain_vector", "plain loop, SyncVectorEnv", "plain_ppo.py", ("--envs=gymnasium",)),
    Peer("pufferlib", "plain loop, PufferLib Serial", "plain_ppo.py", ("--envs=pufferlib",)),
)
# The fastest of these is "the best peer": they all run environments written in Python, like ours.
ASKED_OF_BEST = 2.5


def peer_rows(ours: Mapping[str, Sequence[Measurement]], peers: Mapping[str, Sequence[Measurement]]) -> list[Row]:
    """Rows "W1 / peer" from the runs of all rounds by name, and one for W1 next to the best peer of each round."""
    rows = []
    for peer in PEERS:
        for name in OURS if peer.name in peers else ():
            asked = (peer.asked or {}).get(name)
            row = paired_row(
                f"{name} / {peer.description}",
                _speeds(ours[name]),
                _speeds(peers[peer.name]),
                "frames/s",
                asked=f"{asked:g}x" if asked else None,
                extra={"cpu_ratio": _cpu_ratio(ours[name], peers[peer.name])},
            )
            rows.append(row)
    if peers:
        best = [max(runs, key=lambda run: run.frames_per_sec) for runs in zip(*peers.values(), strict=True)]
        extra = {"cpu_ratio": _cpu_ratio(ours["W1"], best)}
        speeds = (_speeds(ours["W1"]), _speeds(best))
        rows.append(paired_row("W1 / best peer", *speeds, "frames/s", asked=f"{ASKED_OF_BEST:g}x", extra=extra))
    return rows


def _speeds(runs: Sequence[Measurement]) -> list[float]:
    return [run.frames_per_sec for run in runs]


def _cpu_ratio(ours: Sequence[Measurement], peer: Sequence[Measurement]) -> float:
    pairs = zip(ours, peer, strict=True)
    return round(statistics.median(b.cpu_sec_per_million / a.cpu_sec_per_million for a, b in pairs), 3)


def main(argv: list[str] | None = None) -> int:
    args = _parse_args(argv)
    lock = MachineLock(args.lock)
    pythons = {peer.name: args.pufferlib_python if peer.name == "pufferlib" else args.peers_python for peer in PEERS}
    chosen = [peer for peer in PEERS if pythons[peer.name] and (not args.only or peer.name in args.only)]
    ours: dict[str, list[Measurement]] = {name: [] for name in OURS}
    peers: dict[str, list[Measurement]] = {peer.name: [] for peer in chosen}
    for seed in range(args.rounds):
        with lock, tempfile.TemporaryDirectory(prefix="sf_peers_") as folder:
            for name in OURS:
                side = ours_side()
                command = side.command(WORKLOADS[name], f"{folder}/{name}", seed)
                ours[name].append(_run(name, command, side, args.seconds, folder))
        with lock, tempfile.TemporaryDirectory(prefix="sf_peers_") as folder:
            for peer in chosen:
                side = Side(peer.name, pythons[peer.name])
                run = _run(peer.name, peer.command(side.python, seed), side, args.seconds, folder)
                peers[peer.name].append(run)
    rows = peer_rows(ours, peers)
    for row in rows:
        asked = f", asked {row.asked}" if row.asked else ""
        print(
            f"{row.label}: {row.ratio_median:.2f}x ({row.ratio_min:.2f} to {row.ratio_max:.2f}{asked}), "
            f"{row.extra['cpu_ratio']:.2f}x fewer CPU seconds per frame"
        )
    if args.save:
        missing = [] if args.pufferlib_python else ["PufferLib was not measured: --pufferlib_python was not given"]
        write_result("peers", rows, notes=missing)
    return 0


def _parse_args(argv: list[str] | None) -> Any:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--peers_python", type=interpreter, required=True, help="Python with stable-baselines3 and torch"
    )
    parser.add_argument("--pufferlib_python", type=interpreter, help="Python with pufferlib 2.0 and torch")
    parser.add_argument("--only", nargs="+", choices=[peer.name for peer in PEERS], metavar="PEER")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20.0, help="length of one run after its start-up")
    parser.add_argument("--lock", help=LOCK_HELP)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/throughput/peers.json")
    return parser.parse_args(argv)


def _run(name: str, command: Sequence[str], side: Side, seconds: float, folder: str) -> Measurement:
    try:
        run = measure(command, seconds, folder, side.environ("1"))
    except TooFewReports as problem:
        raise SystemExit(f"{name}: {problem}") from problem
    print(f"{name:12} {measurement_text(run)}", flush=True)
    return run


if __name__ == "__main__":
    sys.exit(main())

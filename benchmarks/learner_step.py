"""``Learner.train`` alone, side by side with Sample Factory 2: milliseconds per SGD step on a canned batch.

    python -m benchmarks.learner_step --original=/path/to/python --cases mlp_64 gru_512 --epochs 1 4

``--original`` is the Python of an environment that has ``sample-factory==2.1.1`` installed. For every case one process
of each implementation stays alive, and the two take turns in short slices, so that whatever else the machine does
meets both. Reported are medians of the slices and, as ``ratio``, the median (smallest, largest) of the ratios of
neighbouring slices, original over ours, by the clock and by CPU seconds. ``--extra-flags`` go to our side only.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.results_io import REPOSITORY, Row, write_result

CHILD = Path(__file__).with_name("learner_child.py")
VECTOR = {"shape": [4], "dtype": "float32", "num_actions": 2}
IMAGE = {"shape": [4, 84, 84], "dtype": "uint8", "num_actions": 6}
WITHOUT_RNN = ("--use_rnn=False",)
CASES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "mlp_64": (VECTOR, (*WITHOUT_RNN, "--encoder_mlp_layers", "64", "64")),
    "mlp_256": (VECTOR, (*WITHOUT_RNN, "--encoder_mlp_layers", "256", "256")),
    "gru_512": (VECTOR, ("--use_rnn=True",)),
    "convnet_atari": (
        IMAGE,
        (
            *WITHOUT_RNN,
            "--encoder_conv_architecture=convnet_atari",
            "--encoder_conv_mlp_layers",
            "512",
            "--nonlinearity=relu",
            "--obs_scale=255.0",
        ),
    ),
}

ASKED = {"mlp_256": "3x", "gru_512": "1.3x", "convnet_atari": "1.3x"}


@dataclass(frozen=True)
class Workload:
    """One row of the report."""

    case: str
    with_vtrace: bool
    num_epochs: int

    @property
    def name(self) -> str:
        return f"{self.case}{'_vtrace' if self.with_vtrace else ''}_epochs{self.num_epochs}"

    def flags(self) -> list[str]:
        # Written out: the original resolves the default of --recurrence outside of its learner.
        recurrence = 32 if self.with_vtrace or self.case.startswith("gru") else 1
        flags = ["--rollout=32", "--batch_size=1024", f"--num_epochs={self.num_epochs}", f"--recurrence={recurrence}"]
        if self.with_vtrace:
            flags += ["--with_vtrace=True", "--normalize_returns=False"]
        return [*flags, *CASES[self.case][1]]


class Child:
    """A process with one learner."""

    def __init__(
        self,
        python: str,
        workload: Workload,
        extra_flags: list[str],
        num_threads: int,
        is_ours: bool,
        device: str = "cpu",
    ) -> None:
        env = {key: value for key, value in os.environ.items() if key not in ("OMP_NUM_THREADS", "PYTHONPATH")}
        if num_threads > 0:
            env["OMP_NUM_THREADS"] = str(num_threads)
        if is_ours:
            env["PYTHONPATH"] = str(REPOSITORY)
        if device == "gpu":
            env["CUDA_VISIBLE_DEVICES"] = "0"
        problem = CASES[workload.case][0]
        extra_flags = [f"--device={device}", *extra_flags]
        command = [python, str(CHILD), json.dumps([*workload.flags(), *extra_flags]), json.dumps(problem)]
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - as long as the process
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=env,
            cwd=tempfile.gettempdir(),
        )
        self._read()

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._log.seek(0)
            raise RuntimeError(f"the process of a learner ended:\n{self._log.read()[-2000:]}")
        return line

    def run(self, num_iterations: int) -> dict[str, float]:
        """Seconds, CPU seconds and steps of so many training iterations."""
        assert self._process.stdin is not None
        print(num_iterations, file=self._process.stdin, flush=True)
        return json.loads(self._read())

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)


def summary(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def measure(workload: Workload, args: argparse.Namespace, num_threads: int) -> dict[str, Any]:
    """Milliseconds per SGD step of both sides and their ratios."""
    children = {
        "ours": Child(sys.executable, workload, args.extra_flags, num_threads, is_ours=True, device=args.device),
        "original": Child(args.original, workload, [], num_threads, is_ours=False, device=args.device),
    }
    try:
        # Iterations per slice, from one warm one.
        first = {side: child.run(2) and child.run(1) for side, child in children.items()}
        iterations = {side: max(1, round(args.slice_seconds / result["sec"])) for side, result in first.items()}
        millis: dict[str, dict[str, list[float]]] = {side: {"sec": [], "cpu_sec": []} for side in children}
        threads = {}
        for _ in range(args.slices):
            for side, child in children.items():
                result = child.run(iterations[side])
                threads[side] = int(result["threads"])
                for clock, values in millis[side].items():
                    values.append(1000.0 * result[clock] / result["steps"])
    finally:
        for child in children.values():
            child.close()
    pairs = {
        clock: [b / a for a, b in zip(millis["ours"][clock], millis["original"][clock], strict=True)]
        for clock in ("sec", "cpu_sec")
    }
    return {
        "workload": workload.name,
        "omp_num_threads": num_threads or None,
        "threads": threads,
        "ms_per_step": {side: summary(clocks["sec"]) for side, clocks in millis.items()},
        "cpu_ms_per_step": {side: summary(clocks["cpu_sec"]) for side, clocks in millis.items()},
        "ratio": summary(pairs["sec"]),
        "cpu_ratio": summary(pairs["cpu_sec"]),
    }


def print_row(result: dict[str, Any]) -> None:
    ms, cpu = result["ms_per_step"], result["cpu_ms_per_step"]
    ratio, cpu_ratio = result["ratio"], result["cpu_ratio"]
    print(
        f"{result['workload']:30} OMP {result['omp_num_threads'] or '-'} "
        f"ms/step {ms['ours']['median']:8.2f} / {ms['original']['median']:8.2f} "
        f"(CPU {cpu['ours']['median']:8.2f} / {cpu['original']['median']:8.2f})  "
        f"ratio {ratio['median']:.2f} ({ratio['min']:.2f}-{ratio['max']:.2f})  "
        f"CPU {cpu_ratio['median']:.2f} ({cpu_ratio['min']:.2f}-{cpu_ratio['max']:.2f})",
        flush=True,
    )


def result_row(result: dict[str, Any]) -> Row:
    """One measurement in the format of all throughput results."""
    ours, original = (result["ms_per_step"][side]["median"] for side in ("ours", "original"))
    ratio = result["ratio"]
    case = result["workload"].partition("_vtrace")[0].partition("_epochs")[0]
    return Row(
        f"{result['workload']}, {result['omp_num_threads'] or 'default'} threads",
        ours,
        "ms per SGD step",
        original,
        ratio["median"],
        ratio["min"],
        ratio["max"],
        ASKED.get(case),
        {key: value for key, value in result.items() if key != "ratio"},
    )


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--original", required=True, help="Python of an environment with sample-factory==2.1.1")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/throughput/learner_step.json")
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--vtrace", nargs="+", type=int, default=[0, 1], choices=[0, 1])
    parser.add_argument("--epochs", nargs="+", type=int, default=[1, 4])
    parser.add_argument(
        "--threads",
        nargs="+",
        type=int,
        default=[1, 0],
        help="OMP_NUM_THREADS; 0: not set, what a learner's own process uses",
    )
    parser.add_argument("--slices", type=int, default=7)
    parser.add_argument("--slice-seconds", type=float, default=0.5)
    parser.add_argument("--device", choices=["cpu", "gpu"], default="cpu", help="of both sides")
    parser.add_argument("--extra-flags", nargs="*", default=[], help="for our side, e.g. mixed_precision=bf16")
    parser.add_argument("--json", type=Path, help="write all numbers to this file")
    args = parser.parse_args(argv)
    args.extra_flags = [f"--{flag}" for flag in args.extra_flags]
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    results = []
    for case in args.cases:
        for with_vtrace in args.vtrace:
            for num_epochs in args.epochs:
                for num_threads in args.threads:
                    workload = Workload(case, bool(with_vtrace), num_epochs)
                    results.append(measure(workload, args, num_threads))
                    print_row(results[-1])
    if args.json is not None:
        args.json.write_text(json.dumps(results, indent=1) + "\n")
    if args.save:
        write_result("learner_step", [result_row(result) for result in results])
    return 0


if __name__ == "__main__":
    sys.exit(main())

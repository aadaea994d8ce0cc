"""Experiments move between Sample Factory 2 and this package, in both directions, and lose nothing.

    make compat                                                       # builds an environment with the published wheel
    python -m tests.compat.against_sample_factory_2 --original=.venv-sf2/bin/python

For every kind of model: an agent trained here gives the same answers in the original (values, logits, hidden states,
entropy within 1e-5), the original goes on training it, and so does this package with an experiment the original has
just begun. Step counts continue exactly. Prints one line per check and exits with 1 if any failed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

AGENT = Path(__file__).with_name("agent.py")
TOLERANCE = 1e-5
RUN_TIME_LIMIT_SEC = 300
BATCH_SIZE = 64

COMMON = (
    "--device=cpu",
    "--num_workers=1",
    "--num_envs_per_worker=4",
    "--worker_num_splits=2",
    "--rollout=8",
    f"--batch_size={BATCH_SIZE}",
    "--encoder_mlp_layers",
    "32",
    "--rnn_size=16",
    "--decorrelate_envs_on_one_worker=False",
    "--seed=1",
)
SERIAL = ("--serial_mode=True", "--async_rl=False")


@dataclass(frozen=True)
class Case:
    name: str
    flags: tuple[str, ...]
    env: str = "CartPole-v1"
    env_steps: int = 2000


CASES = (
    Case("mlp_discrete", ("--use_rnn=False", *SERIAL)),
    Case("mlp_discrete_async", ("--use_rnn=False",)),
    Case("gru", ("--use_rnn=True", "--rnn_type=gru", *SERIAL)),
    Case("lstm_2_layers", ("--use_rnn=True", "--rnn_type=lstm", "--rnn_num_layers=2", *SERIAL)),
    Case("separate_weights", ("--use_rnn=False", "--actor_critic_share_weights=False", *SERIAL)),
    Case("continuous_fixed_std", ("--use_rnn=False", "--adaptive_stddev=False", *SERIAL), env="Pendulum-v1"),
    Case(
        "conv_atari",
        (
            "--use_rnn=False",
            "--encoder_conv_architecture=convnet_atari",
            "--obs_scale=255.0",
            "--nonlinearity=relu",
            *SERIAL,
        ),
        env="pixels",
        env_steps=500,
    ),
)


class Failed(Exception):
    """A check did not hold."""


class Agents:
    """Runs ``agent.py`` under one of the two interpreters on one train dir."""

    def __init__(self, train_dir: Path, interpreters: dict[str, str]):
        self.train_dir = train_dir
        self.interpreters = interpreters

    def _run(self, version: str, command: str, *args: str) -> None:
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        environment |= {"OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}
        if version == "here":
            environment["PYTHONPATH"] = str(Path(__file__).parents[2])
        done = subprocess.run(
            [self.interpreters[version], str(AGENT), command, f"--train_dir={self.train_dir}", *args],
            cwd=self.train_dir,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=RUN_TIME_LIMIT_SEC,
            check=False,
        )
        if done.returncode != 0:
            raise Failed(f"{command} ({version}) exited with {done.returncode}:\n{done.stdout[-4000:]}")

    def train(self, version: str, case: Case, experiment: str, env_steps: int) -> tuple[int, int]:
        """Train up to ``env_steps``; returns train step and env steps of the newest checkpoint."""
        args = (f"--env={case.env}", f"--experiment={experiment}", f"--train_for_env_steps={env_steps}")
        self._run(version, "train", *args, *COMMON, *case.flags)
        newest = max((self.train_dir / experiment / "checkpoint_p0").glob("checkpoint_*.pth"))
        train_step, steps = map(int, newest.stem.split("_")[1:])
        if steps <= env_steps:
            raise Failed(f"{version} stopped at {steps} of {env_steps} steps")
        return train_step, steps

    def probe(self, version: str, case: Case, experiment: str) -> dict[str, np.ndarray]:
        output = self.train_dir / f"{experiment}_{version}.npz"
        self._run(version, "probe", f"--env={case.env}", f"--experiment={experiment}", f"--output={output}")
        return dict(np.load(output))


def check_same_answers(agents: Agents, case: Case, experiment: str) -> str:
    here, original = (agents.probe(version, case, experiment) for version in ("here", "original"))
    worst = 0.0
    for key, expected in original.items():
        if here[key].shape != expected.shape:
            raise Failed(f"{key} has shape {here[key].shape} here, {expected.shape} in the original")
        worst = max(worst, float(np.abs(here[key] - expected).max()))
    if not worst <= TOLERANCE:
        raise Failed(f"answers differ by {worst}")
    return f"largest difference {worst:.1e}"


def check_continued(before: tuple[int, int], after: tuple[int, int]) -> str:
    steps, env_steps = after[0] - before[0], after[1] - before[1]
    if steps <= 0 or env_steps != steps * BATCH_SIZE:
        raise Failed(f"from {before} to {after} (train step, env steps): {env_steps} frames in {steps} steps")
    return f"train step {before[0]} -> {after[0]}, env steps {before[1]} -> {after[1]}"


def checks(agents: Agents, case: Case) -> Iterator[tuple[str, str]]:
    """Name and outcome of each check; raises at the first that fails."""
    more = 2 * case.env_steps
    experiment = f"{case.name}_begun_here"
    begun = agents.train("here", case, experiment, case.env_steps)
    yield "trained here, same answers in the original", check_same_answers(agents, case, experiment)
    resumed = agents.train("original", case, experiment, begun[1] + case.env_steps)
    yield "begun here, resumed by the original", check_continued(begun, resumed)
    again = agents.train("here", case, experiment, resumed[1] + case.env_steps)
    yield "and back again", check_continued(resumed, again)

    experiment = f"{case.name}_begun_there"
    begun = agents.train("original", case, experiment, case.env_steps)
    yield "trained by the original, same answers here", check_same_answers(agents, case, experiment)
    resumed = agents.train("here", case, experiment, begun[1] + more)
    yield "begun by the original, resumed here", check_continued(begun, resumed)
    yield "still the same answers in both", check_same_answers(agents, case, experiment)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--original", required=True, help="Python interpreter that has sample-factory 2 installed")
    parser.add_argument("--cases", nargs="*", default=[case.name for case in CASES], choices=[c.name for c in CASES])
    args = parser.parse_args()

    num_failed = 0
    with tempfile.TemporaryDirectory(prefix="sf_compat_") as train_dir:
        agents = Agents(Path(train_dir), {"here": sys.executable, "original": os.path.abspath(args.original)})
        for case in CASES:
            if case.name not in args.cases:
                continue
            try:
                for name, outcome in checks(agents, case):
                    print(f"ok      {case.name:22} {name}: {outcome}", flush=True)
            except (Failed, subprocess.TimeoutExpired) as exc:
                num_failed += 1
                print(f"FAILED  {case.name:22} {exc}", flush=True)
    print(f"{num_failed} of {len(args.cases)} kinds of model failed" if num_failed else "all compatible")
    return 1 if num_failed else 0


if __name__ == "__main__":
    sys.exit(main())

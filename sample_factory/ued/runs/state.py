"""What a checkpoint holds, and how a run goes on from it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from sample_factory.ued.curricula.common import CycleReport
from sample_factory.ued.random_state import restore_generator
from sample_factory.ued.runs.assembly import Parts
from sample_factory.ued.runs.checkpoint import Checkpoint, check_weights
from sample_factory.ued.runs.ranks import Ranks
from sample_factory.utils.checkpoint_files import CheckpointError


@dataclass
class Counters:
    """Cycles, and environment steps of all ranks by purpose."""

    tick: int = 0
    steps: int = 0
    mutation_steps: int = 0
    teacher_steps: int = 0
    scan_steps: int = 0

    def add(self, report: CycleReport, num_ranks: int) -> None:
        """Count a cycle in which every rank did as much as this one (about as much, when it searched levels)."""
        self.tick += 1
        self.steps += report.env_steps * num_ranks
        self.mutation_steps += report.mutation_steps * num_ranks
        self.teacher_steps += report.teacher_steps * num_ranks
        self.scan_steps += report.scan_steps * num_ranks


def capture(
    parts: Parts, counters: Counters, ranks: Ranks, config: dict[str, Any], pending: dict[str, float]
) -> Checkpoint | None:
    """Everything that a continuation needs, on rank 0; None on the others. All ranks have to call it.

    ``pending``: results of an evaluation that are not logged yet.
    """
    own = parts.curriculum.state_dict()
    agents = {"students": own.pop("students"), "teacher": own.pop("teacher")}  # equal on all ranks
    by_rank = ranks.gather({"curriculum": own, "evaluation_generator": parts.evaluation_generator.get_state()})
    if by_rank is None:
        return None
    return {
        "config": config,
        "counters": asdict(counters),
        "pending": pending,
        "agents": agents,
        "ranks": by_rank,
    }


def restore(path: Path, checkpoint: Checkpoint, parts: Parts, ranks: Ranks) -> tuple[Counters, dict[str, float]]:
    """Put the parts into the state of the checkpoint; returns its counters and pending results.

    CheckpointError, before any file is changed, if the checkpoint is of another kind of run.
    """
    if len(checkpoint["ranks"]) != ranks.size:
        raise CheckpointError(
            f"{path} was written with --n_devices={len(checkpoint['ranks'])}, this run has {ranks.size}; "
            "continue with the same number, or choose another --xpid"
        )
    _check_agents(path, checkpoint, parts)
    own = checkpoint["ranks"][ranks.rank]
    try:
        parts.curriculum.load_state_dict({**own["curriculum"], **checkpoint["agents"]})
    except (ValueError, RuntimeError, KeyError) as exc:
        raise CheckpointError(f"{path} does not fit this run: {exc}") from exc
    restore_generator(parts.evaluation_generator, own["evaluation_generator"])
    known = {field.name for field in fields(Counters)}
    counters = Counters(**{name: value for name, value in checkpoint["counters"].items() if name in known})
    return counters, dict(checkpoint["pending"])


def _check_agents(path: Path, checkpoint: Checkpoint, parts: Parts) -> None:
    runner, own = checkpoint["config"]["train_runner"], parts.curriculum
    saved, teacher = checkpoint["agents"]["students"], checkpoint["agents"]["teacher"]
    if len(saved) != len(own.students):
        raise CheckpointError(
            f"{path} holds {len(saved)} students, this run has {len(own.students)}; continue with the same "
            "--n_students, or choose another --xpid"
        )
    if (teacher is None) != (own.agents.teacher is None):
        raise CheckpointError(
            f"{path} was written with --train_runner={runner}; continue with the same, or choose another --xpid"
        )
    for index, (state, student) in enumerate(zip(saved, own.students, strict=True)):
        check_weights(path, f"student {index}", state["model"], student.model.state_dict())
    if teacher is not None and own.agents.teacher is not None:
        check_weights(path, "teacher", teacher["model"], own.agents.teacher.model.state_dict())

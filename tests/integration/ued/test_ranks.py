"""Several processes train one set of students: real gloo groups."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch

from sample_factory.ued.config.nested import Config
from sample_factory.ued.config.train_args import parse_train_args
from sample_factory.ued.runs import checkpoint
from sample_factory.ued.runs.assembly import make_parts
from sample_factory.ued.runs.ranks import Ranks
from tests.integration.ued.harness import METHODS, TINY, rows, train

pytestmark = [pytest.mark.multiproc, pytest.mark.timeout(300)]

NUM_RANKS = 2
CPU = torch.device("cpu")


def in_ranks(function: Any, folder: Path, *args: Any) -> list[Any]:
    """Results of ``function(ranks, *args)`` in processes that have met."""
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    processes = [
        context.Process(target=call_in_rank, args=(function, rank, str(folder / "meet"), queue, args), daemon=True)
        for rank in range(NUM_RANKS)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(100)
    assert [process.exitcode for process in processes] == [0] * NUM_RANKS
    results = dict(queue.get() for _ in processes)
    return [torch.load(results[rank], weights_only=True) for rank in range(NUM_RANKS)]


def call_in_rank(function: Any, rank: int, meeting_point: str, queue: Any, args: Any) -> None:
    torch.set_num_threads(1)
    ranks = Ranks(rank, NUM_RANKS)
    ranks.connect(meeting_point, CPU)
    path = f"{meeting_point}_result_{rank}"
    torch.save(function(ranks, *args), path)
    queue.put((rank, path))
    ranks.disconnect()


# --- operations ---


def all_operations(ranks: Ranks) -> dict[str, Any]:
    rank = ranks.rank
    matrix, complex_numbers = torch.full((2, 2), float(rank)), torch.tensor([1 + 2j, 3j]) * (rank + 1)
    ranks.average([matrix, complex_numbers])
    return {
        "matrix": matrix,
        "complex": complex_numbers,
        "stats": ranks.average_stats({"a": 1.0 + rank, "b": 5.0 if rank else None, "c": None, "n": 3}),
        "any": [ranks.any(False), ranks.any(rank == 1), ranks.any(True)],
        "all": [ranks.all(False), ranks.all(rank == 1), ranks.all(True)],
        "of_main": [ranks.of_main(rank == 0), ranks.of_main(rank == 1)],
        "gather": ranks.gather(rank * 10),
    }


def test_operations(tmp_path: Path) -> None:
    first, second = in_ranks(all_operations, tmp_path)
    assert (first.pop("gather"), second.pop("gather")) == ([0, 10], None)
    for result in (first, second):
        assert torch.equal(result["matrix"], torch.full((2, 2), 0.5))
        assert torch.equal(result["complex"], torch.tensor([1 + 2j, 3j]) * 1.5)
        assert result["stats"] == {"a": 1.5, "b": 5.0, "c": None, "n": 3}
        assert type(result["stats"]["n"]) is int
        assert (result["any"], result["all"], result["of_main"]) == (
            [False, True, True],
            [False, False, True],
            [True, False],
        )


def test_one_process_sends_nothing() -> None:
    ranks = Ranks()
    tensor = torch.ones(2)
    ranks.average([tensor])
    assert tensor.tolist() == [1.0, 1.0]
    assert ranks.average_stats({"a": None, "b": 2.0}) == {"a": None, "b": 2.0}
    assert (ranks.any(True), ranks.all(False), ranks.of_main(True), ranks.gather(3)) == (True, False, True, [3])


# --- training ---


def train_cycles(ranks: Ranks, config: dict[str, Any], num_cycles: int) -> dict[str, Any]:
    parts = make_parts(Config.of(config), ranks, CPU)
    replayed = []
    for _ in range(num_cycles):
        before = parts.curriculum.students[0].n_updates
        parts.curriculum.run_cycle()
        replayed.append(parts.curriculum.students[0].n_updates > before)
    state = parts.curriculum.state_dict()
    agents = [*state["students"], *([] if state["teacher"] is None else [state["teacher"]])]
    return {"agents": agents, "generator": state["generator"], "replayed": replayed, "buffers": state["buffers"]}


@pytest.mark.parametrize("method", ["accel", "paired"])
def test_weights_stay_equal_and_levels_do_not(method: str, tmp_path: Path) -> None:
    config = parse_train_args([*TINY, *METHODS[method], "--n_devices=2"]).config.plain()
    first, second = in_ranks(train_cycles, tmp_path, config, 6)
    untrained = [s.model for s in make_parts(Config.of(config), Ranks(), CPU).curriculum.students]
    for mine, other in zip(first["agents"], second["agents"], strict=True):
        assert mine["n_updates"] == other["n_updates"] > 0
        assert all(torch.equal(mine["model"][name], other["model"][name]) for name in mine["model"])
    for student, model in zip(first["agents"], untrained, strict=False):
        moved = [not torch.equal(student["model"][name], value) for name, value in model.state_dict().items()]
        assert any(moved)
    assert not torch.equal(first["generator"], second["generator"])
    assert first["replayed"] == second["replayed"]
    for mine, other in zip(first["buffers"], second["buffers"], strict=True):
        assert not torch.equal(mine["levels"]["wall_map"], other["levels"]["wall_map"])


def average_gradients(ranks: Ranks) -> dict[str, torch.Tensor]:
    """Gradient of a mean over this rank's half of a batch, averaged over ranks."""
    weight = torch.tensor([1.0, -2.0, 0.5], requires_grad=True)
    data = torch.arange(12.0).view(4, 3).sin()
    half = data[2 * ranks.rank : 2 * ranks.rank + 2]
    (half @ weight).square().mean().backward()
    assert weight.grad is not None
    ranks.average([weight.grad])
    return {"grad": weight.grad}


def test_averaged_gradients_are_those_of_the_whole_batch(tmp_path: Path) -> None:
    weight = torch.tensor([1.0, -2.0, 0.5], requires_grad=True)
    (torch.arange(12.0).view(4, 3).sin() @ weight).square().mean().backward()
    for result in in_ranks(average_gradients, tmp_path):
        torch.testing.assert_close(result["grad"], weight.grad)


def test_a_run_of_two_ranks_can_be_resumed_exactly(tmp_path: Path) -> None:
    flags = (*METHODS["robust_plr"], "--n_devices=2")
    train(tmp_path, *flags, "--n_total_updates=3", xpid="whole")
    train(tmp_path, *flags, "--n_total_updates=1", xpid="parts")
    train(tmp_path, *flags, "--n_total_updates=3", "--from_last_checkpoint", xpid="parts")
    whole = rows(tmp_path / "whole")
    assert rows(tmp_path / "parts") == whole
    # 4 levels of 16 steps, however many processes share them.
    assert [int(row["steps"]) for row in whole] == [64 * (i + 1) for i in range(len(whole))]
    stored = checkpoint.load(tmp_path / "whole" / "checkpoint.pt")
    assert len(stored["ranks"]) == 2 and "students" not in stored["ranks"][0]["curriculum"]

    output = train(tmp_path, *METHODS["robust_plr"], "--from_last_checkpoint", xpid="parts", expected=2)
    assert "was written with --n_devices=2, this run has 1" in output
    output = train(tmp_path, *flags, "--student_hidden_dim=16", "--from_last_checkpoint", xpid="parts", expected=2)
    assert output.count("error: ") == 1 and "another network of the student 0" in output
    assert rows(tmp_path / "parts") == whole

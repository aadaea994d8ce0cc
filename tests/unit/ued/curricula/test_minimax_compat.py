"""--ued_compat=minimax arrives everywhere: what runs built from flags do with it and without it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tests.unit.ued.curricula.maze_runs import ACCEL, REPLAY, make_run

HARD = ACCEL | {"plr_mutation_criterion": "hard", "plr_mutation_subsample_size": 1}
both = pytest.mark.parametrize("compat", ["none", "minimax"])


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@both
def test_directions_tell_levels_apart(compat: str) -> None:
    run: Any = make_run(**REPLAY | {"plr_force_unique": True, "ued_compat": compat})
    level = run.env.sample_levels(1, seeded())
    turned = replace(level.repeat_interleave(4), agent_dir=torch.arange(4))
    assert run._replays[0].batch(turned).first.tolist() == ([0] * 4 if compat == "minimax" else [0, 1, 2, 3])


@both
def test_parents_are_found_by_their_place_in_the_batch(compat: str) -> None:
    run: Any = make_run(**HARD | {"ued_compat": compat, "plr_n_mutations": 1})
    levels = run.env.sample_levels(4, seeded())
    assert len(levels.agent_pos.unique(dim=0)) == 4
    slots, scores = np.array([5, 6, 1, 7]), np.array([0.1, 0.2, 0.9, 0.3])
    mutants, parents = run._mutants(levels, slots, scores)
    assert parents.tolist() == [1] * 4
    # edits leave the agent where it is; minimax takes the slot for a place
    expected = levels.agent_pos[1 if compat == "minimax" else 2]
    assert torch.equal(mutants.agent_pos, expected.expand(4, 2))


@both
def test_best_returns_are_kept(compat: str) -> None:
    flags = {"plr_replay_prob": 1.0, "plr_buffer_size": 4, "plr_min_fill_ratio": 1.0, "ued_compat": compat}
    run: Any = make_run(**REPLAY | flags)
    buffer = run.buffers[0]
    while not buffer.is_warm:
        run.run_cycle()
    buffer.max_returns[:] = 5.0
    run.run_cycle()
    played = buffer.scores > 3.0  # the best return known minus values near 0
    assert played.any()
    assert (buffer.max_returns[~played] == 5.0).all()
    assert ((buffer.max_returns[played] == 5.0) == (compat == "none")).all()

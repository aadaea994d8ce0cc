"""Edits of levels, and which levels are equal."""

from __future__ import annotations

import pytest
import torch

from sample_factory.ued.envs.maze.level import MazeLevels, check_maze_levels, levels_from_text
from sample_factory.ued.envs.maze.mutation import mutate
from sample_factory.ued.envs.registration import get_comparator, make_ued_env

COPIES = 30_000


def copies_of(text: str, count: int = COPIES) -> MazeLevels:
    return levels_from_text([text]).repeat_interleave(count)


def test_no_edits_no_change() -> None:
    levels = make_ued_env("Maze").sample_levels(5, torch.Generator().manual_seed(0))
    edited = mutate(levels, 0, torch.Generator())
    assert all(torch.equal(value, getattr(levels, name)) for name, value in edited.as_dict().items())
    assert edited.wall_map.data_ptr() != levels.wall_map.data_ptr()


def test_one_edit_has_the_stated_probabilities() -> None:
    levels = copies_of(">.#\n..G")
    edited = mutate(levels, 1, torch.Generator().manual_seed(1))
    check_maze_levels(edited)
    flipped = (edited.wall_map != levels.wall_map).flatten(1)
    goal = edited.tile_index(edited.goal_pos)
    shares = flipped.double().mean(0)
    # a third of the edits flip one of the four tiles without agent and goal
    assert shares.tolist() == pytest.approx([0, 1 / 12, 1 / 12, 1 / 12, 1 / 12, 0], abs=0.006)
    assert int(flipped.sum(1).max()) == 1
    # another third moves the goal to one of the three free tiles that are neither agent nor goal
    moved = torch.bincount(goal, minlength=6).double() / COPIES
    assert moved.tolist() == pytest.approx([0, 1 / 9, 0, 1 / 9, 1 / 9, 2 / 3], abs=0.01)
    assert not bool((flipped.any(1) & (goal != 5)).any())
    assert torch.equal(edited.agent_pos, levels.agent_pos)
    assert torch.equal(edited.agent_dir, levels.agent_dir)


def test_a_goal_without_another_free_tile_stays() -> None:
    levels = copies_of(">G##", 200)
    edited = mutate(levels, 1, torch.Generator().manual_seed(2))
    assert torch.equal(edited.goal_pos, levels.goal_pos)
    check_maze_levels(edited)


def test_twenty_edits_of_empty_mazes() -> None:
    """6.4 walls on average with minimax 0.2.0."""
    generator = torch.Generator().manual_seed(3)
    levels = make_ued_env("Maze", n_walls=0).sample_levels(4000, generator)
    edited = mutate(levels, 20, generator)
    check_maze_levels(edited)
    assert float(edited.wall_map.sum((1, 2)).double().mean()) == pytest.approx(6.4, abs=0.15)
    assert not bool(levels.wall_map.any())


def test_edits_cannot_be_negative() -> None:
    with pytest.raises(ValueError, match="at least 0, got -1"):
        mutate(copies_of(">G", 1), -1, torch.Generator())


def test_equality_of_levels() -> None:
    levels = levels_from_text([">.G.", "v.G.", ">#G.", ">..G", ".>G."])
    turned = [[i == j or {i, j} == {0, 1} for j in range(5)] for i in range(5)]
    exact = [[i == j for j in range(5)] for i in range(5)]
    assert get_comparator("Maze")(levels, levels).tolist() == exact
    assert get_comparator("Maze", "ignore_direction")(levels, levels).tolist() == turned


def test_equality_against_a_plain_comparison() -> None:
    generator = torch.Generator().manual_seed(4)
    levels = make_ued_env("Maze", height=2, width=2, n_walls=1).sample_levels(60, generator)
    others = make_ued_env("Maze", height=2, width=2, n_walls=1).sample_levels(40, generator)
    fields = [[tuple(v[i].flatten().tolist()) for v in levels.as_dict().values()] for i in range(60)]
    other_fields = [[tuple(v[i].flatten().tolist()) for v in others.as_dict().values()] for i in range(40)]
    expected = [[a == b for b in other_fields] for a in fields]
    same = get_comparator("Maze")(levels, others)
    assert same.tolist() == expected
    assert 0 < int(same.sum()) < same.numel()


def test_levels_of_different_sizes_are_not_compared() -> None:
    with pytest.raises(ValueError, match="different sizes"):
        get_comparator("Maze")(levels_from_text([">G"]), levels_from_text([">.G"]))

"""The environment in which a teacher builds mazes: recorded episodes, and properties of random ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sample_factory.ued.envs.maze.env import MazeEnv
from sample_factory.ued.envs.maze.level import MazeLevels, check_maze_levels
from sample_factory.ued.envs.maze.teacher import MazeTeacherEnv, MazeTeacherState
from sample_factory.ued.envs.registration import make_teacher_env, make_ued_env

FIXED = {"fixed_n_wall_steps": True}
REPLACE = {"replace_wall_pos": True}
BUDGET = {"first_wall_pos_sets_budget": True}
DIRECTION = {"set_agent_dir": True}
NOWHERE = (5, 5)


def make_teacher(size: int = 5, n_walls: int = 3, **options: Any) -> MazeTeacherEnv:
    student = make_ued_env("Maze", height=size, width=size, n_walls=0)
    teacher = make_teacher_env("Maze", student, n_walls=n_walls, **options)
    assert isinstance(teacher, MazeTeacherEnv)
    return teacher


def play(
    teacher: MazeTeacherEnv, actions: list[int], copies: int = 1, seed: int = 0
) -> tuple[MazeTeacherState, MazeLevels]:
    generator = torch.Generator().manual_seed(seed)
    state = teacher.reset(copies, generator)
    for action in actions:
        teacher.step(state, torch.full((copies,), action), generator)
    return state, teacher.decode(state)


def wall_tiles(levels: MazeLevels, index: int = 0) -> set[int]:
    return set(levels.wall_map[index].flatten().nonzero().flatten().tolist())


# Recorded from minimax 0.2.0: 5x5 tiles, three walls.
RECORDED: list[tuple[dict[str, Any], list[int], set[int], tuple[int, int], tuple[int, int]]] = [
    (FIXED | REPLACE, [7, 7, 12, 12, 3], {7}, (2, 2), (3, 0)),
    (REPLACE, [16, 5, 6, 9, 20, 21], {5, 6}, (4, 1), (0, 4)),
    (REPLACE, [24, 5, 6, 9, 20, 21], {5, 6, 9}, (0, 4), (1, 4)),
    (REPLACE, [0, 5, 6, 9, 20, 21], set(), (0, 1), (1, 1)),
    (BUDGET | REPLACE, [16, 5, 6, 9, 20], {5, 16}, (1, 1), (4, 1)),
    (FIXED | REPLACE | DIRECTION, [7, 8, 12, 20, 3, 13], {7, 8, 12}, (0, 4), (3, 0)),
]


@pytest.mark.parametrize(("options", "actions", "walls", "goal", "agent"), RECORDED)
def test_recorded_episodes(
    options: dict[str, Any], actions: list[int], walls: set[int], goal: tuple[int, int], agent: tuple[int, int]
) -> None:
    teacher = make_teacher(**options)
    assert teacher.episode_length == len(actions)
    state, levels = play(teacher, actions)
    assert state.choices[0, : len(actions)].tolist() == actions
    assert wall_tiles(levels) == walls
    assert tuple(levels.goal_pos[0].tolist()) == goal
    assert tuple(levels.agent_pos[0].tolist()) == agent
    if options.get("set_agent_dir"):
        assert levels.agent_dir.tolist() == [2]


@pytest.mark.parametrize(
    ("mode", "num_steps"),
    [(FIXED, 8), (BUDGET, 8), ({}, 9), (FIXED | DIRECTION, 9), (BUDGET | DIRECTION, 9), (DIRECTION, 10)],
)
def test_episodes_have_a_constant_length(mode: dict[str, bool], num_steps: int) -> None:
    teacher = make_teacher(n_walls=6, **mode)
    assert teacher.episode_length == num_steps
    # a direction that the teacher does not choose has an entry of its own
    assert teacher.reset(2, torch.Generator()).choices.shape == (2, num_steps + (not mode.get("set_agent_dir", False)))


def test_a_budget_of_no_walls_makes_the_first_tile_the_goal() -> None:
    _, levels = play(make_teacher(**BUDGET, **REPLACE), [3, 5, 6, 9, 20])
    assert wall_tiles(levels) == set()
    assert levels.goal_pos.tolist() == [[3, 0]]
    assert levels.agent_pos.tolist() == [[0, 1]]


def test_the_tile_of_the_budget_step_stays_free() -> None:
    state, _ = play(make_teacher(), [24, 24, 5, 6, 7, 8], copies=50)
    assert state.choices[:, :6].tolist() == [[24, 24, 5, 6, 7, 8]] * 50
    # where the first tile is a wall as well as the budget, it is taken
    state, _ = play(make_teacher(**BUDGET), [24, 24], copies=50)
    assert not bool((state.choices[:, 1] == 24).any())


def test_what_was_taken_does_not_matter_for_the_direction() -> None:
    state, levels = play(make_teacher(**FIXED, **DIRECTION), [7, 8, 12, 20, 3, 7], copies=50)
    assert state.choices.tolist() == [[7, 8, 12, 20, 3, 7]] * 50
    assert levels.agent_dir.tolist() == [1] * 50


def test_tiles_are_directions_by_quarters() -> None:
    teacher = make_teacher(**FIXED, **DIRECTION)
    state, _ = play(teacher, [7, 8, 12, 20, 3], copies=25)
    teacher.step(state, torch.arange(25), torch.Generator())
    assert teacher.decode(state).agent_dir.tolist() == [0] * 7 + [1] * 6 + [2] * 6 + [3] * 6


# The budget of tile 16 is two walls: goal and agent are the fourth and fifth choice, or the third and fourth.
@pytest.mark.parametrize(
    ("mode", "actions", "taken", "agent_entry"),
    [({}, [16, 5, 6, 9, 9], {5, 6, 9}, 4), (BUDGET, [16, 5, 9, 9], {16, 5, 9}, 3)],
)
def test_agents_on_the_goal_are_moved_in_every_mode(
    mode: dict[str, bool], actions: list[int], taken: set[int], agent_entry: int
) -> None:
    state, levels = play(make_teacher(**mode, **REPLACE), actions, copies=1000)
    assert set(state.choices[:, agent_entry].tolist()) == set(range(25)) - taken
    assert levels.goal_pos.tolist() == [[4, 1]] * 1000
    check_maze_levels(levels)


def test_unused_wall_steps_change_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    teacher = make_teacher(**REPLACE)
    state, before = play(teacher, [0, 5, 6], copies=20)
    for _ in range(3):
        teacher.step(state, torch.randint(0, 25, (20,), generator=generator), generator)
        after = teacher.decode(state)
        assert all(torch.equal(value, getattr(after, name)) for name, value in before.as_dict().items())


def test_normalised_pictures_are_tenths_of_the_codes() -> None:
    images = []
    for normalize_obs in (True, False):
        teacher = make_teacher(**FIXED, normalize_obs=normalize_obs)
        state, _ = play(teacher, [7, 8, 12, 20, 3])
        images.append(teacher.observe(state, torch.Generator())["image"])
    assert images[0].dtype == torch.float32
    torch.testing.assert_close(images[0], images[1].float() / 10)


def test_recorded_agent_on_the_goal_is_moved_to_a_random_free_tile() -> None:
    state, levels = play(make_teacher(**FIXED, **REPLACE), [7, 7, 12, 3, 3], copies=2000)
    assert state.choices[0, :4].tolist() == [7, 7, 12, 3]
    chosen = torch.bincount(state.choices[:, 4], minlength=25)
    assert set(chosen.nonzero().flatten().tolist()) == set(range(25)) - {7, 12, 3}
    assert (chosen[chosen > 0] / 2000).tolist() == pytest.approx([1 / 22] * 22, abs=0.02)
    check_maze_levels(levels)


def test_recorded_collisions_without_replacement() -> None:
    state, levels = play(make_teacher(**FIXED), [7] * 5, copies=200)
    assert bool((state.choices[:, 0] == 7).all())
    assert all(len(set(row[:5])) == 5 for row in state.choices.tolist())
    check_maze_levels(levels)
    assert levels.wall_map.sum((1, 2)).unique().tolist() == [3]


def test_levels_under_construction() -> None:
    teacher = make_teacher(**FIXED, **REPLACE)
    generator = torch.Generator().manual_seed(0)
    state = teacher.reset(1, generator)
    expected = [
        (set(), NOWHERE, NOWHERE),
        ({7}, NOWHERE, NOWHERE),
        ({7, 8}, NOWHERE, NOWHERE),
        ({7, 8, 12}, NOWHERE, NOWHERE),
        ({7, 12}, (3, 1), NOWHERE),
        ({12}, (3, 1), (2, 1)),
    ]
    for action, (walls, goal, agent) in zip([7, 8, 12, 8, 7, None], expected, strict=True):
        levels = teacher.decode(state)
        assert wall_tiles(levels) == walls
        assert tuple(levels.goal_pos[0].tolist()) == goal
        assert tuple(levels.agent_pos[0].tolist()) == agent
        if action is not None:
            teacher.step(state, torch.tensor([action]), generator)
    with pytest.raises(IndexError, match="over after 5 steps"):
        teacher.step(state, torch.tensor([0]), generator)


def test_picture_of_a_level_under_construction() -> None:
    teacher = make_teacher(**FIXED, **REPLACE, **DIRECTION, normalize_obs=False)
    generator = torch.Generator().manual_seed(0)
    state = teacher.reset(2, generator)
    empty = teacher.observe(state, generator)["image"][..., 0]
    assert bool((empty[:, 1:-1, 1:-1] == 1).all())
    assert int((empty == 2).sum()) == 2 * (49 - 25)
    for action in (7, 8, 12, 24, 3):
        teacher.step(state, torch.tensor([action, action]), generator)
    image = teacher.observe(state, generator)["image"]
    assert image.dtype == torch.uint8
    assert image[0, 2, 3].tolist() == [2, 5, 0]
    assert image[0, 5, 5].tolist() == [8, 1, 0]
    assert image[0, 1, 4].tolist() == [10, 0, 0]
    teacher.step(state, torch.tensor([24, 0]), generator)
    assert teacher.observe(state, generator)["image"][:, 1, 4].tolist() == [[10, 0, 3], [10, 0, 0]]


def test_sizes_of_the_default_problem() -> None:
    teacher = make_teacher(13, 60, **FIXED, **REPLACE)
    generator = torch.Generator().manual_seed(0)
    state = teacher.reset(500, generator)
    observations = teacher.observe(state, generator)
    spec = teacher.observation_spec
    assert (teacher.num_actions, teacher.episode_length) == (169, 62)
    assert spec.image == (15, 15, 3)
    assert spec.scalars == {"time": 62}
    assert spec.vectors == {"noise": 50}
    assert observations["image"].shape == (500, 15, 15, 3)
    assert float(observations["image"].max()) == pytest.approx(0.5)
    assert observations["noise"].shape == (500, 50)
    codes, counts = state.choices[:, -1].unique(return_counts=True)
    assert codes.tolist() == [0, 43, 85, 127]
    assert (counts / 500).tolist() == pytest.approx([0.25] * 4, abs=0.07)
    assert teacher.decode(state).agent_dir.tolist() == [
        [0, 43, 85, 127].index(c) for c in state.choices[:, -1].tolist()
    ]


def test_noise_is_uniform_and_new_at_every_step() -> None:
    teacher = make_teacher(noise_dim=2000)
    generator = torch.Generator().manual_seed(0)
    state = teacher.reset(1, generator)
    first, second = (teacher.observe(state, generator)["noise"] for _ in range(2))
    assert not torch.equal(first, second)
    assert float(first.mean()) == pytest.approx(0.5, abs=0.03)
    assert float(first.min()) >= 0 and float(first.max()) < 1
    assert make_teacher(noise_dim=0).observation_spec.vectors == {}


@pytest.mark.parametrize("replace", [True, False])
@pytest.mark.parametrize("direction", [True, False])
@pytest.mark.parametrize("mode", [FIXED, BUDGET, {}])
def test_random_teachers_build_proper_levels(mode: dict[str, bool], direction: bool, replace: bool) -> None:
    teacher = make_teacher(4, 6, replace_wall_pos=replace, set_agent_dir=direction, **mode)
    generator = torch.Generator().manual_seed(2)
    state = teacher.reset(500, generator)
    for time in range(teacher.episode_length):
        observations = teacher.observe(state, generator)
        assert observations["time"].tolist() == [time] * 500
        actions = torch.randint(0, teacher.num_actions, (500,), generator=generator)
        teacher.step(state, actions, generator)
    levels = teacher.decode(state)
    check_maze_levels(levels)
    counts = levels.wall_map.sum((1, 2))
    if mode is FIXED:
        expected = torch.full_like(counts, 6)
    else:
        expected = (6 * state.choices[:, 0] / 16).round().long()
    assert bool((counts <= expected).all())
    assert replace or torch.equal(counts, expected)
    assert set(levels.agent_dir.tolist()) == {0, 1, 2, 3}
    student = make_ued_env("Maze", height=4, width=4, n_walls=0)
    assert isinstance(student, MazeEnv)
    assert student.observe(student.reset(levels, generator))["image"].shape == (500, 5, 5, 3)


@pytest.mark.parametrize(("compat", "is_moved"), [("none", False), ("minimax", True)])
def test_tile_0_is_free_unless_minimax_is_asked_for(compat: str, is_moved: bool) -> None:
    state, _ = play(make_teacher(compat=compat), [24, 0], copies=50)
    assert bool((state.choices[:, 1] == 0).all()) is not is_moved
    fixed, _ = play(make_teacher(compat=compat, **FIXED), [24, 0], copies=50)
    assert bool((fixed.choices[:, 1] == 0).all())


def test_oblong_mazes() -> None:
    student = make_ued_env("Maze", height=2, width=6, n_walls=0)
    teacher = make_teacher_env("Maze", student, n_walls=1, fixed_n_wall_steps=True)
    assert isinstance(teacher, MazeTeacherEnv)
    _, levels = play(teacher, [7, 11, 0])
    assert levels.wall_map.shape == (1, 2, 6)
    assert (wall_tiles(levels), levels.goal_pos.tolist(), levels.agent_pos.tolist()) == ({7}, [[5, 1]], [[0, 0]])
    assert teacher.observation_spec.image == (4, 8, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (FIXED | BUDGET, "first_wall_pos_sets_budget excludes fixed_n_wall_steps"),
        ({"n_walls": 24}, "between 0 and 23"),
        ({"n_walls": -1}, "between 0 and 23"),
        (BUDGET | {"n_walls": 0}, "at least 1, got 0"),
        ({"noise_dim": -1}, "noise_dim"),
        ({"compat": "yes"}, "compat"),
    ],
)
def test_impossible_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_teacher(**({"n_walls": 3} | options))

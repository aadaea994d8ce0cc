"""The hand-made and generated test mazes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sample_factory.ued.envs.maze.generated import Crossing, FourRooms, PerfectMaze
from sample_factory.ued.envs.maze.level import MazeLevels, check_maze_levels
from sample_factory.ued.envs.maze.perfect import spanning_tree_walls
from sample_factory.ued.envs.registration import make_ued_env, registered_ued_envs
from sample_factory.ued.envs.shortest_paths import shortest_path_lengths

# id, side, walls, start, direction, goal (None: several), step limit, path lengths
FIXED: list[tuple[str, int, int, tuple[int, int], int, tuple[int, int] | None, int, set[int]]] = [
    ("SixteenRooms", 13, 46, (1, 1), 0, (11, 11), 450, {20}),
    ("SixteenRooms2", 13, 53, (1, 1), 0, (11, 11), 450, {22}),
    ("Labyrinth", 13, 72, (0, 12), 0, (6, 6), 450, {96}),
    ("Labyrinth2", 13, 72, (0, 0), 0, (6, 6), 450, {96}),
    ("LabyrinthFlipped", 13, 72, (12, 12), 2, (6, 6), 450, {96}),
    ("StandardMaze", 13, 73, (6, 0), 0, (6, 12), 450, {40}),
    ("StandardMaze2", 13, 72, (0, 6), 0, (12, 4), 450, {56}),
    ("StandardMaze3", 13, 71, (3, 0), 0, (12, 6), 450, {39}),
    ("SmallCorridor", 13, 71, (0, 6), 0, None, 450, {13, 15, 17, 19, 21}),
    ("LargeCorridor", 19, 161, (0, 9), 0, None, 882, {19, 21, 23, 25, 27, 29, 31, 33}),
]
GENERATED = [
    ("FourRooms", 17, 250, 29),
    ("Crossing", 9, 484, None),
    ("PerfectMaze", 13, 450, 72),
    ("PerfectMazeMedium", 19, 882, 162),
    ("PerfectMazeLarge", 51, 5618, 1250),
    ("PerfectMazeXL", 101, 21218, 5000),
]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_all_mazes_are_registered() -> None:
    names = {f"Maze-{row[0]}" for row in (*FIXED, *GENERATED)}
    assert names | {"Maze"} <= set(registered_ued_envs())


@pytest.mark.parametrize(("name", "side", "walls", "start", "direction", "goal", "limit", "paths"), FIXED)
def test_fixed_maze(
    name: str,
    side: int,
    walls: int,
    start: tuple[int, int],
    direction: int,
    goal: tuple[int, int] | None,
    limit: int,
    paths: set[int],
) -> None:
    env = make_ued_env(f"Maze-{name}")
    levels = env.sample_levels(400, seeded())
    check_maze_levels(levels)
    assert levels.wall_map.shape == (400, side, side)
    assert env.max_episode_steps == limit
    assert torch.equal(levels.agent_pos, torch.tensor([start]).repeat(400, 1))
    assert torch.equal(levels.agent_dir, torch.full((400,), direction))
    metrics = env.level_metrics(levels)
    assert set(metrics["n_walls"].tolist()) == {walls}
    assert set(metrics["shortest_path_length"].tolist()) == paths
    if goal is not None:
        assert torch.equal(levels.goal_pos, torch.tensor([goal]).repeat(400, 1))


@pytest.mark.parametrize(("name", "num_goals"), [("SmallCorridor", 10), ("LargeCorridor", 16)])
def test_goals_of_corridors_are_uniform(name: str, num_goals: int) -> None:
    levels = make_ued_env(f"Maze-{name}").sample_levels(16_000, seeded())
    _, counts = levels.tile_index(levels.goal_pos).unique(return_counts=True)
    assert (counts / 16_000).tolist() == pytest.approx([1 / num_goals] * num_goals, abs=0.012)


def test_random_start_direction_is_an_option() -> None:
    for name in ("Labyrinth", "Crossing"):
        directions = make_ued_env(f"Maze-{name}", random_agent_dir=True).sample_levels(100, seeded()).agent_dir
        assert set(directions.tolist()) == {0, 1, 2, 3}
    with pytest.raises(ValueError, match="random_agent_dir"):
        make_ued_env("Maze-Labyrinth", random_agent_dir=True, compat="minimax")


def test_step_limit_of_a_named_maze_can_be_changed() -> None:
    assert make_ued_env("Maze-Labyrinth", max_episode_steps=300).max_episode_steps == 300


@pytest.mark.parametrize(("name", "side", "limit", "walls"), GENERATED)
def test_generated_maze(name: str, side: int, limit: int, walls: int | None) -> None:
    num_levels = 10 if side > 50 else 200
    env = make_ued_env(f"Maze-{name}")
    levels = env.sample_levels(num_levels, seeded())
    check_maze_levels(levels)
    assert levels.wall_map.shape == (num_levels, side, side)
    assert env.max_episode_steps == limit
    metrics = env.level_metrics(levels)
    assert bool(metrics["passable"].all())
    if walls is not None:
        assert set(metrics["n_walls"].tolist()) == {walls}


@pytest.mark.parametrize(("height", "width"), [(3, 3), (7, 5), (13, 13), (5, 19)])
def test_perfect_mazes_are_trees(height: int, width: int) -> None:
    walls = spanning_tree_walls(50, height, width, seeded())
    free = ~walls
    edges = (free[:, 1:] & free[:, :-1]).sum((1, 2)) + (free[:, :, 1:] & free[:, :, :-1]).sum((1, 2))
    assert torch.equal(edges, free.sum((1, 2)) - 1)
    start = torch.zeros(50, 2, dtype=torch.int64)
    for y in range(0, height, 2):
        for x in range(0, width, 2):
            lengths = shortest_path_lengths(free, start, torch.tensor([x, y]).repeat(50, 1))
            assert bool((lengths > 0).all()) or (x, y) == (0, 0)


def test_perfect_mazes_of_two_by_two_cells_lack_each_wall_equally_often() -> None:
    """A cycle of four cells: the search walks around it and leaves one of its four walls."""
    walls = spanning_tree_walls(8000, 3, 3, seeded())
    doors = walls.flatten(1)[:, [1, 3, 5, 7]].double()
    assert doors.sum(1).unique().tolist() == [1.0]
    assert doors.mean(0).tolist() == pytest.approx([0.25] * 4, abs=0.02)


def plain_search_choices(num_mazes: int) -> torch.Tensor:
    """[B, 5, 7] bool walls by a stack and a random choice, one maze after the other."""
    generator = seeded(1)
    walls = torch.ones(num_mazes, 5, 7, dtype=torch.bool)
    for maze in walls:
        first = int(torch.randint(12, (1,), generator=generator))
        stack = [(first // 4, first % 4)]
        visited = set(stack)
        maze[2 * stack[0][0], 2 * stack[0][1]] = False
        while stack:
            y, x = stack[-1]
            around = [(y + dy, x + dx) for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0))]
            ahead = [c for c in around if 0 <= c[0] < 3 and 0 <= c[1] < 4 and c not in visited]
            if not ahead:
                stack.pop()
                continue
            y2, x2 = ahead[int(torch.randint(len(ahead), (1,), generator=generator))]
            maze[y + y2, x + x2] = maze[2 * y2, 2 * x2] = False
            visited.add((y2, x2))
            stack.append((y2, x2))
    return walls


def test_perfect_mazes_have_the_distribution_of_depth_first_search() -> None:
    num_mazes = 3000
    plain, batched = plain_search_choices(num_mazes), spanning_tree_walls(num_mazes, 5, 7, seeded())
    assert batched.double().mean(0).flatten().tolist() == pytest.approx(
        plain.double().mean(0).flatten().tolist(), abs=0.05
    )
    ends = [torch.tensor([[x, y]] * num_mazes) for x, y in ((0, 0), (6, 4))]
    lengths = [float(shortest_path_lengths(~walls, *ends).double().mean()) for walls in (plain, batched)]
    assert lengths[0] == pytest.approx(lengths[1], rel=0.03)


def test_four_rooms_have_one_door_in_each_arm() -> None:
    levels = FourRooms(7, 9)(2000, seeded())
    arms = (levels.wall_map[:, 3, :4], levels.wall_map[:, 3, 5:], levels.wall_map[:, :3, 4], levels.wall_map[:, 4:, 4])
    for arm in arms:
        assert (~arm).sum(1).unique().tolist() == [1]
        shares = (~arm).double().mean(0).tolist()
        assert shares == pytest.approx([1 / len(shares)] * len(shares), abs=0.04)
    assert bool(levels.wall_map[:, 3, 4].all())
    for pos in (levels.agent_pos, levels.goal_pos):
        assert not bool(((pos[:, 0] == 4) | (pos[:, 1] == 3)).any())


def wall_lines(levels: MazeLevels) -> torch.Tensor:
    """[B] how many rows and columns are more wall than not, which cutting a path cannot hide in a 9x9 maze."""
    walls = levels.wall_map
    return (walls[:, :, ::2].sum(2) > 2).sum(1) + (walls[:, ::2].sum(1) > 2).sum(1)


def test_crossings_vary_in_number_and_leave_a_shortest_path() -> None:
    levels = Crossing(9, 9, 5)(4000, seeded())
    lengths = shortest_path_lengths(~levels.wall_map, levels.agent_pos, levels.goal_pos)
    assert lengths.unique().tolist() == [16]
    lines = wall_lines(levels)
    assert (int(lines.min()), int(lines.max())) == (2, 8)
    assert float(lines.double().mean()) == pytest.approx(5, abs=0.3)
    # never in an even row and an even column at once
    assert not bool(levels.wall_map[:, ::2, ::2].any())


def test_without_crossings_nothing_is_in_the_way() -> None:
    assert not bool(Crossing(9, 9, 0)(10, seeded()).wall_map.any())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PerfectMaze(12, 13), "odd height and width of at least 3, got 12x13"),
        (lambda: PerfectMaze(1, 3), "at least 3"),
        (lambda: FourRooms(4, 5), "four rooms needs odd"),
        (lambda: Crossing(8, 9, 5), "a crossing needs odd"),
        (lambda: Crossing(9, 9, 9), "num_crossings has to be between 0 and 8, got 9"),
    ],
)
def test_impossible_sizes(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()

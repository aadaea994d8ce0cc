"""Steps, rewards and observations of mazes: golden numbers, and equality with a plain implementation."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch

from sample_factory.ued.envs.maze import env as maze_env
from sample_factory.ued.envs.maze.builders import make_maze
from sample_factory.ued.envs.maze.dynamics import (
    FORWARD,
    LEFT,
    NUM_ACTIONS,
    RIGHT,
    ArrayDynamics,
    Dynamics,
    TensorDynamics,
)
from sample_factory.ued.envs.maze.env import MazeEnv
from sample_factory.ued.envs.maze.level import MazeLevels, check_maze_levels, level_to_text, levels_from_text
from sample_factory.ued.envs.maze.state import MazeState
from tests.unit.ued.envs.plain_maze import PlainMaze

WALLS = ((4, 4), (5, 6), (2, 5), (3, 3), (0, 6))
# object codes seen from (3, 6), recorded from minimax 0.2.0, by direction
SEEN = {
    0: ((1, 1, 1, 1, 1), (1, 8, 1, 1, 1), (1, 1, 2, 1, 1), (2, 1, 1, 1, 1), (1, 1, 1, 1, 1)),
    1: ((1, 1, 1, 1, 1), (1, 1, 1, 1, 1), (1, 1, 1, 1, 1), (1, 1, 1, 1, 1), (2, 1, 1, 1, 1)),
    2: ((2, 2, 2, 2, 2), (1, 1, 2, 1, 1), (1, 1, 1, 1, 1), (1, 1, 1, 2, 1), (1, 1, 1, 1, 1)),
    3: ((1, 1, 1, 1, 1), (1, 1, 2, 1, 1), (1, 1, 1, 2, 1), (1, 2, 1, 1, 1), (1, 1, 1, 1, 2)),
}


def one_level(agent: tuple[int, int], direction: int, goal: tuple[int, int] = (6, 5)) -> MazeLevels:
    walls = torch.zeros(1, 13, 13, dtype=torch.bool)
    for x, y in WALLS:
        walls[0, y, x] = True
    return MazeLevels(walls, torch.tensor([agent]), torch.tensor([direction]), torch.tensor([goal]))


def step(env: MazeEnv, state: MazeState, action: int) -> tuple[float, bool, bool]:
    outcome = env.step(state, torch.tensor([action]))
    return float(outcome.reward), bool(outcome.done), bool(outcome.truncated)


@pytest.mark.parametrize("direction", range(4))
def test_recorded_observations(direction: int) -> None:
    env = make_maze(see_agent=False, normalize_obs=False)
    image = env.observe(env.reset(one_level((3, 6), direction), torch.Generator()))["image"]
    assert image.dtype == torch.uint8
    assert image[0, :, :, 0].tolist() == [list(row) for row in SEEN[direction]]


def test_recorded_observation_in_a_corner() -> None:
    env = make_maze(see_agent=False, normalize_obs=False)
    image = env.observe(env.reset(one_level((0, 0), 3), torch.Generator()))["image"]
    assert image[0, :, :, 0].tolist() == [[2] * 5] * 4 + [[2, 2, 1, 1, 1]]


def test_recorded_code_of_the_agent() -> None:
    env = make_maze()
    observations = env.observe(env.reset(one_level((3, 6), 2), torch.Generator()))
    torch.testing.assert_close(observations["image"][0, 4, 2], torch.tensor([1.0, 0.0, 0.2]))
    assert observations["agent_dir"].tolist() == [2]


def test_recorded_steps() -> None:
    env = make_maze()
    state = env.reset(one_level((4, 5), 0), torch.Generator())
    assert step(env, state, FORWARD) == (0.0, False, False)
    assert env.agent_positions(state).tolist() == [[5, 5]]
    reward, done, truncated = step(env, state, FORWARD)
    assert reward == pytest.approx(0.9928)
    assert (done, truncated) == (True, False)
    assert env.agent_positions(state).tolist() == [[5, 5]]


def test_the_limit_truncates_unless_the_goal_is_hit_on_the_last_step() -> None:
    env = make_maze(max_episode_steps=2)
    away, towards = (
        env.reset(one_level((0, 0), 0), torch.Generator()),
        env.reset(one_level((4, 5), 0), torch.Generator()),
    )
    assert step(env, away, LEFT) == (0.0, False, False)
    assert step(env, away, RIGHT) == (0.0, True, True)
    step(env, towards, FORWARD)
    reward, done, truncated = step(env, towards, FORWARD)
    assert reward == pytest.approx(0.1)
    assert (done, truncated) == (True, False)


@pytest.mark.parametrize("kind", [ArrayDynamics, TensorDynamics])
@pytest.mark.parametrize("see_agent", [True, False])
@pytest.mark.parametrize(("height", "width", "view_size"), [(13, 13, 5), (4, 9, 5), (6, 3, 3), (5, 5, 7)])
def test_walks_equal_the_plain_maze(
    height: int, width: int, view_size: int, see_agent: bool, kind: type[Dynamics], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maze_env, "dynamics_on", lambda device, tables: kind(tables))
    generator = torch.Generator().manual_seed(7)
    num_steps, num_levels, limit = 160, 16, 150
    env = make_maze(
        height=height,
        width=width,
        n_walls=height * width // 4,
        max_episode_steps=limit,
        normalize_obs=False,
        see_agent=see_agent,
        agent_view_size=view_size,
        obs_agent_pos=True,
    )
    levels = env.sample_levels(num_levels, generator)
    state = env.reset(levels, generator)
    plain = [PlainMaze.of(levels, i, limit) for i in range(num_levels)]
    hits = 0
    for _ in range(num_steps):
        observations = env.observe(state)
        for i, maze in enumerate(plain):
            np.testing.assert_array_equal(observations["image"][i].numpy(), maze.image(view_size, see_agent))
            assert int(observations["agent_dir"][i]) == maze.direction
            assert tuple(observations["agent_pos"][i].tolist()) == maze.agent
        # mostly forward, or nobody gets anywhere
        actions = torch.randint(0, NUM_ACTIONS + 3, (num_levels,), generator=generator)
        actions = torch.where(actions >= NUM_ACTIONS, FORWARD, actions)
        outcome = env.step(state, actions, generator)
        for i, maze in enumerate(plain):
            reward, done, truncated = maze.step(int(actions[i]))
            hits += reward > 0
            if maze.time <= limit:
                assert float(outcome.reward[i]) == pytest.approx(reward, abs=1e-6)
            assert (bool(outcome.done[i]), bool(outcome.truncated[i])) == (done, truncated)
    assert hits > 0


@pytest.mark.parametrize("normalize_obs", [True, False])
@pytest.mark.parametrize("one_hot_obs", [True, False])
@pytest.mark.parametrize("side_by_side", [True, False])
def test_both_dynamics_give_the_same_bits(
    side_by_side: bool, one_hot_obs: bool, normalize_obs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    envs = []
    for kind in (ArrayDynamics, TensorDynamics):
        monkeypatch.setattr(maze_env, "dynamics_on", lambda device, tables, kind=kind: kind(tables))
        envs.append(make_maze(n_walls=40, max_episode_steps=30, one_hot_obs=one_hot_obs, normalize_obs=normalize_obs))
    generator = torch.Generator().manual_seed(2)
    levels = envs[0].sample_levels(9, generator)
    starts = [env.reset(levels.repeat_interleave(2)) for env in envs]
    # rows that lie side by side, or apart in memory
    states = [start[:9] if side_by_side else start[::2] for start in starts]
    for step in range(40):
        seen = [env.observe(state) for env, state in zip(envs, states, strict=True)]
        for name in seen[0]:
            torch.testing.assert_close(seen[0][name], seen[1][name], rtol=0, atol=0)
        if step % 7 == 0:
            fresh = envs[0].sample_levels(2, generator)
            for env, state in zip(envs, states, strict=True):
                state.put(torch.tensor([2, 5]), env.reset(fresh))
        actions = torch.randint(0, 3, (9,), generator=generator)
        outcomes = [env.step(state, actions) for env, state in zip(envs, states, strict=True)]
        for name in ("reward", "done", "truncated"):
            torch.testing.assert_close(getattr(outcomes[0], name), getattr(outcomes[1], name), rtol=0, atol=0)
        assert torch.equal(states[0].walker, states[1].walker)


def test_observations_are_no_views_and_match_their_spec() -> None:
    generator = torch.Generator().manual_seed(0)
    env = make_maze(obs_agent_pos=True)
    state = env.reset(env.sample_levels(3, generator), generator)
    before = env.observe(state)
    kept = {name: value.clone() for name, value in before.items()}
    for action in (LEFT, FORWARD, FORWARD):
        env.step(state, torch.full((3,), action), generator)
    for name, value in before.items():
        assert torch.equal(value, kept[name])
    spec = env.observation_spec
    assert before["image"].shape == (3, *spec.image)
    assert before["image"].dtype == torch.float32
    assert spec.scalars == {"agent_dir": 4}
    assert spec.vectors == {"agent_pos": 2}
    assert before["agent_pos"].dtype == torch.float32


def test_one_hot_view_has_one_channel_per_kind_of_tile() -> None:
    generator = torch.Generator().manual_seed(0)
    env, plain_env = make_maze(one_hot_obs=True), make_maze(normalize_obs=False)
    levels = env.sample_levels(16, generator)
    image = env.observe(env.reset(levels, generator))["image"]
    codes = plain_env.observe(plain_env.reset(levels, generator))["image"]
    assert env.observation_spec.image == (5, 5, 7)
    assert torch.equal(image.sum(-1), torch.ones(16, 5, 5))
    kinds = torch.tensor([1, 2, 8, 10, 10, 10, 10])
    assert torch.equal(kinds[image.argmax(-1)], codes[..., 0].long())


def test_finished_rows_get_new_starts_by_writing_them() -> None:
    generator = torch.Generator().manual_seed(3)
    env = make_maze(n_walls=40)
    levels, others = env.sample_levels(4, generator), env.sample_levels(2, generator)
    state = env.reset(levels, generator)
    for action in (FORWARD, LEFT, FORWARD):
        env.step(state, torch.full((4,), action), generator)
    rows = torch.tensor([0, 2])
    moved = {name: value.clone() for name, value in state.as_dict().items()}
    state.put(rows, env.reset(others, generator))
    fresh = env.reset(others, generator)
    for name, value in state.as_dict().items():
        assert torch.equal(value[rows], getattr(fresh, name))
        assert torch.equal(value[[1, 3]], moved[name][[1, 3]])
    started = env.levels_of(state)
    for name, value in started.as_dict().items():
        expected = getattr(levels, name).clone()
        expected[rows] = getattr(others, name)
        assert torch.equal(value, expected)


def test_solved_means_a_positive_return() -> None:
    env = make_maze()
    assert env.solved(torch.tensor([0.0, 0.1, 0.99])).tolist() == [False, True, True]


TEXT = """
#.>
G..
"""


def test_levels_as_text_and_back() -> None:
    levels = levels_from_text([TEXT, "..#\n.^G"])
    assert levels.wall_map[0].tolist() == [[True, False, False], [False, False, False]]
    assert levels.agent_pos.tolist() == [[2, 0], [1, 1]]
    assert levels.agent_dir.tolist() == [0, 3]
    assert levels.goal_pos.tolist() == [[0, 1], [2, 1]]
    assert level_to_text(levels, 0) == TEXT.strip()
    assert level_to_text(levels, 1) == "..#\n.^G"
    check_maze_levels(levels)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        (">.G\n..", "3 tiles"),
        ("...\n..G", "one agent and one goal, has 0 and 1"),
        (">.G\n<..", "has 2 and 1"),
        (">xG", "unknown tiles 'x'"),
    ],
)
def test_text_that_is_no_level(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        levels_from_text([text])


@pytest.mark.parametrize(
    ("agent", "goal", "direction", "message"),
    [
        ((13, 0), (6, 5), 0, "level 0: the agent is outside of the 13x13 maze"),
        ((0, 0), (0, -1), 0, "the goal is outside"),
        ((4, 4), (6, 5), 0, "the agent is in a wall"),
        ((0, 0), (5, 6), 0, "the goal is in a wall"),
        ((6, 5), (6, 5), 0, "on the same tile"),
        ((0, 0), (6, 5), 4, "direction"),
    ],
)
def test_impossible_levels(agent: tuple[int, int], goal: tuple[int, int], direction: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_maze_levels(one_level(agent, direction, goal))


def test_levels_of_another_size_are_refused() -> None:
    env = make_maze(height=5, width=5, n_walls=3)
    with pytest.raises(ValueError, match=r"13x13 tiles in an environment of 5x5"):
        env.reset(one_level((0, 0), 0), torch.Generator())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"height": 0}, "height"),
        ({"height": 1, "width": 1, "n_walls": 0}, "n_walls|2 tiles"),
        ({"n_walls": 168}, "between 0 and 167"),
        ({"n_walls": -1}, "between 0 and 167"),
        ({"max_episode_steps": 0}, "max_episode_steps"),
        ({"agent_view_size": 4}, "odd"),
        ({"compat": "maximin"}, "compat"),
    ],
)
def test_impossible_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_maze(**options)


def test_any_sequence_of_batch_sizes() -> None:
    generator = torch.Generator().manual_seed(4)
    env = make_maze(n_walls=40)
    levels = env.sample_levels(40, generator)
    whole = env.observe(env.reset(levels))["image"]
    for size in (*range(40, 0, -1), 40):
        state = env.reset(levels[:size])
        assert torch.equal(env.observe(state)["image"], whole[:size])


def test_environments_can_be_sent_to_other_processes() -> None:
    env = make_maze(n_walls=40)
    levels = env.sample_levels(3, torch.Generator().manual_seed(4))
    copy = pickle.loads(pickle.dumps(env))
    assert torch.equal(copy.observe(copy.reset(levels))["image"], env.observe(env.reset(levels))["image"])

"""Random episodes of teacher and student, recorded from minimax 0.2.0 on 5x5 tiles with six walls."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sample_factory.ued.envs.maze.builders import make_maze
from sample_factory.ued.envs.maze.teacher import MazeTeacherEnv

EPISODES: list[dict[str, Any]] = json.loads((Path(__file__).parent / "recorded_teacher_episodes.json").read_text())


@pytest.mark.parametrize("number", range(len(EPISODES)))
def test_recorded_episode(number: int) -> None:
    recorded = EPISODES[number]
    env = make_maze(height=5, width=5, n_walls=3, normalize_obs=False)
    teacher = MazeTeacherEnv(
        env,
        n_walls=6,
        replace_wall_pos=recorded["replace_wall_pos"],
        set_agent_dir=recorded["set_agent_dir"],
        fixed_n_wall_steps=recorded["mode"] == "fixed",
        first_wall_pos_sets_budget=recorded["mode"] == "budget",
        normalize_obs=False,
        compat="minimax",
    )
    generator = torch.Generator().manual_seed(0)
    state = teacher.reset(1, generator)
    state.choices[0] = torch.tensor(recorded["first_choices"])
    assert teacher.episode_length == len(recorded["actions"])
    for step, action in enumerate(recorded["actions"]):
        image = teacher.observe(state, generator)["image"]
        teacher.step(state, torch.tensor([action]), generator)
        entry = -1 if recorded["set_agent_dir"] and step == len(recorded["actions"]) - 1 else step
        moved = recorded["choices"][entry] != action
        assert (int(state.choices[0, entry]) != action) is moved
        state.choices[0, entry] = recorded["choices"][entry]  # where to is random
    assert image[0, :, :, 0].flatten().tolist() == recorded["teacher_image"]

    levels = teacher.decode(state)
    assert levels.wall_map.flatten().nonzero().flatten().tolist() == recorded["walls"]
    for name in ("agent_pos", "goal_pos", "agent_dir"):
        assert getattr(levels, name)[0].tolist() == recorded[name]

    walker = env.reset(levels)
    assert env.observe(walker)["image"][0, :, :, 0].flatten().tolist() == recorded["student_image"]
    steps = zip(recorded["student_actions"], recorded["rewards"], recorded["positions"], strict=True)
    for action, reward, position in steps:
        outcome = env.step(walker, torch.tensor([action]))
        assert float(outcome.reward) == pytest.approx(reward, abs=1e-6)
        assert bool(outcome.done) is (reward > 0)
        if reward == 0:  # minimax has begun a new level otherwise
            assert env.agent_positions(walker)[0].tolist() == position

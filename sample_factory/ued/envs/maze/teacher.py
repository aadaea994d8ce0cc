"""The environment in which a teacher builds mazes tile by tile (PAIRED, arXiv 2012.02096)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional

from sample_factory.ued.envs.interfaces import Observations, ObservationSpec
from sample_factory.ued.envs.maze.env import MazeEnv
from sample_factory.ued.envs.maze.level import NUM_DIRECTIONS, MazeLevels, tile_pos
from sample_factory.ued.envs.maze.observation import tile_codes
from sample_factory.ued.envs.maze.state import FIRST_AGENT, GOAL
from sample_factory.ued.envs.registration import is_minimax_compat
from sample_factory.ued.envs.sampling import draw_int, draw_tiles
from sample_factory.ued.envs.tensor_struct import TensorStruct


@dataclass(frozen=True)
class MazeTeacherState(TensorStruct):
    """What the teacher has chosen so far."""

    choices: Tensor  # [B, episode_length (+ 1)] int64 tile numbers; the last one stands for the direction
    time: Tensor  # [B] int64


@dataclass(frozen=True)
class _Plan:
    """How the entries of `choices` are to be read, per level [B, 1]."""

    num_walls: Tensor
    first_wall: int
    goal_entry: Tensor
    agent_entry: Tensor


class MazeTeacherEnv:
    """One level per episode of constant length; an action is a tile number ``y * width + x``.

    `fixed_n_wall_steps`: `n_walls` walls, then goal, then agent. `first_wall_pos_sets_budget`: the first tile also says
    how many walls there will be. Neither: a step of its own says so, first. Unused wall steps come last and do nothing.
    `set_agent_dir`: one more step picks the direction, which is random otherwise. `replace_wall_pos`: several things
    may be put on one tile, where goal and agent replace walls; otherwise (and always for an agent on the goal) the
    action is replaced by a random free tile. `compat` = minimax: without fixed steps and an own budget step, tile 0
    counts as taken from the second step on.
    """

    def __init__(
        self,
        student_env: MazeEnv,
        /,
        *,
        n_walls: int = 25,
        noise_dim: int = 50,
        replace_wall_pos: bool = False,
        fixed_n_wall_steps: bool = False,
        first_wall_pos_sets_budget: bool = False,
        set_agent_dir: bool = False,
        normalize_obs: bool = True,
        compat: str | None = None,
    ) -> None:
        self.height, self.width, self.device = student_env.height, student_env.width, student_env.device
        self.num_actions = self.height * self.width
        if fixed_n_wall_steps and first_wall_pos_sets_budget:
            raise ValueError("first_wall_pos_sets_budget excludes fixed_n_wall_steps: set one of them to False")
        if not 0 <= n_walls <= self.num_actions - 2:
            raise ValueError(
                f"n_walls of the teacher has to be between 0 and {self.num_actions - 2} in a "
                f"{self.height}x{self.width} maze, got {n_walls}"
            )
        if n_walls == 0 and first_wall_pos_sets_budget:
            raise ValueError("first_wall_pos_sets_budget needs n_walls of at least 1, got 0")
        if noise_dim < 0:
            raise ValueError(f"noise_dim has to be at least 0, got {noise_dim}")
        self._n_walls, self._noise_dim = n_walls, noise_dim
        self._replace, self._fixed = replace_wall_pos, fixed_n_wall_steps
        self._own_budget_step = not fixed_n_wall_steps and not first_wall_pos_sets_budget
        self._set_agent_dir = set_agent_dir
        self._tile_0_taken = is_minimax_compat(compat) and self._own_budget_step
        self.episode_length = n_walls + 2 + self._own_budget_step + set_agent_dir
        self._codes = tile_codes(normalize_obs).to(self.device)
        self.observation_spec = ObservationSpec(
            image=(self.height + 2, self.width + 2, self._codes.shape[1]),
            scalars={"time": self.episode_length},
            vectors={"noise": noise_dim} if noise_dim else {},
        )

    def reset(self, num_levels: int, generator: Generator) -> MazeTeacherState:
        """Empty mazes. A direction the teacher will not choose is drawn here."""
        entries = self.episode_length + (not self._set_agent_dir)
        choices = torch.zeros(num_levels, entries, dtype=torch.int64, device=self.device)
        if not self._set_agent_dir:
            direction = draw_int(NUM_DIRECTIONS, (num_levels,), generator)
            # the smallest code that decodes to this direction: ceil(direction * tiles / 4)
            choices[:, -1] = -((-direction * self.num_actions) // NUM_DIRECTIONS)
        return MazeTeacherState(choices, torch.zeros(num_levels, dtype=torch.int64, device=self.device))

    def step(self, state: MazeTeacherState, actions: Tensor, generator: Generator) -> None:
        """One placement per level, in place. Past the end of the episode it is an error (IndexError)."""
        time = state.time[:, None]
        action = actions[:, None]
        taken = self._taken(state)
        at_agent_step = time == self._plan(state).agent_entry
        collision = taken.gather(1, action)
        if self._replace:
            goal = state.choices.gather(1, self._plan(state).goal_entry)
            collision = at_agent_step & (action == goal)
        if self._set_agent_dir:
            collision = collision & (time < self.episode_length - 1)
        elsewhere = draw_tiles(~taken, 1, generator)
        if int(state.time.max()) >= self.episode_length:
            raise IndexError(f"the teacher's episode is over after {self.episode_length} steps: reset it")
        state.choices.scatter_(1, time, torch.where(collision, elsewhere, action))
        state.time.add_(1)

    def observe(self, state: MazeTeacherState, generator: Generator) -> Observations:
        """``image`` [B, H + 2, W + 2, 3], ``time`` [B] int64 and fresh uniform ``noise`` [B, noise_dim]."""
        batch = len(state)
        levels = self.decode(state)
        cells = torch.ones(batch, self.height + 2, self.width + 2, dtype=torch.int64, device=self.device)
        # whatever has not been placed yet lies at (W, H), the lower right corner of the border, which is redrawn last
        interior = cells[:, 1:-1, 1:-1]
        interior.copy_(levels.wall_map)
        row = torch.arange(batch, device=self.device)
        for pos, code in ((levels.agent_pos, FIRST_AGENT + levels.agent_dir), (levels.goal_pos, GOAL)):
            cells[row, pos[:, 1] + 1, pos[:, 0] + 1] = torch.as_tensor(code, device=self.device)
        cells[:, -1, -1] = 1
        observations = {"image": functional.embedding(cells, self._codes), "time": state.time.clone()}
        if self._noise_dim:
            observations["noise"] = torch.rand(batch, self._noise_dim, generator=generator, device=self.device)
        return observations

    def decode(self, state: MazeTeacherState) -> MazeLevels:
        """The levels as far as they are built; what has not been placed yet is at (width, height)."""
        plan = self._plan(state)
        time, nowhere = state.time[:, None], self.num_actions
        entry = torch.arange(state.choices.shape[1], device=self.device)
        is_wall = (entry >= plan.first_wall) & (entry < plan.first_wall + plan.num_walls) & (entry < time)
        walls = self._mark(state.choices.where(is_wall, nowhere))
        goal = self._placed(state, plan.goal_entry)
        agent = self._placed(state, plan.agent_entry)
        walls = walls.scatter(1, goal, False).scatter(1, agent, False)[:, :-1]
        corner = torch.tensor([self.width, self.height], device=self.device)
        return MazeLevels(
            walls.reshape(-1, self.height, self.width),
            torch.where(agent < nowhere, tile_pos(agent[:, 0], self.width), corner),
            NUM_DIRECTIONS * state.choices[:, -1] // self.num_actions,
            torch.where(goal < nowhere, tile_pos(goal[:, 0], self.width), corner),
        )

    def _plan(self, state: MazeTeacherState) -> _Plan:
        first = int(self._own_budget_step)
        if self._fixed:
            num_walls = torch.full_like(state.time, self._n_walls)[:, None]
        else:
            num_walls = (state.choices[:, :1] * self._n_walls / self.num_actions).round().long()
        return _Plan(num_walls, first, first + num_walls, first + num_walls + 1)

    def _placed(self, state: MazeTeacherState, entry: Tensor) -> Tensor:
        """[B, 1] tile of `entry`, or the number of tiles if it has not been written yet."""
        return state.choices.gather(1, entry).where(entry < state.time[:, None], self.num_actions)

    def _taken(self, state: MazeTeacherState) -> Tensor:
        """[B, tiles] bool: where something was put before this step."""
        entry = torch.arange(state.choices.shape[1], device=self.device)
        written = (entry >= int(self._own_budget_step)) & (entry < state.time[:, None])
        taken = self._mark(state.choices.where(written, self.num_actions))[:, :-1]
        if self._tile_0_taken:
            taken[:, 0] |= state.time > 0
        return taken

    def _mark(self, tiles: Tensor) -> Tensor:
        """[B, tiles + 1] bool, true at `tiles` [B, n]; the last column stands for "nowhere"."""
        marks = torch.zeros(len(tiles), self.num_actions + 1, dtype=torch.bool, device=self.device)
        return marks.scatter_(1, tiles, True)

"""A maze written down as slowly and plainly as possible: what the batched one is compared with."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from sample_factory.ued.envs.maze.level import MazeLevels

VECTORS = ((1, 0), (0, 1), (-1, 0), (0, -1))
QUARTER_TURNS = (1, 2, 3, 0)  # counter-clockwise, so that the agent looks up


@dataclass
class PlainMaze:
    walls: np.ndarray  # [H, W] bool
    agent: tuple[int, int]
    direction: int
    goal: tuple[int, int]
    limit: int
    time: int = 0

    @classmethod
    def of(cls, levels: MazeLevels, index: int, limit: int) -> PlainMaze:
        x, y = levels.agent_pos[index].tolist()
        goal_x, goal_y = levels.goal_pos[index].tolist()
        return cls(levels.wall_map[index].numpy(), (x, y), int(levels.agent_dir[index]), (goal_x, goal_y), limit)

    def step(self, action: int) -> tuple[float, bool, bool]:
        height, width = self.walls.shape
        x, y = self.agent
        if action == 2:
            dx, dy = VECTORS[self.direction]
            x, y = min(max(x + dx, 0), width - 1), min(max(y + dy, 0), height - 1)
        hit = (x, y) == self.goal
        if not self.walls[y, x] and not hit:
            self.agent = (x, y)
        self.direction = (self.direction + {0: -1, 1: 1}.get(action, 0)) % 4
        self.time += 1
        reward = hit * (1 - 0.9 * self.time / self.limit)
        timeout = self.time >= self.limit
        return reward, hit or timeout, timeout and not hit

    def image(self, view_size: int, see_agent: bool) -> np.ndarray:
        """[k, k, 3] codes."""
        margin = view_size - 1
        height, width = self.walls.shape
        padded = np.tile(np.array([2, 5, 0]), (height + 2 * margin, width + 2 * margin, 1))
        interior = padded[margin : margin + height, margin : margin + width]
        interior[~self.walls] = (1, 0, 0)
        interior[self.agent[1], self.agent[0]] = (10, 0, self.direction) if see_agent else (1, 0, 0)
        interior[self.goal[1], self.goal[0]] = (8, 1, 0)
        half = view_size // 2
        x, y = self.agent[0] + margin, self.agent[1] + margin
        left, top = {
            0: (x, y - half),
            1: (x - half, y),
            2: (x - margin, y - half),
            3: (x - half, y - margin),
        }[self.direction]
        window = padded[top : top + view_size, left : left + view_size]
        return np.rot90(window, QUARTER_TURNS[self.direction])

    def shortest_path(self) -> int:
        height, width = self.walls.shape
        distance = {self.agent: 0}
        queue = deque([self.agent])
        while queue:
            x, y = queue.popleft()
            if (x, y) == self.goal:
                return distance[(x, y)]
            for dx, dy in VECTORS:
                tile = (x + dx, y + dy)
                inside = 0 <= tile[0] < width and 0 <= tile[1] < height
                if inside and tile not in distance and not self.walls[tile[1], tile[0]]:
                    distance[tile] = distance[(x, y)] + 1
                    queue.append(tile)
        return 0

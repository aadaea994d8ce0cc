"""Walk through a maze yourself.

python -m sample_factory.ued.play --env=Maze --n_walls=40
python -m sample_factory.ued.play --env=Maze-Labyrinth --window=True

Keys: left and right turn, up goes forward, backspace begins a new level, escape ends. Space (toggle), a (pick up), d
(drop) and enter (done) do nothing in a maze. Without a terminal the names of keys are read from the standard input.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from sample_factory.ued.config.checks import MAX_SEED, USAGE_ERROR
from sample_factory.ued.config.flag import bool_argument
from sample_factory.ued.envs.interfaces import UedEnv
from sample_factory.ued.envs.maze import dynamics as maze
from sample_factory.ued.envs.maze.env import MazeEnv
from sample_factory.ued.envs.maze.rendering import render_cells
from sample_factory.ued.envs.maze.text import maze_text, view_cells, view_text
from sample_factory.ued.envs.pictures import image_grid, save_png
from sample_factory.ued.envs.registration import make_ued_env
from sample_factory.ued.play_keys import ESCAPE, KEY_NAMES, NEW_LEVEL, terminal_keys, typed_words
from sample_factory.ued.play_window import NoWindowError, play_in_window

ACTION_OF_KEY = {
    "left": maze.LEFT,
    "right": maze.RIGHT,
    "up": maze.FORWARD,
    "a": maze.PICK_UP,
    "d": maze.DROP,
    "space": maze.TOGGLE,
    "enter": maze.DONE,
}
# of --env=Maze only; all other mazes have their own
SIZE_DEFAULTS = {"height": 13, "width": 13, "n_walls": 10}
INTERRUPTED = 2


class Game:
    """One maze at a time, moved by keys."""

    def __init__(self, env: MazeEnv, seed: int, show_agent_view: bool = False) -> None:
        self.env, self.show_agent_view = env, show_agent_view
        self._generator = torch.Generator(env.device).manual_seed(seed)
        self._wall_counts: list[int] = []
        self.opening = self.new_level()

    def new_level(self) -> str:
        """Begin a random level and describe it: its metrics, and the mean number of walls so far."""
        levels = self.env.sample_levels(1, self._generator)
        self.state = self.env.reset(levels)
        self.episode_return = 0.0
        metrics = {name: int(value) for name, value in self.env.level_metrics(levels).items()}
        self._wall_counts.append(metrics["n_walls"])
        shown = ", ".join(f"{name} {value}" for name, value in metrics.items())
        return f"new level: {shown}; mean n_walls {np.mean(self._wall_counts):.2f} of {len(self._wall_counts)}"

    def press(self, key: str) -> str:
        """What happened; a finished episode is followed by a new level. ValueError for a key without a meaning."""
        if key == NEW_LEVEL:
            return self.new_level()
        if key not in ACTION_OF_KEY:
            raise ValueError(f"unknown key {key!r}: use one of {', '.join(KEY_NAMES)}")
        outcome = self.env.step(self.state, torch.tensor([ACTION_OF_KEY[key]], device=self.env.device))
        self.episode_return += float(outcome.reward)
        told = f"step {int(self.state.time)}, reward {float(outcome.reward):.4f}"
        if not bool(outcome.done):
            return told
        solved = "solved" if bool(self.env.solved(torch.tensor(self.episode_return))) else "not solved"
        return f"{told}\nepisode over, {solved}, return {self.episode_return:.4f}\n{self.new_level()}"

    def text(self) -> str:
        """The maze, and below it what the agent sees if that was asked for."""
        shown = maze_text(self.env, self.state)
        return f"{shown}\n\n{view_text(self.env, self.state)}" if self.show_agent_view else shown

    def image(self) -> np.ndarray:
        """[height, width, 3] uint8 of the same."""
        picture = self.env.render(self.state)[0]
        if not self.show_agent_view:
            return picture
        return image_grid([picture, render_cells(view_cells(self.env, self.state)[None].cpu().numpy())[0]], columns=2)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sample_factory.ued.play", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--env", default="Maze", help="a registered maze (default Maze)")
    parser.add_argument("--seed", type=int, default=90, help="seed of the levels (default 90)")
    parser.add_argument("--render_agent_view", **_switch("also show what the agent sees"))
    for name, default in SIZE_DEFAULTS.items():
        parser.add_argument(f"--{name}", type=int, help=f"of --env=Maze only (default {default})")
    parser.add_argument("--agent_view_size", type=int, default=5, help="side of what the agent sees (default 5)")
    parser.add_argument("--screenshot_path", help="PNG that always holds the latest picture")
    parser.add_argument("--window", **_switch("a window instead of text in the terminal"))
    return parser


def make_game(args: argparse.Namespace) -> Game:
    """ValueError if the flags do not fit together or the environment is not a maze."""
    if not 0 <= args.seed <= MAX_SEED:
        raise ValueError(f"--seed={args.seed}: must be >= 0 and <= {MAX_SEED}")
    sizes = {name: getattr(args, name) for name in SIZE_DEFAULTS}
    given = {name: value for name, value in sizes.items() if value is not None}
    if args.env == "Maze":
        given = SIZE_DEFAULTS | given
    elif given:
        raise ValueError(f"--{next(iter(given))} belongs to --env=Maze, {args.env} has its own size: leave it out")
    options = {"agent_view_size": args.agent_view_size, **given}
    env = _make_env(args.env, options)
    if not isinstance(env, MazeEnv):
        raise ValueError(f"--env={args.env} is not a maze: only mazes can be played with these keys")
    return Game(env, args.seed, args.render_agent_view)


def _make_env(name: str, options: dict[str, int]) -> UedEnv[Any, Any]:
    try:
        return make_ued_env(name, **options)
    except ValueError as error:
        flag = str(error).split(" ", 1)[0]  # options are flags of the same name
        raise ValueError(f"--{error}" if flag in options else f"--env={name}: {error}") from error


def _check_screenshot(game: Game, path: str | None) -> None:
    try:
        if path:
            save_png(game.image(), path)
    except OSError as error:
        raise ValueError(f"--screenshot_path={path} cannot be written: {error}") from error


def play_in_terminal(game: Game, keys: Iterator[str], screenshot_path: str | None = None) -> None:
    """Print the maze and what happened after every key, until escape or the end of `keys`."""
    message = game.opening
    while True:
        print(f"{message}\n{game.text()}\n", flush=True)
        if screenshot_path:
            save_png(game.image(), screenshot_path)
        key = next(keys, ESCAPE)
        if key == ESCAPE:
            return
        try:
            message = game.press(key)
        except ValueError as error:
            message = str(error)


def main(argv: Sequence[str] | None = None) -> int:
    parser = build_parser()
    args = parser.parse_args(argv)
    try:
        game = make_game(args)
        _check_screenshot(game, args.screenshot_path)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE_ERROR
    try:
        _play(game, args)
    except KeyboardInterrupt:
        return INTERRUPTED
    except NoWindowError as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE_ERROR
    return 0


def _play(game: Game, args: argparse.Namespace) -> None:
    if args.window:
        play_in_window(game, args.screenshot_path)
        return
    source = terminal_keys(sys.stdin.fileno()) if sys.stdin.isatty() else typed_words(sys.stdin)
    with contextlib.closing(source) as keys:
        play_in_terminal(game, keys, args.screenshot_path)


def _switch(help_text: str) -> dict[str, Any]:
    return {"type": bool_argument, "nargs": "?", "const": True, "default": False, "help": help_text}


if __name__ == "__main__":
    sys.exit(main())

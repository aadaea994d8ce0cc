"""Playing a maze by keys: typed words, a real terminal, and a window."""

from __future__ import annotations

import contextlib
import os
import pty
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sample_factory.ued import play
from sample_factory.ued.envs.maze.env import MazeEnv
from sample_factory.ued.envs.maze.level import levels_from_text
from sample_factory.ued.envs.registration import make_ued_env
from sample_factory.ued.play import Game
from sample_factory.ued.play_keys import split_keys, terminal_keys, typed_words
from sample_factory.ued.play_window import NoWindowError, play_in_window

CORRIDOR = ">.G"


def corridor_game(**options: Any) -> Game:
    env = make_ued_env("Maze", height=1, width=3, n_walls=0, max_episode_steps=10)
    assert isinstance(env, MazeEnv)
    game = Game(env, seed=1, **options)
    game.state = env.reset(levels_from_text([CORRIDOR]))
    return game


def test_keys_move_the_agent_and_the_goal_ends_the_episode() -> None:
    game = corridor_game()
    assert game.press("right") == "step 1, reward 0.0000"
    assert "v " in game.text()
    assert game.press("left") == "step 2, reward 0.0000"
    for key in ("space", "a", "d", "enter"):
        game.press(key)
    assert game.press("up") == "step 7, reward 0.0000"
    told = game.press("up").splitlines()
    assert told[:2] == ["step 8, reward 0.2800", "episode over, solved, return 0.2800"]
    assert told[2] == "new level: n_walls 0, shortest_path_length 1, passable 1; mean n_walls 0.00 of 2"
    assert game.episode_return == 0
    with pytest.raises(ValueError, match="unknown key 'jump': use one of left, right"):
        game.press("jump")


def test_an_episode_may_end_unsolved() -> None:
    game = corridor_game()
    told = [game.press("left") for _ in range(10)]
    assert "episode over, not solved, return 0.0000" in told[-1]


def test_text_and_picture_of_maze_and_view() -> None:
    game = corridor_game(show_agent_view=True)
    maze_lines, view_lines = (part.splitlines() for part in game.text().split("\n\n"))
    assert maze_lines == ["##########", "##>   G ##", "##########"]
    assert view_lines == ["##########", "##########", "####G ####", "####  ####", "####^ ####"]
    assert game.image().shape[2] == 3
    assert game.image().shape[1] > corridor_game().image().shape[1]


def test_mean_number_of_walls_over_levels() -> None:
    env = make_ued_env("Maze", n_walls=20, sample_n_walls=True)
    assert isinstance(env, MazeEnv)
    game = Game(env, seed=3)
    told = [game.opening, game.press("backspace"), game.press("backspace")]
    counts = [int(line.split("n_walls ")[1].split(",")[0]) for line in told]
    assert len(set(counts)) > 1
    assert told[2].endswith(f"mean n_walls {np.mean(counts):.2f} of 3")


def run_words(monkeypatch: pytest.MonkeyPatch, words: str, *flags: str) -> int:
    reading, writing = os.pipe()
    os.write(writing, words.encode())
    os.close(writing)
    with os.fdopen(reading) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        return play.main(list(flags))


def test_command_with_typed_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    shot = tmp_path / "shot.png"
    flags = ("--env=Maze-Labyrinth", "--render_agent_view", f"--screenshot_path={shot}")
    assert run_words(monkeypatch, "up left\nsideways backspace escape up", *flags) == 0
    printed = capsys.readouterr().out
    assert printed.count("shortest_path_length 96") == 2
    assert "step 2, reward" in printed and "step 3, reward" not in printed
    assert "unknown key 'sideways'" in printed
    assert shot.read_bytes().startswith(b"\x89PNG")


def test_same_seed_same_levels(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    printed = []
    for seed in (1, 1, 2):
        flags = (f"--seed={seed}", "--height=5", "--width=7", "--n_walls=6", "--render_agent_view=no")
        assert run_words(monkeypatch, "backspace", *flags) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] != printed[2]
    assert len(printed[0].splitlines()[1]) == 2 * (7 + 2)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--env=Mace"], "error: --env=Mace: unknown UED environment 'Mace': did you mean 'Maze'"),
        (["--env=Maze-Labyrinth", "--n_walls=3"], "--n_walls belongs to --env=Maze"),
        (["--n_walls=168"], "error: --n_walls has to be between 0 and 167, so that a 13x13 maze"),
        (["--agent_view_size=4"], "error: --agent_view_size has to be odd and at least 3, got 4"),
        (["--seed=-1"], "error: --seed=-1: must be >= 0 and <= "),
        (["--seed=99999999999999999999"], "error: --seed=99999999999999999999: must be"),
        ([f"--screenshot_path={__file__}/shot.png"], "shot.png cannot be written"),
    ],
)
def test_wrong_flags(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert play.main(flags) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "keys"),
    [
        (b"\x1b[D\x1b[C\x1b[A", ["left", "right", "up"]),
        (b"\x1bOD\x1bOC\x1bOA", ["left", "right", "up"]),
        (b"\x1b[B", []),
        (b" ad\r\n\x7f\x08", ["space", "a", "d", "enter", "enter", "backspace", "backspace"]),
        (b"zq!", []),
        (b"a\x1b", ["a", "escape"]),
        (b"", []),
    ],
)
def test_bytes_of_terminals(typed: bytes, keys: list[str]) -> None:
    assert list(split_keys(typed)) == keys


def test_words() -> None:
    assert list(typed_words(["up  left\n", "\n", "enter"])) == ["up", "left", "enter"]


def test_a_terminal_gets_its_mode_back() -> None:
    import termios

    main, terminal = pty.openpty()
    try:
        before = termios.tcgetattr(terminal)
        keys = terminal_keys(terminal)
        os.write(main, b"a\x1b[A")
        assert [next(keys), next(keys)] == ["a", "up"]
        assert termios.tcgetattr(terminal) != before
        keys.close()
        assert termios.tcgetattr(terminal) == before
    finally:
        os.close(main)
        os.close(terminal)


class FakeToolkit(types.ModuleType):
    """Stands in for tkinter: pressing keys happens in the main loop."""

    def __init__(self, symbols: list[str]) -> None:
        super().__init__("tkinter")
        self.pictures: list[str] = []
        self.destroyed = False
        self._symbols = symbols
        self._on_key: Callable[[Any], None] | None = None

    def Tk(self) -> FakeToolkit:
        return self

    def title(self, text: str) -> None:
        assert text

    def Label(self, root: FakeToolkit) -> types.SimpleNamespace:
        return types.SimpleNamespace(pack=lambda: None, configure=lambda image: self.pictures.append(image))

    def PhotoImage(self, data: str) -> str:
        return data

    def bind(self, event: str, handler: Callable[[Any], None]) -> None:
        assert event == "<Key>"
        self._on_key = handler

    def destroy(self) -> None:
        self.destroyed = True

    def mainloop(self) -> None:
        assert self._on_key is not None
        for symbol in self._symbols:
            self._on_key(types.SimpleNamespace(keysym=symbol))


def test_window(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    toolkit = FakeToolkit(["Right", "F1", "Up", "Escape"])
    monkeypatch.setitem(sys.modules, "tkinter", toolkit)
    game = corridor_game()
    play_in_window(game, str(tmp_path / "shot.png"))
    assert int(game.state.time) == 2
    assert torch.equal(game.state.agent_dir, torch.tensor([1]))
    assert len(toolkit.pictures) == 3
    assert toolkit.destroyed
    assert (tmp_path / "shot.png").exists()


def test_window_without_toolkit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tkinter", None)
    with pytest.raises(NoWindowError, match="install python3-tk"):
        play_in_window(corridor_game())


def test_window_without_display(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tkinter")
    monkeypatch.delenv("DISPLAY", raising=False)
    assert play.main(["--window=True"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--window=True needs a display" in line and "leave the flag out" in line and "ssh -X" in line


def test_ctrl_c_in_a_terminal_ends_the_game_without_a_traceback() -> None:
    pid, terminal = pty.fork()
    if pid == 0:  # pragma: no cover, another program
        os.execv(sys.executable, [sys.executable, "-m", "sample_factory.ued.play", "--n_walls=0"])
    shown = b""
    try:
        while b"new level" not in shown:
            shown += os.read(terminal, 4096)
        os.write(terminal, b"\x03")
        _, status = os.waitpid(pid, 0)
        with contextlib.suppress(OSError):  # the other side is closed
            while more := os.read(terminal, 4096):
                shown += more
    finally:
        os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == play.INTERRUPTED
    assert b"Traceback" not in shown

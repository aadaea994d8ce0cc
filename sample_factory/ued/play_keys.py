"""Keys of the play mode: their names, and where they come from."""

from __future__ import annotations

import os
import termios
import tty
from collections.abc import Generator, Iterable, Iterator

ESCAPE = "escape"
NEW_LEVEL = "backspace"
KEY_NAMES = ("left", "right", "up", "space", "a", "d", "enter", NEW_LEVEL, ESCAPE)

# What terminals send. Arrows come in two dialects (ECMA-48, and application mode of the DEC VT100).
_SEQUENCES = {
    b"\x1b[D": "left",
    b"\x1bOD": "left",
    b"\x1b[C": "right",
    b"\x1bOC": "right",
    b"\x1b[A": "up",
    b"\x1bOA": "up",
    b" ": "space",
    b"a": "a",
    b"d": "d",
    b"\r": "enter",
    b"\n": "enter",
    b"\x7f": NEW_LEVEL,
    b"\x08": NEW_LEVEL,
    b"\x1b": ESCAPE,
}
_LONGEST = max(map(len, _SEQUENCES))
_CONTROL_SEQUENCES = (b"\x1b[", b"\x1bO")


def split_keys(typed: bytes) -> Iterator[str]:
    """Names of the keys behind the bytes of one read. Whatever has no meaning is left out."""
    while typed:
        size = next((n for n in range(_LONGEST, 0, -1) if typed[:n] in _SEQUENCES), 0)
        if typed[:2] in _CONTROL_SEQUENCES and size < 2:
            typed = typed[3:]  # another key of the same kind, such as down: no escape
            continue
        if size:
            yield _SEQUENCES[typed[:size]]
        typed = typed[max(size, 1) :]


def terminal_keys(descriptor: int) -> Generator[str, None, None]:
    """Keys of a terminal as they are pressed. Its mode is restored when the iterator is closed or used up."""
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor, termios.TCSADRAIN)  # the default would throw away what was typed already
        while typed := os.read(descriptor, 64):
            yield from split_keys(typed)
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def typed_words(lines: Iterable[str]) -> Generator[str, None, None]:
    """Names of keys in text, separated by blanks or lines."""
    for line in lines:
        yield from line.split()

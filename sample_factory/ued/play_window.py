"""A window for the play mode. Needs tkinter, which some builds of Python leave out."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from sample_factory.ued.envs.pictures import save_png
from sample_factory.ued.play_keys import ESCAPE, NEW_LEVEL
from sample_factory.utils.png import encode_png

if TYPE_CHECKING:
    from sample_factory.ued.play import Game

_KEY_OF_SYMBOL = {
    "Left": "left",
    "Right": "right",
    "Up": "up",
    "space": "space",
    "a": "a",
    "d": "d",
    "Return": "enter",
    "BackSpace": NEW_LEVEL,
    "Escape": ESCAPE,
}


class NoWindowError(RuntimeError):
    """There can be no window; the message says why and what to do."""


def play_in_window(game: Game, screenshot_path: str | None = None) -> None:
    """Returns when the window is closed. NoWindowError if there is no toolkit or no display."""
    try:
        import tkinter
    except ImportError as error:
        raise NoWindowError(
            "--window=True needs tkinter: install python3-tk, or leave the flag out to play in the terminal"
        ) from error
    try:
        root = tkinter.Tk()
    except tkinter.TclError as error:
        raise NoWindowError(
            f"--window=True needs a display ({error}): leave the flag out to play in the terminal, or log in with "
            "ssh -X"
        ) from error
    root.title("AMaze")
    picture = tkinter.Label(root)
    picture.pack()

    def show(message: str) -> None:
        print(message, flush=True)
        png = encode_png(game.image())
        photo = tkinter.PhotoImage(data=base64.b64encode(png).decode())
        picture.configure(image=photo)
        picture.photo = photo  # type: ignore[attr-defined]  # tkinter itself keeps no reference
        if screenshot_path:
            save_png(game.image(), screenshot_path)

    def on_key(event: Any) -> None:
        key = _KEY_OF_SYMBOL.get(event.keysym)
        if key == ESCAPE:
            root.destroy()
        elif key is not None:
            show(game.press(key))

    root.bind("<Key>", on_key)
    show(game.opening)
    root.mainloop()

"""What ``sample_factory.ued`` offers."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys

import pytest

from sample_factory import ued


def test_every_public_name_is_the_one_of_its_module() -> None:
    assert sorted(ued._MODULE_OF) == sorted(ued.__all__)
    for name, module in ued._MODULE_OF.items():
        assert getattr(ued, name) is getattr(importlib.import_module(f"sample_factory.ued.{module}"), name)


def test_other_names_do_not_exist() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ued.nothing


@pytest.mark.parametrize("module", ["train", "evaluate", "make_cmd"])
def test_commands_read_their_flags_without_torch(module: str) -> None:
    code = f"import sys\nfrom sample_factory.ued import {module}\nassert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", [("train", "--help"), ("make_cmd", "--config=maze/dr", "--n_trials=50")])
def test_readers_may_leave_early(command: tuple[str, ...]) -> None:
    """As ``| head -1`` does: there is more text than a pipe or a buffer of Python takes."""
    reading, writing = os.pipe()
    os.close(reading)
    module, *flags = command
    done = subprocess.run(
        [sys.executable, "-m", f"sample_factory.ued.{module}", *flags],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")

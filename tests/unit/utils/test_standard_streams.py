"""Programs whose output nobody reads go on."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import threading

import pytest

PROGRAM = """
import faulthandler, os, sys
from sample_factory.utils.standard_streams import survive_lost_output
survive_lost_output()
survive_lost_output()
faulthandler.enable()  # needs a stream with a descriptor
for stream in (sys.stdout, sys.stderr):
    for _ in range(3):
        print("x" * 100000, file=stream, flush=True)
        stream.writelines(["a", "b"])
    os.write(stream.fileno(), b"from a C library")
    assert stream.isatty() is False and stream.encoding
with open(sys.argv[1], "w") as file:
    assert file.fileno() > 2
    file.write("done")
"""


@pytest.mark.parametrize("streams", ["| true", "2>&1 | true", "<&- >&- 2>&-", ">&-", ">/dev/full 2>&1", ">/dev/null"])
def test_lost_output_is_dropped(tmp_path, streams):
    result = tmp_path / "result"
    command = f'{{ "$@"; echo $? >"$0"; }} {streams}'
    subprocess.run(
        ["bash", "-c", command, str(tmp_path / "code"), sys.executable, "-c", PROGRAM, str(result)],
        check=False,
        timeout=60,
        capture_output=True,
    )
    assert result.read_text() == "done"
    assert (tmp_path / "code").read_text() == "0\n"


def test_without_the_module_the_program_would_end(tmp_path):
    """What is tested above happens."""
    command = f"{sys.executable} -c 'print(\"x\" * 100000, flush=True)' | true; exit ${{PIPESTATUS[0]}}"
    assert subprocess.run(["bash", "-c", command], capture_output=True, timeout=60).returncode != 0


FULL_PIPE = """
import sys
from sample_factory.utils import standard_streams
standard_streams._FULL_TIMEOUT_SEC = 0.2
standard_streams.survive_lost_output()
for i in range(3000):
    print(f"line {i} " + "x" * 100)
print("y" * 1000000)
sys.stderr.write("go on\\n")
sys.stdin.readline()
print("read again")
"""


def test_a_pipe_that_nobody_empties_does_not_stop_the_program():
    with subprocess.Popen(
        [sys.executable, "-c", FULL_PIPE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as program:
        killer = threading.Timer(60, program.kill)
        killer.start()
        try:
            assert program.stderr.readline() == "go on\n"
            lines = [program.stdout.readline() for _ in range(300)]  # the buffer of the pipe has those at least
            assert [line.split()[1] for line in lines] == [str(i) for i in range(300)]
            rest, _ = program.communicate("\n")
            assert rest.endswith("read again\n") and "line 2999 " not in rest
            assert program.returncode == 0
        finally:
            killer.cancel()


SLOWLY_READ = """
from sample_factory.utils import standard_streams
standard_streams.survive_lost_output()
for i in range(2000):
    print(f"line {i} " + "x" * 100, flush=True)
"""


def test_a_pipe_that_is_read_slowly_gets_everything():
    with subprocess.Popen([sys.executable, "-c", SLOWLY_READ], stdout=subprocess.PIPE) as program:
        pieces = []
        while piece := os.read(program.stdout.fileno(), 3000):  # less than it takes to be ready again
            pieces.append(piece)
            select.select([], [], [], 0.001)
    assert [int(line.split()[1]) for line in b"".join(pieces).splitlines()] == list(range(2000))

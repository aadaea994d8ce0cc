from __future__ import annotations

import io
import socket
import sys
from pathlib import Path

import numpy as np
import pytest

from sample_factory.utils.gifs import encode_gif
from sample_factory.utils.network import is_udp_port_available, reserved_udp_port
from sample_factory.utils.tb import main, matching_dirs, tb_argparser, tensorboard_command


def test_udp_port():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("", 0))
        port = sock.getsockname()[1]
        assert not is_udp_port_available(port)
    assert is_udp_port_available(port)


def test_reserved_ports_differ_and_skip_those_in_use():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("", 0))
        taken = sock.getsockname()[1]
        with reserved_udp_port(taken) as first, reserved_udp_port(taken) as second:
            assert taken < first < second
            assert is_udp_port_available(first) and is_udp_port_available(second)
        with reserved_udp_port(taken) as again:
            assert again == first
        with pytest.raises(RuntimeError, match=f"none of the 1 UDP ports from {taken}"), reserved_udp_port(taken, 1):
            pass


@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 1), (20, 30, 3)])
def test_gif_round_trip(shape):
    image_module = pytest.importorskip("PIL.Image")
    frames = [np.full(shape, value, dtype=np.uint8) for value in (0, 100, 200)]
    gif = image_module.open(io.BytesIO(encode_gif(frames, fps=10)))
    assert (gif.format, gif.n_frames, gif.size, gif.info["duration"]) == ("GIF", 3, (30, 20), 100)
    gif.seek(2)
    assert abs(np.asarray(gif.convert("RGB"))[0, 0, 0].item() - 200) <= 2


def test_gif_refuses_nonsense():
    with pytest.raises(ValueError, match="no frames"):
        encode_gif([], fps=10)
    with pytest.raises(ValueError, match="fps > 0"):
        encode_gif([np.zeros((4, 4), np.uint8)], fps=0)
    with pytest.raises(ValueError, match=r"shape \(2, 4, 4, 3\)"):
        encode_gif([np.zeros((2, 4, 4, 3), np.uint8)], fps=10)


def test_tensorboard_command(tmp_path: Path):
    for name in ("sweep/run_1", "sweep/run_2", "other", "bad,name"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "sweep" / "run_3").touch()
    args = tb_argparser().parse_args(["sweep/*", "bad*", "--dir", str(tmp_path), "--port", "7007"])
    dirs = matching_dirs(args.dir, args.filters)
    assert [path.name for path in dirs] == ["bad,name", "run_1", "run_2"]
    assert tensorboard_command(args, dirs) == [
        sys.executable,
        "-m",
        "tensorboard.main",
        "--port=7007",
        f"--logdir_spec=sweep/run_1:{tmp_path}/sweep/run_1,sweep/run_2:{tmp_path}/sweep/run_2",
        "--reload_interval=60",
    ]


def test_tensorboard_without_a_match_fails(tmp_path: Path):
    assert main(["nothing*", "--dir", str(tmp_path)]) == 1

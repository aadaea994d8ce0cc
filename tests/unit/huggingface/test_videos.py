from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from sample_factory.huggingface import videos
from sample_factory.huggingface.huggingface_utils import generate_replay_video
from sample_factory.huggingface.videos import to_rgb_frames, write_mp4
from sample_factory.utils.attr_dict import AttrDict


@pytest.mark.parametrize("shape", [(41, 63), (41, 63, 1), (41, 63, 3), (41, 63, 4), (3, 41, 63), (1, 41, 63)])
def test_frames_become_large_enough_rgb_of_even_size(shape):
    (frame,) = to_rgb_frames([np.full(shape, 7, np.uint8)], min_size=180)
    assert frame.shape == (206, 316, 3) and frame.dtype == np.uint8 and (frame == 7).all()


def test_large_frames_keep_their_pixels():
    image = np.arange(200 * 300 * 3, dtype=np.uint8).reshape(200, 300, 3)
    (frame,) = to_rgb_frames([image], min_size=180)
    np.testing.assert_array_equal(frame, image)


def test_no_frames_are_refused():
    with pytest.raises(ValueError, match="no frames"):
        to_rgb_frames([], 180)
    with pytest.raises(ValueError, match=r"shape \(2, 2, 2, 2\)"):
        to_rgb_frames([np.zeros((2, 2, 2, 2))], 180)


def frames(num: int = 10) -> list[np.ndarray]:
    return [np.full((3, 90, 100), 20 * i % 256, np.uint8) for i in range(num)]


def test_gif_by_name(tmp_path: Path):
    pytest.importorskip("PIL")
    path = generate_replay_video(str(tmp_path), frames(), 10, AttrDict(video_name="a.gif"))
    assert path == str(tmp_path / "a.gif") and Path(path).read_bytes().startswith(b"GIF8")


@pytest.mark.parametrize(("name", "file"), [(None, "replay.mp4"), ("mine", "mine.mp4"), ("x.mp4", "x.mp4")])
def test_real_mp4(tmp_path: Path, name, file):
    iio = pytest.importorskip("imageio.v3")
    pytest.importorskip("imageio_ffmpeg")
    path = generate_replay_video(str(tmp_path), frames(), 30, AttrDict(video_name=name))
    assert [entry.name for entry in tmp_path.iterdir()] == [file]
    video = iio.imread(path, plugin="FFMPEG")  # [N, H, W, 3]
    assert video.shape == (10, 180, 200, 3)
    assert abs(int(video[5].mean()) - 100) <= 3


def fake_ffmpeg(tmp_path: Path, monkeypatch, program: str) -> None:
    path = tmp_path / "ffmpeg"
    path.write_text(f"#!{sys.executable}\n{program}")
    path.chmod(0o755)
    monkeypatch.setattr(videos, "is_module_available", lambda name: False)
    monkeypatch.setenv("PATH", str(tmp_path))


def test_ffmpeg_program_gets_all_frames(tmp_path: Path, monkeypatch):
    fake_ffmpeg(
        tmp_path,
        monkeypatch,
        "import sys\ndata = sys.stdin.buffer.read()\n"
        "open(sys.argv[-1], 'w').write(f'{len(data)} ' + ' '.join(sys.argv))",
    )
    write_mp4(str(tmp_path / "my video.mp4"), to_rgb_frames(frames(), 180), 25)
    text = (tmp_path / "my video.mp4").read_text()
    assert text.startswith(f"{10 * 180 * 200 * 3} ") and "-s 200x180 -r 25" in text and "libx264" in text


def test_q62_failing_encoder_is_noticed_and_keeps_the_old_file(tmp_path: Path, monkeypatch):
    fake_ffmpeg(tmp_path, monkeypatch, "import sys; sys.exit('unknown encoder')")
    (tmp_path / "replay.mp4").write_text("old")
    with pytest.raises(RuntimeError, match="unknown encoder"):
        generate_replay_video(str(tmp_path), frames(200), 25, AttrDict(video_name=None))
    assert (tmp_path / "replay.mp4").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ffmpeg", "replay.mp4"]


def test_q62_missing_encoder_names_the_repair(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(videos, "is_module_available", lambda name: False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="pip install imageio-ffmpeg"):
        generate_replay_video(str(tmp_path), frames(), 25, AttrDict(video_name=None))


def test_nonsense_is_refused(tmp_path: Path):
    images = to_rgb_frames(frames(2), 180)
    with pytest.raises(ValueError, match="fps > 0"):
        write_mp4(str(tmp_path / "a.mp4"), images, 0)
    with pytest.raises(ValueError, match="same size"):
        write_mp4(str(tmp_path / "a.mp4"), [images[0], images[0][2:]], 25)

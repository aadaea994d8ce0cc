"""Writing frames to an mp4 file with whatever encoder this machine has."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sample_factory.utils.introspection import is_module_available

_ENCODER_REPAIR = "pip install imageio-ffmpeg, or install ffmpeg or opencv-python"
_NUM_ERROR_CHARS = 2000


def to_rgb_frames(frames: Sequence[Any], min_size: int) -> list[np.ndarray]:
    """uint8 [H, W, 3] frames of even size whose smaller side has at least `min_size` pixels.

    Accepts [H, W], [H, W, C] and [C, H, W] images with 1, 3 or 4 channels. Small images are enlarged by an integer
    factor, so pixels stay sharp.
    """
    if len(frames) == 0:
        raise ValueError("there are no frames to write a video of: did the environment render any?")
    return [_to_rgb(np.asarray(frame), min_size) for frame in frames]


def _to_rgb(frame: np.ndarray, min_size: int) -> np.ndarray:
    if frame.ndim == 2:
        frame = frame[..., None]
    if frame.ndim != 3:
        raise ValueError(f"a video frame has to be [H, W], [H, W, C] or [C, H, W], got shape {frame.shape}")
    if frame.shape[-1] not in (1, 3, 4) and frame.shape[0] in (1, 3, 4):
        frame = frame.transpose(1, 2, 0)
    if frame.shape[-1] == 1:
        frame = np.repeat(frame, 3, axis=-1)
    frame = frame[..., :3].astype(np.uint8, copy=False)

    factor = max(1, -(-min_size // min(frame.shape[:2])))
    frame = frame.repeat(factor, axis=0).repeat(factor, axis=1)
    height, width = frame.shape[:2]
    # H.264 with 4:2:0 colour needs even sides.
    return np.ascontiguousarray(np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge"))


def write_mp4(path: str, frames: Sequence[np.ndarray], fps: float) -> None:
    """Write equally sized RGB frames; uses imageio-ffmpeg, else the ffmpeg program, else OpenCV.

    RuntimeError if none is installed or the encoder fails; a file that exists is replaced only on success.
    """
    if fps <= 0:
        raise ValueError(f"a video needs fps > 0, got {fps}")
    shapes = {frame.shape for frame in frames}
    if len(shapes) != 1:
        raise ValueError(f"all frames of a video need the same size, got {sorted(shapes)}")

    require_video_encoder()
    temporary = str(Path(path).with_name(f".{Path(path).stem}.{os.getpid()}.tmp.mp4"))
    try:
        ffmpeg = find_ffmpeg()
        if ffmpeg is not None:
            _write_with_ffmpeg(ffmpeg, temporary, frames, fps)
        else:
            _write_with_opencv(temporary, frames, fps)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def require_video_encoder() -> None:
    """:raises RuntimeError: nothing installed here can write a video; says what to install."""
    if find_ffmpeg() is None and not is_module_available("cv2"):
        raise RuntimeError(f"No video encoder found: {_ENCODER_REPAIR}")


def find_ffmpeg() -> str | None:
    """Path of an ffmpeg executable: the one that comes with imageio-ffmpeg, or one on the PATH."""
    if is_module_available("imageio_ffmpeg"):
        import imageio_ffmpeg

        try:
            return imageio_ffmpeg.get_ffmpeg_exe()
        except RuntimeError:  # the wheel has no binary for this platform
            pass
    return shutil.which("ffmpeg")


def _write_with_ffmpeg(ffmpeg: str, path: str, frames: Sequence[np.ndarray], fps: float) -> None:
    height, width = frames[0].shape[:2]
    command = [
        ffmpeg,
        *["-y", "-loglevel", "error"],
        *["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(fps), "-i", "-"],
        *["-an", "-vcodec", "libx264", "-pix_fmt", "yuv420p", "-movflags", "+faststart", path],
    ]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stdin is not None
    try:
        for frame in frames:
            process.stdin.write(frame.tobytes())
    except BrokenPipeError:
        pass  # ffmpeg gave up early; its exit status and message are reported below
    _, errors = process.communicate()
    if process.returncode != 0:
        message = errors.decode("utf-8", errors="replace").strip()[-_NUM_ERROR_CHARS:]
        raise RuntimeError(f"{ffmpeg} could not write {path} (exit status {process.returncode}): {message}")


def _write_with_opencv(path: str, frames: Sequence[np.ndarray], fps: float) -> None:
    import cv2

    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*"mp4v"), fps, (width, height))
    if not writer.isOpened():
        raise RuntimeError(f"OpenCV could not open {path} for writing: {_ENCODER_REPAIR}")
    for frame in frames:
        writer.write(frame[..., ::-1])  # OpenCV wants BGR
    writer.release()

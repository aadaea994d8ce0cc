"""Encoding frames as an animated GIF."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np

from sample_factory.utils.introspection import is_module_available


def encode_gif(images: Sequence[np.ndarray] | np.ndarray, fps: float) -> bytes:
    """Animated, endlessly repeating GIF of uint8 frames [N, H, W] or [N, H, W, 1 or 3] at `fps` frames per second.

    Uses Pillow, or imageio when only that is installed; ImportError with the repair if neither is.
    """
    frames = [_rgb(np.asarray(image)) for image in images]
    if not frames:
        raise ValueError("encode_gif got no frames, a GIF needs at least one")
    if fps <= 0:
        raise ValueError(f"encode_gif needs fps > 0, got {fps}")

    # GIF stores hundredths of a second; most players slow down anything below 2.
    duration_ms = max(20, round(100 / fps) * 10)
    if is_module_available("PIL"):
        return _encode_with_pillow(frames, duration_ms)
    if is_module_available("imageio"):
        return _encode_with_imageio(frames, duration_ms)
    raise ImportError("Writing GIFs needs Pillow or imageio: pip install pillow")


def _rgb(image: np.ndarray) -> np.ndarray:
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[-1] not in (1, 3, 4):
        raise ValueError(f"a frame has to be [H, W] or [H, W, channels], got shape {image.shape}")
    if image.shape[-1] == 1:
        image = np.repeat(image, 3, axis=-1)
    return np.ascontiguousarray(image[..., :3], dtype=np.uint8)


def _encode_with_pillow(frames: list[np.ndarray], duration_ms: int) -> bytes:
    from PIL import Image

    pictures = [Image.fromarray(frame) for frame in frames]
    buffer = io.BytesIO()
    pictures[0].save(
        buffer, format="GIF", save_all=True, append_images=pictures[1:], duration=duration_ms, loop=0, disposal=2
    )
    return buffer.getvalue()


def _encode_with_imageio(frames: list[np.ndarray], duration_ms: int) -> bytes:
    import imageio.v3 as iio

    return iio.imwrite("<bytes>", np.stack(frames), extension=".gif", duration=duration_ms, loop=0)

"""PNG files, read back by Pillow."""

from __future__ import annotations

import io
import zlib

import numpy as np
import pytest

from sample_factory.utils.png import encode_png


@pytest.mark.parametrize("shape", [(7, 2, 3), (1, 1, 3), (3, 50, 3)])
def test_pictures_survive(shape: tuple[int, ...]) -> None:
    image_module = pytest.importorskip("PIL.Image")
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    with image_module.open(io.BytesIO(encode_png(image))) as picture:
        np.testing.assert_array_equal(np.asarray(picture), image)


def test_recorded_bytes_of_one_black_pixel() -> None:
    png = encode_png(np.zeros((1, 1, 3), dtype=np.uint8))
    assert png[:33].hex() == "89504e470d0a1a0a0000000d49484452000000010000000108020000009077" + "53de"
    assert zlib.decompress(png[41:-16]) == bytes(4)
    assert png[-12:].hex() == "0000000049454e44ae426082"


@pytest.mark.parametrize(
    "image",
    [np.zeros((2, 2, 2), np.uint8), np.zeros((2, 2, 3), np.float32), np.zeros((2, 3), np.uint8)],
)
def test_arrays_that_are_no_picture(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match="uint8, got"):
        encode_png(image)

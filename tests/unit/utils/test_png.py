"""PNG files hold the picture they were made of."""

from __future__ import annotations

import io

import numpy as np
import pytest

from sample_factory.utils.png import encode_png


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (40, 7)])
def test_round_trip(size: tuple[int, int]) -> None:
    image_library = pytest.importorskip("PIL.Image")
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    read = image_library.open(io.BytesIO(encode_png(picture)))
    read.verify()
    read = image_library.open(io.BytesIO(encode_png(picture)))
    np.testing.assert_array_equal(np.asarray(read), picture)


@pytest.mark.parametrize("picture", [np.zeros((2, 2, 3)), np.zeros((2, 2), np.uint8), np.zeros((2, 2, 4), np.uint8)])
def test_what_is_no_picture(picture: np.ndarray) -> None:
    with pytest.raises(ValueError, match="a picture must be"):
        encode_png(picture)

from __future__ import annotations

from sample_factory.algo.sampling.captured_policy import recording_size


def test_sizes_of_recordings() -> None:
    sizes = {1: 16, 16: 16, 17: 24, 24: 24, 25: 32, 48: 48, 49: 64, 64: 64, 1024: 1024, 1025: 1536}
    assert {n: recording_size(n) for n in sizes} == sizes

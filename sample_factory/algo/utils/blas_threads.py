"""NumPy's BLAS in one thread for as long as small products are computed, without a limit on what environments do."""

from __future__ import annotations

from typing import Any

from threadpoolctl import ThreadpoolController


class OneBlasThread:
    """Reusable context manager; not reentrant. Entering costs nothing where BLAS has one thread anyway.

    Starting a second thread for a product of some microseconds costs more than the product, and on shared cores much
    more.
    """

    def __init__(self) -> None:
        self._libraries: list[Any] | None = None  # found when first used: in the process that computes
        self._num_threads: list[int] = []

    def __enter__(self) -> None:
        if self._libraries is None:
            found = ThreadpoolController().select(internal_api="openblas").lib_controllers
            self._libraries = [library for library in found if library.num_threads > 1]
        self._num_threads = [library.num_threads for library in self._libraries]
        for library in self._libraries:
            library.set_num_threads(1)

    def __exit__(self, *_: object) -> None:
        for library, num_threads in zip(self._libraries or (), self._num_threads, strict=True):
            library.set_num_threads(num_threads)

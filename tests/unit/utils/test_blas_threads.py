"""BLAS computes small products in one thread and gets its threads back."""

from __future__ import annotations

import numpy as np
import pytest
from threadpoolctl import ThreadpoolController, threadpool_limits

from sample_factory.algo.learning.shortcuts import Shortcuts
from sample_factory.algo.utils.blas_threads import OneBlasThread


def num_threads() -> set[int]:
    np.zeros((2, 2)) @ np.zeros((2, 2))
    return {library.num_threads for library in ThreadpoolController().select(internal_api="openblas").lib_controllers}


@pytest.mark.parametrize("before", [1, 2])
def test_threads_are_limited_inside_and_restored(before):
    with threadpool_limits(limits=before, user_api="blas"):
        context = OneBlasThread()
        for _ in range(2):
            with context:
                assert num_threads() == {1}
            assert num_threads() == {before}


def test_threads_are_restored_after_an_exception():
    with threadpool_limits(limits=2, user_api="blas"):
        with pytest.raises(ValueError), OneBlasThread():
            raise ValueError
        assert num_threads() == {2}


def test_a_learner_has_one_thread_while_it_trains():
    """Threads of BLAS go on waiting for work after every long sum, and keep cores busy that rollout workers need."""
    with threadpool_limits(limits=2, user_api="blas"):
        with Shortcuts().iteration(None):
            assert num_threads() == {1}
        assert num_threads() == {2}

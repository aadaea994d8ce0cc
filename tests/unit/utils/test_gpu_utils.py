from __future__ import annotations

import os
import subprocess
import sys

import pytest

from sample_factory.utils.attr_dict import AttrDict
from sample_factory.utils.get_available_gpus import get_gpus_without_triggering_pytorch_cuda_initialization
from sample_factory.utils.gpu_utils import (
    CUDA_ENVVAR,
    cuda_envvars_for_policy,
    get_available_gpus,
    gpus_for_process,
    set_global_cuda_envvars,
    set_gpus_for_process,
)


@pytest.fixture(autouse=True)
def _three_gpus(monkeypatch):
    monkeypatch.setenv(CUDA_ENVVAR, "1,3,5")


def test_gpus_are_dealt_out_in_turn():
    assert get_available_gpus() == [1, 3, 5]
    assert [gpus_for_process(i, 1) for i in range(4)] == [[0], [1], [2], [0]]
    assert [gpus_for_process(i, 2) for i in range(3)] == [[0, 1], [2, 0], [1, 2]]


def test_a_mask_restricts_the_choice():
    assert [gpus_for_process(i, 1, [0, 2]) for i in range(3)] == [[0], [2], [0]]
    with pytest.raises(AssertionError, match="4 GPUs requested"):
        gpus_for_process(0, 1, [0, 1, 2, 3])
    with pytest.raises(ValueError, match=r"\[3\] do not exist"):
        gpus_for_process(0, 1, [1, 3])


def test_process_sees_the_physical_gpus_of_its_share():
    assert set_gpus_for_process(1, 2, "actor", [1, 2]) == [1, 2]
    assert os.environ[CUDA_ENVVAR] == "3,5"


def test_policy_gpu():
    cuda_envvars_for_policy(4, "learner")
    assert os.environ[CUDA_ENVVAR] == "3"
    assert gpus_for_process(4, 1) == [0]  # from now on this process counts from zero


def test_without_gpus(monkeypatch):
    monkeypatch.setenv(CUDA_ENVVAR, "")
    assert gpus_for_process(3, 2) == [] and set_gpus_for_process(3, 2, "actor") == []
    assert os.environ[CUDA_ENVVAR] == ""


def test_uuids_are_kept(monkeypatch):
    monkeypatch.setenv(CUDA_ENVVAR, "GPU-aa, MIG-bb")
    cuda_envvars_for_policy(1, "learner")
    assert os.environ[CUDA_ENVVAR] == "MIG-bb"


def test_global_variable_respects_the_user(monkeypatch):
    set_global_cuda_envvars(AttrDict(device="cpu"))
    assert os.environ[CUDA_ENVVAR] == "1,3,5"
    monkeypatch.delenv(CUDA_ENVVAR)
    set_global_cuda_envvars(AttrDict(device="cpu"))
    assert os.environ[CUDA_ENVVAR] == ""


@pytest.mark.multiproc
def test_query_runs_in_a_child_process():
    # An empty list hides all GPUs, on any machine.
    assert get_gpus_without_triggering_pytorch_cuda_initialization({**os.environ, CUDA_ENVVAR: ""}) == ""


def test_import_does_not_load_torch():
    program = "import sys, sample_factory.utils.gpu_utils; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)

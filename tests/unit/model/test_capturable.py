from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from sample_factory.model.capturable import may_capture
from sample_factory.utils.attr_dict import AttrDict


class OwnLayer(nn.Linear):
    """Of a user: it might look at the data."""


def with_hook() -> nn.Module:
    layer = nn.Linear(2, 2)
    layer.register_forward_hook(lambda *_: None)
    return layer


@pytest.mark.parametrize(
    "mode, make, expected",
    [
        ("auto", lambda: nn.Linear(2, 2), True),
        ("auto", lambda: OwnLayer(2, 2), False),
        ("auto", with_hook, False),
        ("always", lambda: OwnLayer(2, 2), True),
        ("always", with_hook, True),
        ("never", lambda: nn.Linear(2, 2), False),
    ],
)
def test_cuda_graphs(mode: str, make: Any, expected: bool) -> None:
    model = nn.Sequential(make())
    assert may_capture(AttrDict(cuda_graphs=mode), model, torch.device("cuda")) is expected
    assert not may_capture(AttrDict(cuda_graphs=mode), model, torch.device("cpu"))


def test_configurations_without_the_flag_are_automatic() -> None:
    assert may_capture(AttrDict(), nn.Linear(2, 2), torch.device("cuda"))

"""Convolutions block by block give what the modules give, forwards and backwards."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sample_factory.algo.utils.row_threads import get_row_threads, set_row_threads
from sample_factory.model import conv_stack
from sample_factory.model.conv_stack import convolve, plain_convolutions, prepared_weights


@pytest.fixture(autouse=True)
def _restore_threads() -> Any:
    before = get_row_threads()
    yield
    set_row_threads(before)


def make_layers(activation: nn.Module) -> nn.Sequential:
    torch.manual_seed(2)
    return nn.Sequential(
        nn.Conv2d(3, 16, 8, stride=4), activation, nn.Conv2d(16, 24, (4, 3), stride=(2, 1)), activation
    )


def images(num_images: int) -> Tensor:
    return torch.randn(num_images, 3, 44, 36, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("activation", [nn.ELU(), nn.ReLU(), nn.Tanh()], ids=str)
def test_features_and_gradients_are_those_of_the_modules(
    monkeypatch: pytest.MonkeyPatch, activation: nn.Module, threads: int, layout: torch.memory_format
) -> None:
    monkeypatch.setattr(conv_stack, "_BLOCK_NUMBERS", 7 * 16 * 10 * 8)  # blocks of seven images
    monkeypatch.setattr(conv_stack, "MIN_FLOPS_PER_CALL", 1e5)
    set_row_threads(threads)
    layers = make_layers(activation)
    stack = plain_convolutions(layers)
    assert stack is not None
    x = images(61).contiguous(memory_format=layout).requires_grad_()
    features = convolve(stack, x)
    direction = torch.randn(features.shape, generator=torch.Generator().manual_seed(4))
    features.backward(direction)

    same, same_x = copy.deepcopy(layers), x.detach().clone().requires_grad_()
    same.zero_grad()
    expected = same(same_x).flatten(1)
    expected.backward(direction)
    assert torch.allclose(features, expected, atol=1e-5)
    assert torch.allclose(x.grad, same_x.grad, atol=1e-4)  # type: ignore[arg-type]
    for parameter, same_parameter in zip(layers.parameters(), same.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, same_parameter.grad, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_nothing_is_recorded_where_no_gradient_is_wanted(monkeypatch: pytest.MonkeyPatch, mode: Any) -> None:
    monkeypatch.setattr(conv_stack, "MIN_FLOPS_PER_CALL", 1e5)
    layers, x = make_layers(nn.ReLU()), images(20)
    stack = plain_convolutions(layers)
    assert stack is not None
    for threads in (1, 2):
        set_row_threads(threads)
        with mode():
            features = convolve(stack, x, prepared_weights(stack))
            assert not features.requires_grad and features.is_inference() == (mode is torch.inference_mode)
            assert torch.allclose(features, layers(x).flatten(1), atol=1e-5)


def test_a_gradient_is_computed_once_and_not_after_changes_in_place() -> None:
    layers = make_layers(nn.ReLU())
    stack = plain_convolutions(layers)
    assert stack is not None
    features = convolve(stack, images(3))
    features.sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="only once"):
        features.sum().backward()
    features = convolve(stack, images(3))
    with torch.no_grad():
        layers[0].weight.mul_(2.0)  # type: ignore[operator, union-attr]
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        features.sum().backward()


def with_hook() -> nn.Sequential:
    layers = make_layers(nn.ReLU())
    layers[0].register_forward_hook(lambda *args: None)
    return layers


@pytest.mark.parametrize(
    "module",
    [
        nn.Sequential(),
        nn.Identity(),
        nn.Sequential(nn.Conv2d(3, 4, 3)),
        nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()),
        nn.Sequential(nn.Conv2d(3, 4, 3, dilation=2), nn.ReLU()),
        nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.ReLU()),
        nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.ReLU()),
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ELU(alpha=0.5)),
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Tanh()),
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2)),
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).double(),
        with_hook(),
    ],
    ids=str,
)
def test_other_modules_are_called_as_they_are(module: nn.Module) -> None:
    assert plain_convolutions(module) is None

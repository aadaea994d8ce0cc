"""Rows shared by threads give what one thread gives, forwards and backwards."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from sample_factory.algo.utils import row_threads
from sample_factory.algo.utils.row_threads import (
    compute_by_rows,
    row_parts,
    run_together,
    set_row_threads,
)
from sample_factory.model import dense_stack
from sample_factory.model.dense_stack import DenseStack, RecordedHeads
from sample_factory.model.gru_sequence import gru_layer
from sample_factory.ued.models.gru_sequence import gru_states
from sample_factory.ued.models.lstm_sequence import lstm_states

STEPS, ROWS, SIZE = 5, 35, 256
DIFFERENT = 40  # inputs


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    set_row_threads(1)
    yield
    set_row_threads(1)


@pytest.mark.parametrize(
    ("threads", "rows", "flops", "sizes"),
    [
        (1, 64, 1e9, [64]),
        (2, 64, 1e9, [32, 32]),
        (4, 35, 1e9, [8, 9, 9, 9]),
        (4, 31, 1e9, [10, 10, 11]),
        (2, 15, 1e9, [15]),
        (2, 64, 1e5, [64]),
        (4, 64, 2e5, [21, 21, 22]),
        (2, 0, 1e9, [0]),
    ],
)
def test_parts_are_large_enough(threads: int, rows: int, flops: float, sizes: list[int]) -> None:
    set_row_threads(threads)
    parts = row_parts(rows, flops, min_flops=4e6)
    assert [part.stop - part.start for part in parts] == sizes
    assert [part.start for part in parts[1:]] == [part.stop for part in parts[:-1]]
    assert (parts[0].start, parts[-1].stop) == (0, rows)


@pytest.mark.parametrize("number", [0, -1, 5])
def test_number_of_threads_is_checked(number: int) -> None:
    with pytest.raises(ValueError, match="between 1 and 4"):
        set_row_threads(number)
    assert row_threads._threads.number == 1


def test_tasks_run_at_the_same_time() -> None:
    barrier = threading.Barrier(4, timeout=20)

    def task() -> int:
        barrier.wait()  # raises unless all four are there
        return threading.get_ident()

    results = run_together([task] * 4)
    assert results[0] == threading.get_ident()
    assert len(set(results)) == 4


@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_is_raised_after_all_tasks_have_ended(failing: int) -> None:
    ended = []

    def fail() -> None:
        raise ZeroDivisionError

    def succeed() -> None:
        ended.append(1)

    with pytest.raises(ZeroDivisionError):
        run_together([fail if i == failing else succeed for i in range(3)])
    assert len(ended) == 2


def lstm(tensors: list[Tensor], resets: Tensor) -> Tensor:
    table, weight, _, _, state, cell = tensors
    rows = torch.arange(STEPS * ROWS).remainder(DIFFERENT).view(STEPS, ROWS)
    return lstm_states(table.repeat(1, 4), rows, weight, cell.detach(), state.detach(), resets)


def gru(tensors: list[Tensor], resets: Tensor) -> Tensor:
    table, weight, bias, _, state, _ = tensors
    rows = torch.arange(STEPS * ROWS).remainder(DIFFERENT).view(STEPS, ROWS)
    return gru_states(table.repeat(1, 3), rows, weight[: 3 * SIZE], bias[:SIZE], state.detach(), resets)


def gru_of_learner(tensors: list[Tensor], resets: Tensor) -> Tensor:
    _, weight, bias, x, state, _ = tensors
    after = [step.nonzero().squeeze(1) if step.any() else None for step in resets]
    recurrent = weight[: 3 * SIZE]
    parameters = (recurrent * 0.5, recurrent, bias, bias * 0.5)
    return gru_layer(x, state.detach(), after, parameters)


def outcome(network: Callable[[list[Tensor], Tensor], Tensor], threads: int) -> list[Tensor | None]:
    set_row_threads(threads)
    generator = torch.Generator().manual_seed(3)
    shapes = [(DIFFERENT, SIZE), (4 * SIZE, SIZE), (3 * SIZE,), (STEPS * ROWS, SIZE), (ROWS, SIZE), (ROWS, SIZE)]
    tensors = [(torch.randn(shape, generator=generator) * 0.1).requires_grad_() for shape in shapes]
    resets = torch.rand(STEPS, ROWS, generator=generator) < 0.1
    resets[2] = False
    output = network(tensors, resets)
    direction = torch.randn(output.shape, generator=generator)
    return [output, *torch.autograd.grad(output, tensors, direction, allow_unused=True)]


@pytest.mark.parametrize("network", [lstm, gru, gru_of_learner])
@pytest.mark.parametrize("threads", [2, 3, 4])
def test_recurrent_layers_give_the_same(network: Callable[[list[Tensor], Tensor], Tensor], threads: int) -> None:
    expected = outcome(network, 1)
    assert sum(x is not None for x in expected) >= 3
    for actual, wanted in zip(outcome(network, threads), expected, strict=True):
        assert (actual is None) == (wanted is None)
        if actual is not None and wanted is not None:
            assert torch.allclose(actual, wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("network", [lstm, gru, gru_of_learner])
def test_recurrent_layers_are_divided(network: Callable[[list[Tensor], Tensor], Tensor]) -> None:
    def operations(threads: int) -> list[str]:
        output = outcome(network, threads)[0]
        assert output is not None
        node, names = output.grad_fn, []
        while node is not None:
            names.append(type(node).__name__)
            node = node.next_functions[0][0] if node.next_functions else None
        return names

    assert "_ByRowsBackward" not in operations(1)
    assert "_ByRowsBackward" in operations(2)


@pytest.mark.parametrize("activation", ["elu", "relu", "tanh"])
@pytest.mark.parametrize("threads", [2, 4])
def test_linear_layers_give_the_same(activation: str, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense_stack, "_BLOCK_NUMBERS", 100 * 256)  # several blocks per thread
    generator = torch.Generator().manual_seed(5)
    rows, actions, size = 1003, 3, 256
    shapes = [(size, 6), (size,), (size, size), (size,), (actions, size), (actions,), (1, size), (1,)]
    weights = [torch.randn(shape, generator=generator) * 0.1 for shape in shapes]
    x, direction = (torch.randn(shape, generator=generator) for shape in [(rows, 6), (actions + 1, rows)])

    def results(number: int) -> list[Tensor]:
        set_row_threads(number)
        p = [weight.clone().requires_grad_() for weight in weights]
        heads = RecordedHeads(DenseStack(tuple(p[:4]), activation), (p[4], p[5]), (p[6], p[7]), x)
        assert len(heads._computed._blocks) == number
        heads.backward(direction)
        gradients = [parameter.grad for parameter in p if parameter.grad is not None]
        assert len(gradients) == len(p)
        return [heads.logits, heads.values, *gradients]

    for actual, expected in zip(results(threads), results(1), strict=True):
        assert torch.allclose(actual, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_nothing_is_recorded_where_no_gradient_is_wanted(mode: Callable[[], Any]) -> None:
    generator = torch.Generator().manual_seed(5)
    x, initial = torch.randn(3 * 32, 8, generator=generator), torch.randn(32, 256, generator=generator)
    shapes = [(3 * 256, 8), (3 * 256, 256), (3 * 256,), (3 * 256,)]
    weights = tuple(torch.randn(shape, generator=generator).mul_(0.1).requires_grad_() for shape in shapes)
    results = []
    for number in (1, 2):
        set_row_threads(number)
        with mode():
            results.append(gru_layer(x, initial, [None] * 3, weights))  # type: ignore[arg-type]
    assert torch.allclose(*results, atol=1e-5)
    assert not results[1].requires_grad and results[1].is_inference() == (mode is torch.inference_mode)


def test_a_layer_without_rows() -> None:
    weights = tuple(torch.zeros(shape) for shape in [(12, 5), (12, 4), (12,), (12,)])
    assert gru_layer(torch.zeros(0, 5), torch.zeros(0, 4), [None, None], weights).shape == (0, 4)  # type: ignore[arg-type]


def test_no_gradient_where_nobody_wants_one() -> None:
    set_row_threads(2)
    x, factor = torch.ones(1, 16, 1), torch.ones(1, requires_grad=True)

    def scale(part: slice, x: Tensor, factor: Tensor) -> Tensor:
        return x * factor

    with torch.no_grad():
        assert not compute_by_rows(scale, 16, 1e9, (1, None), x, factor).requires_grad
    result = compute_by_rows(scale, 16, 1e9, (1, None), x, factor)
    result.sum().backward(retain_graph=True)
    assert factor.grad == 16.0
    assert x.grad is None
    with pytest.raises(RuntimeError, match="only once"):
        result.sum().backward()

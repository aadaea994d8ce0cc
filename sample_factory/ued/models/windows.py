"""Large images that change little: products of a convolution's features with a weight, from what is new in each step.

A teacher places one object per step, so that of the convolution's windows a few change and most of those that do have
been seen elsewhere. Every different pair of position and content is multiplied with its part of the weight once;
sums over the pairs that come and go, and over time, give the products of all steps.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sample_factory.algo.utils.products import multiply

_WORTHWHILE = 0.25  # share of different windows above which the plain product is faster


@dataclass(frozen=True)
class WindowTable:
    """Windows of images ``[T, B, H, W, C]``.

    ``contents``: different contents ``[Q, C k k]``, float32, in the order of a convolution's weight. ``content_of``: of
    every different pair of position and content, int64 ``[U]``, by position; ``bounds``: where the pairs of each
    position begin, and the end of the last. ``changes``: sparse ``[T B, U]``, 1 for pairs that come with a step, -1 for
    those that go. ``changes_t``: its transpose.
    """

    contents: Tensor
    content_of: Tensor
    bounds: list[int]
    changes: Tensor
    changes_t: Tensor
    num_envs: int

    @classmethod
    def of(cls, images: Tensor, kernel: int) -> WindowTable | None:
        """``None`` if too many windows differ for the table to pay. ``images``: ``[T, B, H, W, C]`` on the CPU."""
        num_steps, num_envs = images.shape[:2]
        unfolded = images.flatten(0, 1).float().unfold(1, kernel, 1).unfold(2, kernel, 1)  # [N, H', W', C, k, k]
        windows = unfolded.reshape(-1, images.shape[-1] * kernel * kernel)  # [N P, C k k]
        num_positions = len(windows) // (num_steps * num_envs)
        words = windows.numpy().view(np.int32)
        hashes = np.zeros(len(words), np.int64)
        for column, factor in zip(words.T, hash_factors(words.shape[1]), strict=True):
            hashes += column * factor
        _, where, content = np.unique(hashes, return_index=True, return_inverse=True)
        if not np.array_equal(words[where[content]], words):
            return None
        # Pairs are numbered by position first.
        pairs = np.tile(np.arange(num_positions), num_steps * num_envs) * len(where) + content
        distinct, pair = np.unique(pairs, return_inverse=True)
        if len(distinct) > _WORTHWHILE * len(pairs):
            return None
        position, content_of = np.divmod(distinct, len(where))
        changes = _changes(pair.reshape(num_steps, num_envs, num_positions))
        return cls(
            contents=windows[torch.from_numpy(where)],
            content_of=torch.from_numpy(content_of),
            bounds=np.searchsorted(position, np.arange(num_positions + 1)).tolist(),
            changes=_sparse(*changes, (num_steps * num_envs, len(distinct))),
            changes_t=_sparse(changes[1], changes[0], changes[2], (len(distinct), num_steps * num_envs)),
            num_envs=num_envs,
        )


def hash_factors(size: int) -> np.ndarray:
    """Factors, odd int64 ``[size]``, whose products with rows of 32-bit words add up to a hash."""
    factors: np.ndarray = np.random.default_rng(0).integers(1 << 62, size=size, dtype=np.int64)
    return factors | 1


def _changes(pair: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, columns and values of ``WindowTable.changes`` for the pairs ``[T, B, P]`` of every image."""
    num_envs = pair.shape[1]
    is_new = np.ones(pair.shape, bool)
    is_new[1:] = pair[1:] != pair[:-1]
    row_of = np.broadcast_to(np.arange(pair.shape[0] * num_envs).reshape(*pair.shape[:2], 1), pair.shape)
    rows, columns = row_of[is_new], pair[is_new]
    went = is_new[1:]
    old_rows, old_columns = row_of[1:][went], pair[:-1][went]
    values = np.concatenate([np.ones(len(rows), np.float32), -np.ones(len(old_rows), np.float32)])
    return np.concatenate([rows, old_rows]), np.concatenate([columns, old_columns]), values


def _sparse(rows: np.ndarray, columns: np.ndarray, values: np.ndarray, shape: tuple[int, int]) -> Tensor:
    order = np.lexsort((columns, rows))
    starts = np.searchsorted(rows[order], np.arange(shape[0] + 1))
    parts = [torch.from_numpy(x) for x in (starts, columns[order], values[order])]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(parts[0], parts[1], parts[2], shape, check_invariants=True)


class _WindowProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, others: Tensor, weight: Tensor, bias: Tensor, table: WindowTable) -> Tensor:
        num_filters = features.shape[1]
        by_pair = features.index_select(0, table.content_of)  # [U, F]
        products = features.new_empty(len(by_pair), len(weight))  # [U, G]
        for columns, pairs in _positions(table, num_filters):
            products[pairs] = multiply(by_pair[pairs], weight[:, columns].t())
        changes = torch.mm(table.changes, products)
        steps = changes.view(-1, table.num_envs, len(weight))
        for t in range(1, len(steps)):
            steps[t].add_(steps[t - 1])
        ctx.save_for_backward(by_pair, others, weight)
        ctx.table, ctx.num_contents = table, len(features)
        num_image_features = (len(table.bounds) - 1) * num_filters
        return changes.add_(bias).addmm_(others, weight[:, num_image_features:].t())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        by_pair, others, weight = ctx.saved_tensors
        table = ctx.table
        num_filters = by_pair.shape[1]
        num_image_features = (len(table.bounds) - 1) * num_filters
        grad_weight, grad_by_pair = torch.empty_like(weight), torch.empty_like(by_pair)
        grad_weight[:, num_image_features:] = multiply(grad.t(), others)
        # A change lasts: its gradient is the sum over all later steps.
        sums = grad.clone().view(-1, table.num_envs, len(weight))
        for t in range(len(sums) - 2, -1, -1):
            sums[t].add_(sums[t + 1])
        grad_products = torch.mm(table.changes_t, sums.flatten(0, 1))  # [U, G]
        for columns, pairs in _positions(table, num_filters):
            grad_weight[:, columns] = multiply(grad_products[pairs].t(), by_pair[pairs])
            grad_by_pair[pairs] = multiply(grad_products[pairs], weight[:, columns])
        grad_features = by_pair.new_zeros(ctx.num_contents, num_filters)
        grad_features.index_add_(0, table.content_of, grad_by_pair)
        grad_others = multiply(grad, weight[:, num_image_features:])
        return grad_features, grad_others, grad_weight, grad.sum(0), None


def _positions(table: WindowTable, num_filters: int) -> list[tuple[slice, slice]]:
    """For each position the columns of the weight and the pairs."""
    bounds = table.bounds
    return [
        (slice(p * num_filters, (p + 1) * num_filters), slice(bounds[p], bounds[p + 1])) for p in range(len(bounds) - 1)
    ]


def window_product(features: Tensor, others: Tensor, weight: Tensor, bias: Tensor, table: WindowTable) -> Tensor:
    """``x weight^T + bias``, ``[T B, G]``, where ``x`` are the features of all windows by position, then the others.

    Differentiable once with respect to all tensors.

    :param features: of every different content ``[Q, F]``
    :param others: what follows the image's features, ``[T B, E]``
    :param weight: ``[G, P F + E]``
    """
    return _WindowProduct.apply(features, others, weight, bias, table)

"""Splitting one training dataset into minibatches that respect recurrence."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from sample_factory.algo.utils.tensor_dict import TensorDict
from sample_factory.utils.attr_dict import AttrDict

MinibatchIndices = slice | np.ndarray  # rows of the flat dataset [D, ...]


def check_minibatch_split(experience_size: int, batch_size: int, rollout: int, recurrence: int) -> None:
    """Every minibatch must consist of whole recurrence blocks, and all minibatches must have the same size."""
    if rollout % recurrence != 0:
        raise ValueError(
            f"--rollout={rollout} is not a multiple of --recurrence={recurrence}; "
            "choose a recurrence that divides the rollout, or -1"
        )
    if experience_size % batch_size != 0:
        raise ValueError(
            f"experience size {experience_size} is not a multiple of --batch_size={batch_size}; "
            f"make batch_size a multiple of --rollout={rollout}"
        )


def split_into_minibatches(
    experience_size: int,
    batch_size: int,
    num_minibatches: int,
    *,
    rollout: int,
    recurrence: int,
    shuffle: bool,
    rng: np.random.Generator,
) -> list[MinibatchIndices]:
    """Rows of the minibatches of one epoch; call again for every epoch, so that shuffling is redrawn.

    One minibatch is the whole dataset, never shuffled. Not shuffled: consecutive slices (views, no copies). Shuffled:
    blocks of ``recurrence`` consecutive samples are permuted, the inside of a block keeps its order.
    """
    if num_minibatches == 1:
        return [slice(0, experience_size)]
    check_minibatch_split(experience_size, batch_size, rollout, recurrence)
    if not shuffle:
        return [slice(start, start + batch_size) for start in range(0, experience_size, batch_size)]

    block_starts = np.arange(0, experience_size, recurrence)
    rng.shuffle(block_starts)
    indices = (block_starts[:, None] + np.arange(recurrence)[None, :]).reshape(-1)  # [D]
    return list(np.split(indices, experience_size // batch_size))


def take_minibatch(dataset: TensorDict, indices: MinibatchIndices) -> AttrDict:
    """Rows of every tensor of the dataset, which may be spread over CPU and GPU; views where the rows are a slice."""
    if isinstance(indices, slice):
        if "valids" in dataset and indices == slice(0, len(dataset["valids"])):
            return AttrDict(dataset)  # all of it
        return AttrDict(dataset[indices])
    indices_on: dict[torch.device, torch.Tensor] = {}

    def take(x: Any) -> Any:
        if isinstance(x, dict):
            return TensorDict({key: take(value) for key, value in x.items()})
        if x.device not in indices_on:
            rows = torch.from_numpy(indices)
            # Pinned, so that the host goes on at once.
            indices_on[x.device] = rows.pin_memory().to(x.device, non_blocking=True) if x.is_cuda else rows
        return x.index_select(0, indices_on[x.device])

    return AttrDict({key: take(value) for key, value in dataset.items()})


def forget_step(variables: AttrDict) -> None:
    """Let go of the variables of an SGD step and of its minibatch ``mb``, if there are any.

    An :class:`AttrDict` refers to itself. What it holds, the graph of the losses and whole batches of images, would
    stay until Python's garbage collector comes by, which is after hundreds of steps.
    """
    if "mb" in variables:
        variables.mb.clear()
    variables.clear()

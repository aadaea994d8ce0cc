"""Trajectories as packed sequences for recurrent cores.

Every trajectory is cut after each episode end; the pieces become the sequences of one PackedSequence, so a recurrent
core runs through them in one call and neither states nor gradients cross an episode end.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence


def build_rnn_inputs(x: Tensor, dones_cpu: Tensor, rnn_states: Tensor, T: int) -> tuple[PackedSequence, Tensor, Tensor]:
    """Cut trajectories at episode ends and pack the pieces.

    :param x: features, trajectory after trajectory, ``[N*T, D]``
    :param dones_cpu: non-zero at the last step of an episode, on the CPU, ``[N*T]``
    :param rnn_states: states before every step, ``[N*T, H]``
    :param T: steps per trajectory
    :returns: the packed pieces; their initial states ``[num_pieces, H]`` in order of appearance (zero for pieces that
        begin after an episode end inside a trajectory, the stored state at a trajectory's start); and the index that
        restores ``[N*T]`` order, for :func:`build_core_out_from_seq`.
    """
    num_steps = x.shape[0]
    starts, sorted_pieces, batch_sizes, steps = _pack_indices(np.asarray(dones_cpu) != 0, num_steps, T)

    num_pieces = len(starts)
    # One transfer to the device for all index vectors.
    indices = torch.from_numpy(np.concatenate([starts, sorted_pieces, steps])).to(x.device, non_blocking=True)
    starts_t, sorted_t, steps_t = indices.split([num_pieces, num_pieces, num_steps])
    packed = PackedSequence(
        x.index_select(0, steps_t), torch.from_numpy(batch_sizes), sorted_t, _invert_permutation(sorted_t)
    )
    keeps_state = (starts_t % T == 0).to(rnn_states.dtype).unsqueeze(1)
    initial_states = rnn_states.index_select(0, starts_t) * keeps_state
    return packed, initial_states, _invert_permutation(steps_t)


def _pack_indices(
    dones: np.ndarray, num_steps: int, num_steps_per_trajectory: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Index vectors of the packed pieces, int64.

    :returns: first step of each piece in order of appearance; pieces from longest to shortest; how many pieces have a
        0th, 1st, 2nd... step; and the steps in packed order: the 0th of all pieces, the 1st of those long enough...
    """
    is_start = np.empty([num_steps], dtype=bool)
    is_start[1:] = dones.reshape(-1)[:-1]
    is_start[::num_steps_per_trajectory] = True
    starts = np.flatnonzero(is_start)
    lengths = np.diff(starts, append=num_steps)

    sorted_pieces = np.argsort(-lengths, kind="stable")
    # Number of pieces with length > t, for every t: suffix sums of the histogram of lengths.
    batch_sizes = np.bincount(lengths)[:0:-1].cumsum()[::-1].astype(np.int64)
    first_row = np.cumsum(batch_sizes) - batch_sizes
    piece_of_row = np.arange(num_steps) - np.repeat(first_row, batch_sizes)
    step_of_row = np.repeat(np.arange(len(batch_sizes)), batch_sizes)
    steps = starts[sorted_pieces][piece_of_row] + step_of_row
    return starts, sorted_pieces, batch_sizes, steps


def _invert_permutation(permutation: Tensor) -> Tensor:
    inverse = torch.empty_like(permutation)
    inverse[permutation] = torch.arange(len(permutation), device=permutation.device)
    return inverse


def build_core_out_from_seq(x_seq: PackedSequence, inverted_select_inds: Tensor) -> Tensor:
    """Output of the core ``[N*T, H]``, trajectory after trajectory again."""
    return x_seq.data.index_select(0, inverted_select_inds)

from __future__ import annotations

import torch

from sample_factory.ued.random_state import restore_generator


def draw(state: torch.Tensor) -> list[float]:
    generator = torch.Generator().manual_seed(99)
    restore_generator(generator, state)
    return torch.rand(3, generator=generator).tolist()


def test_streams_continue_where_they_were() -> None:
    generator = torch.Generator().manual_seed(1)
    torch.rand(5, generator=generator)
    state = generator.get_state()
    assert draw(state) == torch.rand(3, generator=generator).tolist()


def test_states_of_another_kind_of_device_begin_streams_of_their_own() -> None:
    first, second = torch.arange(16, dtype=torch.uint8), torch.arange(1, 17, dtype=torch.uint8)  # the size of CUDA's
    assert draw(first) == draw(first) != draw(second)

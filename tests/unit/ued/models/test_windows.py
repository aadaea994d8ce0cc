"""Large images that change little: the same values and gradients as without the table of windows."""

from __future__ import annotations

import pytest
import torch

from sample_factory.ued.envs.interfaces import ObservationSpec
from sample_factory.ued.models.registration import make_teacher_model
from sample_factory.ued.models.windows import WindowTable

STEPS, ENVS, SIZE = 12, 5, 11
SPEC = ObservationSpec(image=(SIZE, SIZE, 2), scalars={"time": STEPS}, vectors={"noise": 3})


def building_sites(generator: torch.Generator) -> dict[str, torch.Tensor]:
    """One tile is placed per step, sometimes on an occupied one; every fourth step takes one away."""
    image = torch.zeros(STEPS, ENVS, SIZE, SIZE, 2)
    image[:, :, 0] = 0.2
    for t in range(1, STEPS):
        image[t] = image[t - 1]
        for env in range(ENVS):
            y, x = torch.randint(0, SIZE, [2], generator=generator).tolist()
            image[t, env, y, x, 0] = 0.0 if t % 4 == 3 else 0.1 * (1 + t % 2)
    return {
        "image": image,
        "time": torch.arange(STEPS).unsqueeze(1).expand(STEPS, ENVS).contiguous(),
        "noise": torch.rand(STEPS, ENVS, 3, generator=generator),
    }


@pytest.mark.parametrize("arch", ["lstm", "gru", "s5"])
@pytest.mark.parametrize("activation", ["relu", "crelu", "gelu"])
def test_values_and_gradients(arch, activation):
    generator = torch.Generator().manual_seed(0)
    options = {"recurrent_arch": arch, "recurrent_hidden_dim": 8, "n_conv_filters": 4, "base_activation": activation}
    model = make_teacher_model("default_teacher_cnn", SPEC, 6, options, generator)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    obs = building_sites(generator)
    assert model.prepare(obs, 2).windows is not None
    resets = torch.rand(STEPS, ENVS, generator=generator) < 0.1
    weights = torch.randn(STEPS, ENVS, 7, generator=generator)
    results = []
    for run in (model.sequence, model.sequence_by_steps):
        model.zero_grad()
        outputs = torch.cat(run(obs, model.initial_carry(ENVS), resets), -1)
        (outputs * weights).sum().backward()
        results.append({"outputs": outputs} | {name: p.grad.clone() for name, p in model.named_parameters()})
    for name, expected in results[1].items():
        assert torch.allclose(results[0][name], expected, atol=2e-4, rtol=1e-3), name


def test_windows_are_listed_once():
    images = torch.zeros(3, 2, 9, 9, 1)
    images[1:, 0, 4, 4] = 1.0
    table = WindowTable.of(images, 3)
    assert len(table.contents) == 10  # nothing, and the tile at each place of the window
    assert len(table.content_of) == 49 + 9
    assert table.changes.values().sum() == 2 * 49
    assert table.changes._nnz() == 2 * 49 + 2 * 9


def test_images_that_change_all_over_have_no_table():
    assert WindowTable.of(torch.rand(3, 2, 9, 9, 1, generator=torch.Generator().manual_seed(0)), 3) is None

"""Features: their order and their definition."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from sample_factory.ued.models.options import ModelOptions
from sample_factory.ued.models.trunk import Trunk
from tests.unit.ued.models.specs import STUDENT_SPEC, random_observations

ACTIVATIONS = {
    "relu": F.relu,
    "gelu": lambda x: F.gelu(x, approximate="tanh"),
    "leaky_relu": lambda x: torch.where(x > 0, x, 0.01 * x),
    "crelu": lambda x: torch.cat([F.relu(x), F.relu(-x)], -1),
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_image_features_by_row_column_and_channel(activation):
    generator = torch.Generator().manual_seed(0)
    trunk = Trunk(STUDENT_SPEC, ModelOptions(n_conv_filters=4, base_activation=activation), generator=generator)
    with torch.no_grad():
        trunk.conv.bias.normal_(generator=generator)
    obs = random_observations([6], generator)
    features = trunk(obs)
    assert features.shape == (6, trunk.num_features)
    channels = 8 if activation == "crelu" else 4
    for row in range(3):
        for column in range(3):
            window = obs["image"][:, row : row + 3, column : column + 3, :]
            expected = torch.einsum("nhwc,fchw->nf", window, trunk.conv.weight) + trunk.conv.bias
            start = (row * 3 + column) * channels
            actual = features[:, start : start + channels]
            assert torch.allclose(actual, ACTIVATIONS[activation](expected), atol=1e-6)


def test_scalars_and_vectors_follow_the_image():
    spec = type(STUDENT_SPEC)((3, 3, 1), {"time": 7}, {"noise": 2})
    trunk = Trunk(spec, ModelOptions(n_conv_filters=1, n_scalar_embeddings=None, scalar_embed_dim=3))
    obs = {"image": torch.zeros(2, 3, 3, 1), "time": torch.tensor([0, 6]), "noise": torch.tensor([[1.0, 2], [3, 4]])}
    features = trunk(obs)
    assert torch.equal(features[:, 1:4], trunk.scalars["time"].weight[[0, 6]])
    assert torch.equal(features[:, 4:], obs["noise"])


def test_a_dense_layer_instead_of_an_embedding():
    spec = type(STUDENT_SPEC)((3, 3, 1), {"agent_dir": 4}, {})
    trunk = Trunk(spec, ModelOptions(n_conv_filters=1, n_scalar_embeddings=0, scalar_embed_dim=3))
    features = trunk({"image": torch.zeros(2, 3, 3, 1), "agent_dir": torch.tensor([1, 3])})
    weight = trunk.scalars["agent_dir"].weight.squeeze(1)
    assert torch.allclose(features[:, 1:], torch.stack([0.25 * weight, 0.75 * weight]))


def test_no_scalars():
    trunk = Trunk(STUDENT_SPEC, ModelOptions(n_scalar_embeddings=0, scalar_embed_dim=0))
    assert trunk.num_features == 144


def test_images_of_bytes():
    trunk = Trunk(STUDENT_SPEC, ModelOptions())
    obs = random_observations([4], torch.Generator().manual_seed(0))
    as_bytes = {**obs, "image": (10 * obs["image"]).round().to(torch.uint8)}
    assert torch.allclose(trunk(as_bytes), trunk({**obs, "image": as_bytes["image"].float()}))

"""Small networks with random weights, none of them zero, in the shapes of both presets."""

import dataclasses

import pytest
import torch

from fpt_ros.core.config import (
    FPT_SMALL,
    DinoEncoderConfig,
    HeadConfig,
    ModelConfig,
    PyramidEncoderConfig,
    TransformerConfig,
)
from fpt_ros.core.model import FlowPokeModel

CONFIGS = {
    "base": ModelConfig(
        DinoEncoderConfig(input_px=42, width=32, depth=1, heads=2, position_grid=4),
        TransformerConfig(width=64, depth=2, d_head=32),
        HeadConfig(),
    ),
    "small": ModelConfig(
        PyramidEncoderConfig(
            input_px=64,
            width_at_2=8,
            width_at_4=8,
            width_at_8=16,
            width=32,
            depth=1,
            heads=2,
            mlp_ratio=2,
        ),
        dataclasses.replace(FPT_SMALL.transformer, width=64, depth=1),
        FPT_SMALL.head,
    ),
}


def random_model(config):
    """A network on which every weight has a say."""
    torch.manual_seed(1)
    model = FlowPokeModel(config).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if "freqs" not in name and "falloff" not in name:
            parameter += 0.1 * torch.randn_like(parameter)
    return model


@pytest.fixture(scope="session", params=CONFIGS)
def model(request):
    return random_model(CONFIGS[request.param])

"""Fine-tuned weights are averaged and calibrated on validation data."""

import dataclasses

import pytest
import torch

from fpt_ros.core.checkpoint import load_checkpoint, save_checkpoint
from fpt_ros.core.config import DinoEncoderConfig, HeadConfig, ModelConfig, TransformerConfig
from fpt_ros.core.model import FlowPokeModel
from fpt_ros.train.choose_weights import choose_weights
from fpt_ros.train.validate import ValidationSet

CONFIG = ModelConfig(
    DinoEncoderConfig(input_px=28, width=32, depth=1, heads=2, patch_px=7, position_grid=4),
    TransformerConfig(width=32, depth=2, d_head=16),
    HeadConfig(n_components=2, flow_scale=10.0, min_std=1e-4),
)
CPU = torch.device("cpu")


def drawn_from(model, std_factor):
    """Views whose motion is drawn from what the network expects without a poke.

    Of new weights a poke changes next to nothing.
    """
    n_views, n_points = 8, 200
    random = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (n_views, 3, 28, 28), dtype=torch.uint8, generator=random)
    xy = torch.rand(n_points, 2, generator=random)
    context = model.encode(image.float() / 127.5 - 1)
    none = xy.new_empty(n_views, 1, 0, 2)
    pokes = model.condition(context, none, none)
    raw = model.query(context, pokes, xy.expand(n_views, 1, n_points, 2))
    model = with_factor(model, std_factor)
    flow = model.mixture(raw)[:, 0].sample(1, generator=random)[0]
    valid = torch.ones(n_views, n_points, dtype=torch.bool)
    return ValidationSet(image, xy, flow.float(), valid, torch.ones(n_views, dtype=torch.bool))


def with_factor(model, std_factor):
    head = dataclasses.replace(model.config.head, std_factor=std_factor)
    copy = FlowPokeModel(dataclasses.replace(model.config, head=head))
    copy.load_state_dict(model.state_dict())
    return copy.eval()


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    model = FlowPokeModel(CONFIG).eval()
    save_checkpoint(tmp_path / "base.safetensors", with_factor(model, 1.2))
    save_checkpoint(tmp_path / "tuned.safetensors", model)
    return model, tmp_path


@torch.no_grad()
@pytest.mark.parametrize("std_factor", [0.7, 1.0, 1.4])
def test_finds_the_deviations_that_the_data_has(saved, std_factor):
    model, folder = saved
    told = []
    chosen = choose_weights(
        load_checkpoint(folder / "base.safetensors"),
        folder / "tuned.safetensors",
        drawn_from(model, std_factor),
        None,
        5.0,
        CPU,
        told.append,
    )
    assert chosen.std_factor == std_factor
    assert chosen.checkpoint.config == with_factor(model, std_factor).config
    for name, value in chosen.checkpoint.build_model().state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[name])
    assert told == sorted(told)
    assert told[-1] < 1

"""Fine-tuned weights are averaged by validation data."""

import copy
from math import nan
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fpt_ros.core.checkpoint import load_checkpoint, save_checkpoint
from fpt_ros.core.config import DinoEncoderConfig, HeadConfig, ModelConfig, TransformerConfig
from fpt_ros.core.model import FlowPokeModel
from fpt_ros.train.blend import SHARES
from fpt_ros.train.choose_weights import _by_scene, choose_weights
from fpt_ros.train.validate import ValidationSet

CONFIG = ModelConfig(
    DinoEncoderConfig(input_px=28, width=32, depth=1, heads=2, patch_px=7, position_grid=4),
    TransformerConfig(width=32, depth=2, d_head=16),
    HeadConfig(n_components=2, flow_scale=10.0, min_std=1e-4),
)
CPU = torch.device("cpu")


def drawn_from(model):
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
    flow = model.mixture(raw)[:, 0].sample(1, generator=random)[0]
    valid = torch.ones(n_views, n_points, dtype=torch.bool)
    static = torch.ones(n_views, dtype=torch.bool)
    return ValidationSet(image, xy, flow.float(), valid, static, np.arange(n_views))


@pytest.fixture
def choose(tmp_path):
    """Choose between a network and one that expects all to be elsewhere."""
    torch.manual_seed(0)
    base = FlowPokeModel(CONFIG).eval()
    tuned = copy.deepcopy(base)
    n = CONFIG.head.n_components
    with torch.no_grad():
        tuned.out_mlp[-1].bias[n : 3 * n] += 1.0  # means, a tenth of the picture
    save_checkpoint(tmp_path / "base.safetensors", base)
    save_checkpoint(tmp_path / "tuned.safetensors", tuned)

    def run(own, synthetic=None, told=None):
        checkpoint = load_checkpoint(tmp_path / "base.safetensors")
        advance = (told if told is not None else []).append
        path = tmp_path / "tuned.safetensors"
        return choose_weights(checkpoint, path, own, synthetic, 5.0, CPU, advance)

    return SimpleNamespace(base=base, tuned=tuned, run=run)


@torch.no_grad()
def test_takes_all_of_weights_that_know_better(choose):
    told = []
    chosen = choose.run(drawn_from(choose.tuned), told=told)
    assert chosen.share == 1.0
    assert chosen.model.config == CONFIG
    for name, value in chosen.model.state_dict().items():
        torch.testing.assert_close(value, choose.tuned.state_dict()[name])
    assert told == sorted(told)
    assert 0.9 < told[-1] <= 1


@torch.no_grad()
def test_what_is_kept_is_weighed_against_what_is_learned(choose):
    own = drawn_from(choose.tuned)
    assert choose.run(own, drawn_from(choose.base)).share < choose.run(own).share == 1.0


@torch.no_grad()
@pytest.mark.parametrize("forgotten", [("moving", 1), ("all", 1), ("moving", 5), ("all", 5)])
def test_what_is_forgotten_at_any_number_of_pokes_counts(choose, monkeypatch, forgotten):
    own = drawn_from(choose.tuned)
    shares = iter((0.0, *SHARES))

    def pretend(model, views, device, poke_counts):
        share = next(shares)
        return [
            {
                (points, n): 20.0 * (1 + 0.08 * share * ((points, n) == forgotten))
                for points in ("moving", "all")
                for n in poke_counts
            }
            for _ in range(len(views))
        ]

    monkeypatch.setattr("fpt_ros.train.choose_weights.errors_px", pretend)
    assert choose.run(own, own).share == 0.625  # 5 %, as much as may be


def test_errors_are_averaged_over_scenes_first():
    at_one, nothing_moves = ("moving", 1), {}
    rows = [{at_one: 1.0}, {at_one: 3.0}, nothing_moves, {at_one: 5.0}, nothing_moves]
    means = _by_scene(rows, at_one, np.array([0, 0, 1, 1, 2]))
    np.testing.assert_equal(means, [2.0, 5.0, nan])
    rows[3][at_one] = nan  # it moves, and the answer is no number
    np.testing.assert_equal(_by_scene(rows, at_one, np.array([0, 0, 1, 1, 2])), [2, nan, nan])

"""The process that fine-tunes for the node."""

import io
import sys

import pytest
import torch

from fpt_ros.core.checkpoint import save_checkpoint
from fpt_ros.core.config import DinoEncoderConfig, HeadConfig, ModelConfig, TransformerConfig
from fpt_ros.core.errors import InvalidInputError
from fpt_ros.core.model import FlowPokeModel
from fpt_ros.train import child, rehearsal


@pytest.fixture
def settings(tmp_path):
    torch.manual_seed(0)
    model = FlowPokeModel(
        ModelConfig(
            DinoEncoderConfig(input_px=28, width=32, depth=1, heads=2, patch_px=7, position_grid=4),
            TransformerConfig(width=32, depth=1, d_head=16),
            HeadConfig(n_components=2),
        )
    )
    save_checkpoint(tmp_path / "base.safetensors", model, horizon_s=rehearsal.HORIZON_S)
    return {
        "out": str(tmp_path / "run"),
        "bag": [str(tmp_path / "bag")],
        "base": str(tmp_path / "base.safetensors"),
        "promote": True,
    }


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({}, "no OpenGL"),
        ({"horizon_s": 0.4}, "the synthetic data is not about 0.4 s"),
        ({"promote": False}, "bag: no such file"),
        ({"promote": False, "bag": ["~nobody-of-this-name"]}, "~nobody-of-this-name: no such file"),
    ],
)
def test_what_cannot_be_promoted_is_not_begun(settings, monkeypatch, more, reason):
    monkeypatch.setattr(rehearsal, "obstacle", lambda: "no OpenGL")
    with pytest.raises(InvalidInputError, match=reason):
        child._run(settings | more, io.StringIO())


def test_a_machine_without_renderer_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "fpt_ros.data.scenes.render", None)
    assert "fpt_ros.data.scenes.render" in rehearsal.obstacle()

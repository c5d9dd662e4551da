"""Which parameters an optimizer changes, and by how much."""

from pathlib import Path

import pytest
import torch

from fpt_ros.core.config import HeadConfig, ModelConfig, PyramidEncoderConfig, TransformerConfig
from fpt_ros.core.errors import InvalidInputError
from fpt_ros.core.model import FlowPokeModel
from fpt_ros.train.config import TrainConfig
from fpt_ros.train.loss import Objective
from fpt_ros.train.optimize import build_optimizer

MODEL = ModelConfig(
    PyramidEncoderConfig(32, 4, 4, 4, width=16, depth=1, heads=1),
    TransformerConfig(width=16, depth=1, d_head=8, project_cross=True),
    HeadConfig(n_components=2, poke_relative=True),
)
RATE = 0.01


@pytest.fixture
def objective():
    return Objective(FlowPokeModel(MODEL), part_weight=0.3)


@pytest.fixture
def change(objective):
    """What one step of Muon and AdamW changes for random gradients, by the parameter's name."""
    config = TrainConfig(
        Path(), Path(), optimizer="muon", learning_rate=RATE, weight_decay=0.0, head_rate=0.1
    )
    optimizer = build_optimizer(objective, config, torch.device("cpu"))
    for group in optimizer.param_groups:
        group["lr"] = group["peak_rate"]
    generator = torch.Generator().manual_seed(0)
    learned = {name: p for name, p in objective.named_parameters() if p.requires_grad}
    before = {name: parameter.detach().clone() for name, parameter in learned.items()}
    for parameter in learned.values():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step()
    optimizer.zero_grad()
    assert all(parameter.grad is None for parameter in learned.values())
    return {name: value.detach() - before[name] for name, value in learned.items()}


@pytest.mark.parametrize(
    "name",
    [
        "image_embedder.blocks.0.attn.qkv.weight",
        "image_embedder.blocks.0.mlp.fc2.weight",
        "transformer.layers.0.self_qkv.weight",
        "transformer.layers.0.ffn_down.weight",
        "input_mlp.mlp.0.weight",
        "out_mlp.1.weight",
    ],
)
def test_muon_changes_hidden_matrices_equally_in_all_directions(change, name):
    matrix = change[f"model.{name}"]
    lengths = torch.linalg.svdvals(matrix)
    # As large as a step of AdamW with this rate, whose entries have a root mean square of about
    # 0.2 (Liu et al. 2025); Newton and Schulz leave singular values of 0.7 to 1.2.
    expected = 0.2 * RATE * max(matrix.shape) ** 0.5
    assert lengths.max() < 1.3 * expected
    assert lengths.min() > 0.4 * expected


def test_adamw_changes_the_rest(change):
    hidden = ("blocks", "layers", "input_mlp.mlp", "out_mlp")
    rest = {name: value for name, value in change.items() if not any(h in name for h in hidden)}
    assert {"model.cond_emb.weight", "model.image_embedder.to_4.conv.weight"} <= rest.keys()
    rest["a gain"] = change["model.transformer.layers.0.self_norm.linear.weight"]
    for value in rest.values():
        # Its first step goes along the signs of the gradient.
        torch.testing.assert_close(value.abs(), torch.full_like(value, RATE), rtol=1e-3, atol=0)
    last = change["model.out_mlp.5.weight"].abs()
    torch.testing.assert_close(last, torch.full_like(last, 0.1 * RATE), rtol=1e-3, atol=0)


def test_muon_needs_a_pytorch_that_has_it(objective, monkeypatch):
    monkeypatch.delattr(torch.optim, "Muon")
    config = TrainConfig(Path(), Path(), optimizer="muon")
    with pytest.raises(InvalidInputError, match=r"needs PyTorch 2\.9"):
        build_optimizer(objective, config, torch.device("cpu"))

"""One small network in each of the two layouts."""

import pytest
import torch

from fpt_ros.core.config import (
    FPT_SMALL,
    DinoEncoderConfig,
    HeadConfig,
    ModelConfig,
    TransformerConfig,
)
from fpt_ros.core.model import FlowPokeModel

PUBLISHED = ModelConfig(
    DinoEncoderConfig(input_px=56, width=48, depth=2, heads=3),
    TransformerConfig(width=64, depth=2, d_head=16, ff_expand=3),
    HeadConfig(n_components=4),
)


@pytest.fixture(scope="module", params=[PUBLISHED, FPT_SMALL], ids=["published layout", "small"])
def model(request):
    torch.manual_seed(0)
    model = FlowPokeModel(request.param).eval()
    with torch.no_grad():  # nothing that starts as zero, or as one, stays so
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model

"""The plain implementation and the network say the same, with the same weights."""

import pytest
import torch

from fpt_ros.bench.plain import PlainModel
from fpt_ros.core.config import (
    FPT_SMALL,
    DinoEncoderConfig,
    HeadConfig,
    ModelConfig,
    TransformerConfig,
)
from fpt_ros.core.model import FlowPokeModel

PUBLISHED = ModelConfig(
    DinoEncoderConfig(input_px=56, width=48, depth=1, heads=3),
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
    return model.double()


@pytest.fixture(scope="module")
def scene(model):
    generator = torch.Generator().manual_seed(1)

    def draw(*shape):
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    side = model.config.encoder.input_px
    return 2 * draw(1, 3, side, side) - 1, draw(5, 2), 0.2 * draw(5, 2) - 0.1, draw(7, 2)


@torch.inference_mode()
def staged(model, image, poke_xy, poke_flow, points):
    context = model.encode(image)
    pokes = model.condition(context, poke_xy[None, None], poke_flow[None, None])
    return model.query(context, pokes, points[None, None])[0, 0]


@pytest.mark.parametrize("n_pokes", [0, 1, 5])
@pytest.mark.parametrize("n_points", [1, 7])
def test_same_answers_as_the_network(model, scene, n_pokes, n_points):
    image, poke_xy, poke_flow, points = scene
    question = poke_xy[:n_pokes], poke_flow[:n_pokes], points[:n_points]
    plain = PlainModel(model)
    answer = plain.predict(plain.encode(image), *question)
    torch.testing.assert_close(answer, staged(model, image, *question), rtol=1e-6, atol=1e-6)


def test_one_poke_at_a_time_says_the_same_as_all_at_once(model, scene):
    image, poke_xy, poke_flow, points = scene
    plain = PlainModel(model)
    features = plain.encode(image)
    past, _ = plain.advance(features, None, poke_xy[:2], poke_flow[:2], points[:1])
    for i in range(2, 5):
        past, answer = plain.advance(
            features, past, poke_xy[i, None], poke_flow[i, None], points[i, None]
        )
        at_once = plain.predict(features, poke_xy[: i + 1], poke_flow[: i + 1], points[i, None])
        torch.testing.assert_close(answer, at_once, rtol=1e-9, atol=1e-9)

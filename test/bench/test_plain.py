"""The plain implementation and the network say the same, with the same weights."""

import copy

import pytest
import torch

from fpt_ros.bench.plain import PlainModel


@pytest.fixture(scope="module")
def model(model):
    return copy.deepcopy(model).double()


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

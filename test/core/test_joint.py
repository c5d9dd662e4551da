"""Joint sampling of several points per step, against the same done without any cache."""

import pytest
import torch

from fpt_ros.core.config import (
    FPT_SMALL,
    DinoEncoderConfig,
    HeadConfig,
    ModelConfig,
    TransformerConfig,
)
from fpt_ros.core.engine import TorchEngine
from fpt_ros.core.joint import sample_jointly, spread_orders, step_slices
from fpt_ros.core.model import FlowPokeModel

PUBLISHED = ModelConfig(
    DinoEncoderConfig(input_px=28, width=24, depth=1, heads=3),
    TransformerConfig(width=32, depth=2, d_head=16, ff_expand=2),
    HeadConfig(n_components=3),
)
STATIC = torch.ones(1, dtype=torch.bool)


@pytest.fixture(scope="module", params=[PUBLISHED, FPT_SMALL], ids=["published layout", "small"])
def engine(request):
    torch.manual_seed(0)
    model = FlowPokeModel(request.param)
    with torch.no_grad():  # nothing that starts as zero stays so
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return TorchEngine(model.double())


@pytest.fixture(scope="module")
def image(engine):
    side = engine.config.encoder.input_px
    generator = torch.Generator().manual_seed(1)
    return engine.encode(torch.randint(0, 256, (1, 3, side, side), generator=generator))


def scene(n_points):
    values = torch.rand(6 + n_points, 2, generator=torch.Generator().manual_seed(2)).double()
    return values[:3], 0.2 * values[3:6] - 0.1, values[6:]


@pytest.mark.parametrize("points_per_step", [2, 4])
def test_every_step_knows_all_steps_before_it(engine, image, points_per_step):
    poke_xy, poke_flow, points = scene(9)
    flows = sample_jointly(
        engine, image, poke_xy, poke_flow, points, 2, STATIC,
        torch.Generator().manual_seed(3), points_per_step=points_per_step,
    )  # fmt: skip

    generator = torch.Generator().manual_seed(3)
    order = spread_orders(points, 2, generator)
    expected = torch.zeros(2, 9, 2, dtype=torch.float64)
    for step in step_slices(9, points_per_step):
        raw = []
        for sample in range(2):  # afresh, with all pokes known by now
            before, now = order[sample, : step.start], order[sample, step]
            all_xy = torch.cat([poke_xy, points[before]])[None, None]
            all_flow = torch.cat([poke_flow, expected[sample, before]])[None, None]
            pokes = engine.condition(image, all_xy, all_flow)
            raw.append(engine.query(image, pokes, points[now][None, None])[0, 0])
        drawn = engine.mixture(torch.stack(raw)).sample(1, generator)[0]
        for sample in range(2):
            expected[sample, order[sample, step]] = drawn[sample]
    torch.testing.assert_close(flows, expected, rtol=1e-6, atol=1e-8)


def test_room_changes_nothing_and_is_used(engine, image):
    poke_xy, poke_flow, points = (each[None, None] for each in scene(1))
    pokes = engine.condition(image, poke_xy[:, :, :1], poke_flow[:, :, :1])
    expected, raw_expected = engine.extend(
        image, pokes, poke_xy[:, :, 1:], poke_flow[:, :, 1:], points
    )
    roomy = engine.reserve(pokes, 2)
    where = [keys.k.data_ptr() for keys in roomy.keys]
    for i in (1, 2):
        new = slice(i, i + 1)
        roomy, raw = engine.extend(image, roomy, poke_xy[:, :, new], poke_flow[:, :, new], points)
    assert [keys.k.data_ptr() for keys in roomy.keys] == where
    torch.testing.assert_close(raw, raw_expected, rtol=1e-9, atol=1e-9)
    for ours, theirs in zip(roomy.keys, expected.keys, strict=True):
        torch.testing.assert_close(tuple(ours), tuple(theirs), rtol=1e-9, atol=1e-9)
    with pytest.raises(RuntimeError):
        engine.extend(image, roomy, poke_xy, poke_flow)


@pytest.mark.parametrize("points_per_step", [1, 2, 5, 64])
@pytest.mark.parametrize("n_points", [0, 1, 7, 100])
def test_steps_cover_all_points_and_are_as_small_as_promised(points_per_step, n_points):
    slices = step_slices(n_points, points_per_step)
    assert [i for step in slices for i in range(n_points)[step]] == list(range(n_points))
    for step in slices:
        size = step.stop - step.start
        assert size <= points_per_step
        assert size == 1 or 2 * size <= step.start


def test_each_point_is_the_farthest_from_those_before_it():
    points = torch.rand(60, 2, generator=torch.Generator().manual_seed(0))
    orders = spread_orders(points, 4, torch.Generator().manual_seed(1))
    assert len({order[0].item() for order in orders}) > 1
    for order in orders:
        assert sorted(order.tolist()) == list(range(60))
        distance = torch.cdist(points[order], points[order])
        for i in range(1, 60):
            nearest = distance[i:, :i].min(1).values
            assert nearest[0] >= nearest.max() * 0.999


def test_points_of_a_step_lie_apart():
    ticks = (torch.arange(16) + 0.5) / 16
    points = torch.cartesian_prod(ticks, ticks)
    (order,) = spread_orders(points, 1, torch.Generator().manual_seed(0))
    for step in step_slices(256, 64):
        chosen = points[order[step]]
        closest = (torch.cdist(chosen, chosen) + 9 * torch.eye(len(chosen))).min()
        # So many discs of half this diameter would hardly fit more densely.
        assert closest >= 0.6 / (step.stop**0.5)


def test_points_that_coincide_are_all_visited():
    orders = spread_orders(torch.zeros(5, 2), 3)
    assert orders.sort(1).values.tolist() == [[0, 1, 2, 3, 4]] * 3

"""The network against numbers computed by the published implementation (test/data/golden_fpt.npz).

The golden network is small, seeded and random. Tensors that the published network stores but
never uses are NaN in it, so that any use would show.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from fpt_ros.core.config import (
    FPT_BASE,
    FPT_SMALL,
    DinoEncoderConfig,
    HeadConfig,
    ModelConfig,
    PyramidEncoderConfig,
    TransformerConfig,
)
from fpt_ros.core.encoder import sample_maps
from fpt_ros.core.errors import InvalidInputError
from fpt_ros.core.model import FlowPokeModel

DATA = Path(__file__).parents[1] / "data"
CASES = (
    "c0_zero_pokes",
    "c1_one_poke_one_query",
    "c2_many_pokes_nonsquare",
    "c3_batch2_mixed_static_oob",
)
GOLDEN_CONFIG = ModelConfig(
    DinoEncoderConfig(input_px=112, width=96, depth=2, heads=3),
    TransformerConfig(width=128, depth=3, d_head=32, ff_expand=3),
    HeadConfig(n_components=4),
)


@pytest.fixture(scope="module")
def golden():
    with np.load(DATA / "golden_fpt.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


@pytest.fixture
def model(golden):
    model = FlowPokeModel(GOLDEN_CONFIG).eval()
    model.load_state_dict(
        {name[3:]: value.clone() for name, value in golden.items() if name.startswith("sd/")}
    )
    return model


def assert_near(actual, expected, tolerance):
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=tolerance, check_dtype=False)


def stages(model, case, golden, dtype=torch.float32):
    """Features and raw head of a golden case through the three stages."""
    get = {
        name.split("/")[-1]: value if value.dtype == torch.bool else value.to(dtype)
        for name, value in golden.items()
        if name.startswith(f"{case}/in/")
    }
    with torch.no_grad():
        image = model.encode(get["image"])
        pokes = model.condition(
            image,
            get["poke_pos"][:, None],
            get["poke_flow"][:, None],
            camera_static=get["camera_static"],
        )
        raw = model.query(image, pokes, get["query_pos"][:, None])[:, 0]
    return image, raw


@pytest.mark.parametrize("case", CASES)
def test_stages_equal_the_published_network(model, golden, case):
    image, raw = stages(model, case, golden)
    n_pokes = golden[f"{case}/in/poke_pos"].shape[1]
    assert_near(image.maps[0], golden[f"{case}/out/feat"], 1e-5)
    assert_near(raw, golden[f"{case}/mid/head_raw"][:, n_pokes:], 1e-5)
    mixture = model.mixture(raw)
    target = golden[f"{case}/in/target_flow"].double()
    assert_near(mixture.log_prob(target), golden[f"{case}/out/log_prob"], 1e-5)
    assert_near(mixture.mean(), golden[f"{case}/out/mean"], 1e-5)


@pytest.mark.parametrize("case", CASES)
def test_stages_equal_the_published_network_in_double_precision(model, golden, case):
    _, raw = stages(model.double(), case, golden, torch.float64)
    n_pokes = golden[f"{case}/in/poke_pos"].shape[1]
    assert_near(raw, golden[f"{case}/f64/head_raw"][:, n_pokes:], 1e-6)


def test_training_pass_loss_and_gradients(model, golden):
    inputs = {k.split("/")[-1]: v for k, v in golden.items() if k.startswith("train/in/")}
    raw = model(
        inputs["image"],
        inputs["pos_poke"],
        inputs["flow_poke"],
        inputs["pos_query"],
        inputs["camera_static"],
    )
    log_prob = model.mixture(raw).log_prob(inputs["flow_query"].double())
    assert_near(log_prob.flatten(1), golden["train/out/log_prob"], 1e-5)
    loss = -log_prob.mean()
    assert_near(loss, golden["train/out/loss"], 1e-6)
    loss.backward()
    gradients = {
        name: parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    for key, expected in golden.items():
        if key.startswith("train/grad/"):
            assert_near(gradients[key.removeprefix("train/grad/")], expected, 1e-5)
    norm = torch.stack([gradient.norm() for gradient in gradients.values()]).norm()
    assert_near(norm, golden["train/out/grad_norm_global"], 1e-5)
    without = {name for name, _ in model.named_parameters()} - set(gradients)
    assert without == {
        "image_embedder.model.mask_token",
        "transformer.pos_emb.freqs",
        *(f"transformer.layers.{i}.cross_out.weight" for i in range(3)),
    }


def test_training_visibility_equals_the_published_mask(model, golden, monkeypatch):
    n_pokes, groups, n = 8, 8, 3
    seen = []
    transformer = model.transformer.forward

    def spy(x, xy, n_new, past, visible, image, gains):
        seen.append(visible)
        return transformer(x, xy, n_new, past, visible, image, gains)

    monkeypatch.setattr(model.transformer, "forward", spy)
    inputs = {k.split("/")[-1]: v for k, v in golden.items() if k.startswith("train/in/")}
    model(
        inputs["image"],
        inputs["pos_poke"],
        inputs["flow_poke"],
        inputs["pos_query"],
        inputs["camera_static"],
    )
    # Ours: the pokes that matter (all but the last) and the queries as rows, pokes as columns;
    # every token sees itself beside them.
    rows = torch.cat([torch.arange(n_pokes - 1), n_pokes + torch.arange(groups * n)])
    mask = torch.zeros(n_pokes + groups * n, n_pokes + groups * n, dtype=torch.bool)
    mask[rows, : n_pokes - 1] = seen[0][0, 0]
    mask[n_pokes - 1, : n_pokes - 1] = True
    mask.fill_diagonal_(True)
    assert torch.equal(mask, golden["train/out/mask"])


def test_autoregressive_means_through_the_cache(model, golden):
    points = golden["ar/in/query_pos"][:, None]
    expected = golden["ar/out/flow_mean_mode"][:, None]
    with torch.no_grad():
        image = model.encode(golden["ar/in/image"])
        pokes = model.condition(
            image, golden["ar/in/poke_pos"][:, None], golden["ar/in/poke_flow"][:, None]
        )
        raw = model.query(image, pokes, points[:, :, :1])
        flows = []
        for step in range(points.shape[2]):
            weights = raw[..., :4].softmax(-1).unsqueeze(-1)
            flows.append((weights * raw[..., 4:12].unflatten(-1, (4, 2))).sum(-2))
            here, following = slice(step, step + 1), slice(step + 1, step + 2)
            # Its own means would add up the rounding, which differs from CPU to CPU.
            pokes, raw = model.extend(
                image, pokes, points[:, :, here], expected[:, :, here], points[:, :, following]
            )
    assert_near(torch.cat(flows, dim=2), expected, 1e-5)


def test_base_has_the_published_tensors():
    with torch.device("meta"):
        model = FlowPokeModel(FPT_BASE)
    expected = json.loads((DATA / "fpt_base_shapes.json").read_text())
    assert len(expected) == 338
    assert {name: list(value.shape) for name, value in model.state_dict().items()} == expected


SMALL_CONFIG = ModelConfig(
    PyramidEncoderConfig(
        input_px=64, width_at_2=8, width_at_4=16, width_at_8=24, width=32, depth=1, heads=2
    ),
    TransformerConfig(width=32, depth=2, d_head=16, ff_expand=2, project_cross=True),
    HeadConfig(n_components=3, flow_scale=10.0, min_std=1e-3, poke_relative=True),
)


@pytest.fixture(params=["published", "small"])
def either(request):
    """The golden network and a small pyramid, the latter with every tensor random."""
    if request.param == "published":
        return request.getfixturevalue("model")
    torch.manual_seed(0)
    model = FlowPokeModel(SMALL_CONFIG).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1 and not parameter.any():
                parameter.normal_(std=0.2)
    return model


def random_pokes(shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, 2, generator=generator), torch.randn(*shape, 2, generator=generator)


@torch.no_grad()
def test_candidates_with_fewer_pokes_equal_separate_calls(either):
    image = either.encode(torch.rand(2, 3, 112, 112) * 2 - 1)
    xy, flow = random_pokes((2, 3, 4))
    counts = torch.tensor([[0, 2, 4], [1, 4, 3]])
    static = torch.tensor([True, False])
    points = torch.rand(2, 3, 5, 2)
    xy[0, 0] = torch.nan  # padding may hold anything
    together = either.query(image, either.condition(image, xy, flow, counts, static), points)
    for b in range(2):
        one = either.encode(torch.zeros(1, 3, 112, 112))
        one = type(one)(
            tuple(each[b : b + 1] for each in image.maps),
            tuple(type(k)(k.k[b : b + 1], k.v[b : b + 1]) for k in image.keys),
            image.gains,
        )
        for c in range(3):
            p = counts[b, c]
            pokes = either.condition(
                one,
                xy[b, c, :p][None, None],
                flow[b, c, :p][None, None],
                camera_static=static[b : b + 1],
            )
            alone = either.query(one, pokes, points[b, c][None, None])
            assert_near(together[b, c], alone[0, 0], 1e-5)


@torch.no_grad()
def test_extending_equals_conditioning_at_once(either):
    image = either.encode(torch.rand(2, 3, 112, 112) * 2 - 1)
    xy, flow = random_pokes((2, 3, 6))
    points = torch.rand(2, 3, 5, 2)
    at_once = either.query(image, either.condition(image, xy, flow), points)
    pokes = either.condition(image, xy[:, :, :0], flow[:, :, :0])
    for start, end in ((0, 1), (1, 3), (3, 6)):
        pokes, raw = either.extend(image, pokes, xy[:, :, start:end], flow[:, :, start:end], points)
    assert_near(raw, at_once, 1e-5)
    assert_near(either.query(image, pokes, points), at_once, 1e-5)


@torch.no_grad()
def test_order_of_pokes_matters_but_queries_are_independent(either):
    image = either.encode(torch.rand(1, 3, 112, 112) * 2 - 1)
    xy, flow = random_pokes((1, 1, 3))
    points = torch.rand(1, 1, 7, 2)
    pokes = either.condition(image, xy, flow)
    raw = either.query(image, pokes, points)
    assert_near(either.query(image, pokes, points[:, :, 3:4]), raw[:, :, 3:4], 1e-5)
    reversed_pokes = either.condition(image, xy.flip(2), flow.flip(2))
    assert not torch.allclose(either.query(image, reversed_pokes, points), raw, atol=1e-3)
    assert either.query(image, pokes, points[:, :, :0]).shape == (1, 1, 0, raw.shape[-1])


@torch.no_grad()
def test_bfloat16_autocast_stays_close(model, golden):
    case = CASES[2]
    _, exact = stages(model, case, golden)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, rough = stages(model, case, golden)
    assert (rough - exact).abs().max() < 0.1 * exact.abs().max()


@pytest.mark.parametrize(
    "image",
    [
        torch.zeros(3, 112, 112),
        torch.zeros(1, 1, 112, 112),
        torch.zeros(1, 3, 112, 112, dtype=torch.uint8),
    ],
)
def test_wrong_images_are_named(model, image):
    with pytest.raises(InvalidInputError, match="image must be"):
        model.encode(image)


@torch.no_grad()
def test_wrong_shapes_are_named(model):
    image = model.encode(torch.zeros(2, 3, 112, 112))
    xy = torch.rand(2, 1, 3, 2)
    with pytest.raises(InvalidInputError, match="must agree"):
        model.condition(image, xy, xy[:, :, :2])
    with pytest.raises(InvalidInputError, match="pokes must be"):
        model.condition(image, xy[:1], xy[:1])
    with pytest.raises(InvalidInputError, match="camera_static"):
        model.condition(image, xy, xy, camera_static=torch.tensor([True]))
    pokes = model.condition(image, xy, xy)
    with pytest.raises(InvalidInputError, match="points must be"):
        model.query(image, pokes, torch.rand(2, 2, 3, 2))
    with pytest.raises(InvalidInputError, match="query groups"):
        model(torch.zeros(2, 3, 112, 112), xy[:, 0], xy[:, 0], torch.rand(2, 6, 2, 2), None)


def test_training_pass_equals_the_stages(either):
    torch.manual_seed(1)
    image = torch.rand(2, 3, 80, 64) * 2 - 1
    xy, flow = random_pokes((2, 3, 4))
    points = torch.rand(2, 3, 5, 2, 2)
    static = torch.tensor([True, False])
    together = either(image, xy, flow, points, static)
    with torch.no_grad():
        context = either.encode(image)
        for g in range(5):
            pokes = either.condition(context, xy[:, :, :g], flow[:, :, :g], None, static)
            assert_near(together[:, :, g], either.query(context, pokes, points[:, :, g]), 1e-5)
    one = either(image, xy[:, 1], flow[:, 1], points[:, 1], static)
    assert_near(one, together[:, 1], 1e-5)


def test_every_trainable_parameter_gets_a_gradient(either):
    image = torch.rand(2, 3, 64, 64) * 2 - 1
    xy, flow = random_pokes((2, 4))
    points, target = torch.rand(2, 5, 3, 2), torch.rand(2, 5, 3, 2).double()
    raw = either(image, xy, flow, points, torch.tensor([True, False]))
    (-either.mixture(raw).log_prob(target).mean()).backward()
    for name, parameter in either.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


@torch.no_grad()
def test_reference_follows_the_near_visible_poke():
    model = FlowPokeModel(SMALL_CONFIG).eval()
    choose = model.poke_reference
    for linear in (choose.query, choose.key):
        torch.nn.init.zeros_(linear.weight)
    choose.falloff.fill_(100.0)
    poke_xy = torch.tensor([[0.2, 0.2], [0.8, 0.8]])[None, None]
    flow = torch.tensor([[1.0, 2.0], [3.0, 4.0]])[None, None]
    xy = torch.tensor([[0.2, 0.2], [0.8, 0.8], [0.2, 0.8]])[None, None]
    x, keys = torch.zeros(1, 1, 3, 32), torch.zeros(1, 1, 2, choose.D_KEY)
    both = torch.ones(1, 1, 1, 2, dtype=torch.bool)
    expected = torch.tensor([[1.0, 2.0], [3.0, 4.0], [0.0, 0.0]])[None, None]
    assert_near(choose(x, xy, keys, poke_xy, flow, both), expected, 0.1)
    first_only = torch.tensor([True, False]).view(1, 1, 1, 2)
    expected[0, 0, 1] = 0
    assert_near(choose(x, xy, keys, poke_xy, flow, first_only), expected, 0.1)
    nothing = choose(x, xy, keys[:, :, :0], poke_xy[:, :, :0], flow[:, :, :0], both[..., :0])
    assert torch.equal(nothing, torch.zeros(1, 1, 3, 2))


@torch.no_grad()
def test_reference_is_in_float32_under_autocast():
    choose = FlowPokeModel(SMALL_CONFIG).eval().poke_reference
    poke_xy, flow = random_pokes((1, 1, 4))
    xy, visible = torch.rand(1, 1, 6, 2), torch.rand(1, 1, 6, 4) < 0.7
    x, poke_tokens = torch.randn(1, 1, 6, 32), torch.randn(1, 1, 4, 32)
    x, poke_tokens = x.bfloat16(), poke_tokens.bfloat16()  # as they come from the layers

    def follow():
        return choose(x, xy, choose.keys_of(poke_tokens), poke_xy, flow, visible)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = follow()
    assert rough.dtype == torch.float32
    assert torch.equal(rough, follow())


def test_head_units_scale_the_mixture_and_bound_its_deviation():
    model = FlowPokeModel(SMALL_CONFIG)
    raw = torch.randn(5, 18)
    raw[..., 9:] = -1e4  # squareplus of this is zero
    mixture = model.mixture(raw)
    assert_near(mixture.means, raw[..., 3:9].unflatten(-1, (3, 2)) / 10, 1e-6)
    diagonal = mixture.scale_tril.diagonal(dim1=-2, dim2=-1)
    assert_near(diagonal, torch.full_like(diagonal, 1e-3), 1e-5)


def test_small_preset_is_small():
    with torch.device("meta"):
        model = FlowPokeModel(FPT_SMALL)
    assert sum(value.nbytes for value in model.state_dict().values()) < 25e6


@torch.no_grad()
def test_pyramid_samples_maps_at_their_geometric_place():
    maps = (torch.arange(4.0).view(1, 1, 1, 4).expand(1, 1, 4, 4),)
    xy = torch.tensor([[0.125, 0.5], [0.5, 0.1], [0.875, 0.9], [-1.0, 0.5], [2.0, 0.5]])
    sampled = sample_maps(maps, xy[None, None], align_corners=False)
    assert_near(sampled[0, 0, :, 0], torch.tensor([0.0, 1.5, 3.0, 0.0, 3.0]), 1e-6)

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
    DinoEncoderConfig,
    HeadConfig,
    ModelConfig,
    TransformerConfig,
)
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


@pytest.mark.parametrize("case", CASES)
def test_stages_equal_the_published_network_in_double_precision(model, golden, case):
    _, raw = stages(model.double(), case, golden, torch.float64)
    n_pokes = golden[f"{case}/in/poke_pos"].shape[1]
    assert_near(raw, golden[f"{case}/f64/head_raw"][:, n_pokes:], 1e-6)


def mixture_log_prob(raw, flow, n_components=4):
    """Log density of spec section 9, written with torch.distributions."""
    raw = raw.double()
    logits, means, entries = raw.split([n_components, 2 * n_components, 3 * n_components], -1)
    entries = entries.unflatten(-1, (n_components, 3))
    diagonal = (entries + (entries.square() + 4).sqrt()) / 2 + 1e-4
    tril = torch.zeros(*entries.shape[:-1], 2, 2, dtype=torch.float64)
    tril[..., 0, 0], tril[..., 1, 0] = diagonal[..., 0], entries[..., 1]
    tril[..., 1, 1] = diagonal[..., 2]
    mixture = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(logits=logits),
        torch.distributions.MultivariateNormal(
            means.unflatten(-1, (n_components, 2)), scale_tril=tril
        ),
    )
    return mixture.log_prob(flow.double())


def test_training_pass_loss_and_gradients(model, golden):
    inputs = {k.split("/")[-1]: v for k, v in golden.items() if k.startswith("train/in/")}
    raw = model(
        inputs["image"],
        inputs["pos_poke"],
        inputs["flow_poke"],
        inputs["pos_query"],
        inputs["camera_static"],
    )
    log_prob = mixture_log_prob(raw, inputs["flow_query"])
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
            here, following = points[:, :, step : step + 1], points[:, :, step + 1 : step + 2]
            pokes, raw = model.extend(image, pokes, here, flows[-1], following)
    assert_near(torch.cat(flows, dim=2)[:, 0], golden["ar/out/flow_mean_mode"], 1e-5)


def test_base_has_the_published_tensors():
    with torch.device("meta"):
        model = FlowPokeModel(FPT_BASE)
    expected = json.loads((DATA / "fpt_base_shapes.json").read_text())
    assert len(expected) == 338
    assert {name: list(value.shape) for name, value in model.state_dict().items()} == expected


def random_pokes(shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, 2, generator=generator), torch.randn(*shape, 2, generator=generator)


@torch.no_grad()
def test_candidates_with_fewer_pokes_equal_separate_calls(model):
    image = model.encode(torch.rand(2, 3, 112, 112) * 2 - 1)
    xy, flow = random_pokes((2, 3, 4))
    counts = torch.tensor([[0, 2, 4], [1, 4, 3]])
    static = torch.tensor([True, False])
    points = torch.rand(2, 3, 5, 2)
    xy[0, 0] = torch.nan  # padding may hold anything
    together = model.query(image, model.condition(image, xy, flow, counts, static), points)
    for b in range(2):
        one = model.encode(torch.zeros(1, 3, 112, 112))
        one = type(one)(
            tuple(each[b : b + 1] for each in image.maps),
            tuple(type(k)(k.k[b : b + 1], k.v[b : b + 1]) for k in image.keys),
            image.gains,
        )
        for c in range(3):
            p = counts[b, c]
            pokes = model.condition(
                one,
                xy[b, c, :p][None, None],
                flow[b, c, :p][None, None],
                camera_static=static[b : b + 1],
            )
            alone = model.query(one, pokes, points[b, c][None, None])
            assert_near(together[b, c], alone[0, 0], 1e-5)


@torch.no_grad()
def test_extending_equals_conditioning_at_once(model):
    image = model.encode(torch.rand(2, 3, 112, 112) * 2 - 1)
    xy, flow = random_pokes((2, 3, 6))
    points = torch.rand(2, 3, 5, 2)
    at_once = model.query(image, model.condition(image, xy, flow), points)
    pokes = model.condition(image, xy[:, :, :0], flow[:, :, :0])
    for start, end in ((0, 1), (1, 3), (3, 6)):
        pokes, raw = model.extend(image, pokes, xy[:, :, start:end], flow[:, :, start:end], points)
    assert_near(raw, at_once, 1e-5)
    assert_near(model.query(image, pokes, points), at_once, 1e-5)


@torch.no_grad()
def test_order_of_pokes_matters_but_queries_are_independent(model):
    image = model.encode(torch.rand(1, 3, 112, 112) * 2 - 1)
    xy, flow = random_pokes((1, 1, 3))
    points = torch.rand(1, 1, 7, 2)
    pokes = model.condition(image, xy, flow)
    raw = model.query(image, pokes, points)
    assert_near(model.query(image, pokes, points[:, :, 3:4]), raw[:, :, 3:4], 1e-5)
    reversed_pokes = model.condition(image, xy.flip(2), flow.flip(2))
    assert not torch.allclose(model.query(image, reversed_pokes, points), raw, atol=1e-3)
    assert model.query(image, pokes, points[:, :, :0]).shape == (1, 1, 0, 24)


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

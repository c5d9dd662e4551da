"""Engines against the reference, in all the ways that the predictor and joint sampling use them."""

import numpy as np
import pytest
import torch

from fpt_ros.core.checkpoint import load_checkpoint
from fpt_ros.core.engine import TorchEngine
from fpt_ros.core.errors import EngineError
from fpt_ros.core.predictor import MotionPredictor
from fpt_ros.engines import export, openvino, parity, quantize
from fpt_ros.weights import default_checkpoint

pytest.importorskip("openvino")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def reference(model):
    return TorchEngine(model)


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("engine")
    stages = []
    openvino.build(model, "fp32", folder, stages.append)
    assert stages == ["encode", "embed", "advance", "alone"]
    return folder


@pytest.fixture(scope="module")
def engine(model, folder):
    return openvino.OpenVinoEngine(model.config, folder, "fp32", CPU, num_threads=1)


@pytest.fixture(scope="module")
def image(model):
    side_px = model.config.encoder.input_px
    return torch.randint(0, 256, (1, 3, side_px, side_px), dtype=torch.uint8)


def near(actual, expected):
    torch.testing.assert_close(actual, expected, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("static", [True, False])
@pytest.mark.parametrize(
    ("candidates", "n_pokes", "n_points"), [(1, 0, 1), (3, 0, 100), (1, 1, 100), (3, 5, 1)]
)
def test_engine_answers_as_the_reference(
    reference, engine, image, candidates, n_pokes, n_points, static
):
    xy, flow = torch.rand(2, 1, candidates, n_pokes, 2)
    counts = torch.tensor([[n_pokes, 1, 0][:candidates]]).clamp(max=n_pokes)
    points = torch.rand(1, 1, n_points, 2).expand(1, candidates, -1, -1)  # as the predictor does
    more_xy, more_flow = torch.rand(2, 1, candidates, 2, 2)
    answers = []
    for each in (reference, engine):
        context = each.encode(image)
        pokes = each.condition(context, xy, flow - 0.5, counts, torch.tensor([static]))
        raw = each.query(context, pokes, points)
        longer, raw_longer = each.extend(context, pokes, more_xy, more_flow - 0.5, points)
        longest, nothing = each.extend(context, longer, more_xy[:, :, :1], more_flow[:, :, :1])
        assert nothing.shape == (1, candidates, 0, raw.shape[-1])
        # Contexts do not change when others are made from them, or other questions are asked.
        near(each.query(context, pokes, points), raw)
        near(each.query(context, longer, points), raw_longer)
        answers.append((raw, raw_longer, each.query(context, longest, points)))
    for actual, expected in zip(*reversed(answers), strict=True):
        near(actual, expected)


def test_images_do_not_overwrite_each_other(reference, engine, image):
    points, none = torch.rand(1, 1, 5, 2), torch.zeros(1, 1, 0, 2)
    contexts = [engine.encode(each) for each in (image, 255 - image)]
    for context, each in zip(contexts, (image, 255 - image), strict=True):
        answer = engine.query(context, engine.condition(context, none, none), points)
        expected = reference.encode(each)
        near(answer, reference.query(expected, reference.condition(expected, none, none), points))


def test_predictor_samples_the_same_on_either(reference, engine):
    rgb = np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)
    samples = []
    for each in (reference, engine):
        predictor = MotionPredictor(each)
        predictor.set_image(rgb)
        generator = torch.Generator().manual_seed(0)
        points = [[20, 20], [30, 25], [40, 40]]
        samples.append(predictor.sample_jointly([[30, 25, 4, 1]], points, 3, generator))
    np.testing.assert_allclose(*samples, rtol=1e-2, atol=1e-2)


def test_gate_passes_what_answers_the_same(reference, engine):
    found = parity.check(engine, reference)
    assert found.mean_displacement < 1e-4
    same = parity.measure(reference, reference)
    assert (same.raw, same.mean_displacement, same.relative_displacement) == (0, 0, 0)
    assert same.divergence < 1e-12


def test_gate_refuses_another_network_and_nan(model, reference, engine, monkeypatch):
    torch.manual_seed(5)
    changed = type(model)(model.config)
    changed.load_state_dict(
        {k: v + 0.01 * torch.randn_like(v) for k, v in model.state_dict().items()}
    )
    with pytest.raises(EngineError, match=r"does not answer as PyTorch does: .*divergence"):
        parity.check(TorchEngine(changed), reference)
    answer = engine.query
    monkeypatch.setattr(engine, "query", lambda *question: answer(*question) * torch.nan)
    with pytest.raises(EngineError, match="inf"):
        parity.check(engine, reference)


def test_gate_refuses_one_wrong_way_among_many_right_ones(reference, monkeypatch):
    condition, query = reference.condition, reference.query
    moving = []

    def remember(image, xy, *rest):
        moving.append(xy.shape[2] == 1 and not rest[-1].item())
        return condition(image, xy, *rest)

    def answer(*question):
        return query(*question) + (0.2 if moving[-1] else 0)

    other = TorchEngine(reference.model)
    monkeypatch.setattr(other, "condition", remember)
    monkeypatch.setattr(other, "query", answer)
    monkeypatch.setitem(parity.LIMITS, "fp32", parity.LIMITS["bf16"])
    with pytest.raises(EngineError, match="does not answer as PyTorch does"):
        parity.check(other, reference)


def test_shipped_weights_pass_the_gate_in_the_precision_of_this_cpu(tmp_path):
    model = load_checkpoint(default_checkpoint()).build_model().eval()
    precision = openvino.best_precision(CPU)
    openvino.build(model, precision, tmp_path, lambda _: None)
    engine = openvino.OpenVinoEngine(model.config, tmp_path, precision, CPU, num_threads=1)
    parity.check(engine, TorchEngine(model))


def test_eight_bits_pass_the_gate(tmp_path, monkeypatch):
    pytest.importorskip("nncf")
    monkeypatch.setattr(quantize, "_PICTURES", 4)
    model = load_checkpoint(default_checkpoint()).build_model().eval()
    openvino.build(model, "int8", tmp_path, lambda _: None)
    engine = openvino.OpenVinoEngine(model.config, tmp_path, "int8", CPU, num_threads=1)
    found = parity.check(engine, TorchEngine(model))
    assert 1e-3 < found.relative_displacement < 0.04  # neither in float32 nor near the limit


@pytest.mark.parametrize("amx", [True, False])
def test_layers_stay_as_they_are_where_amx_is_faster(model, tmp_path, monkeypatch, amx):
    small = []
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(openvino, "quantized", lambda network, side_px: network)
    monkeypatch.setattr(openvino, "with_small_layers", lambda each: small.append(each) or each)
    openvino.build(model, "int8", tmp_path, lambda _: None)
    assert len(small) == (0 if amx else 2)  # `advance` and `alone`
    assert ("AMX" in openvino.describe(CPU)) == amx


def test_layers_that_cannot_be_told_apart_are_an_error(model, monkeypatch):
    pytest.importorskip("nncf")
    monkeypatch.setattr(quantize, "_IN_A_LAYER", ".blocks.")
    network = openvino._converted(export.stage_graphs(model)[-1])
    with pytest.raises(EngineError, match=r"no operation of the graph has '\.blocks\.'"):
        quantize.with_small_layers(network)


@pytest.mark.parametrize("stage", ["advance", "alone"])
def test_all_layers_but_nothing_else_get_weights_of_eight_bits(model, stage):
    pytest.importorskip("nncf")
    graph = next(each for each in export.stage_graphs(model) if each.stage == stage)
    network = quantize.with_small_layers(openvino._converted(graph))
    weights = []
    for layer in model.transformer.layers:
        qkv, out = layer.self_qkv.weight, layer.self_out.weight
        weights += [qkv, out] if stage == "advance" else [out @ qkv.chunk(3)[2]]
        weights += [each.weight for each in (layer.cross_q, layer.ffn_up, layer.ffn_down)]
        weights += [layer.cross_out.weight] * layer.project_cross
    weights = [weight.detach().numpy() for weight in weights]
    small = [
        node.data.astype(np.float32)
        for node in network.get_ops()
        if node.get_type_name() == "Constant" and node.get_element_type().to_string() == "i8"
    ]
    assert len(small) == len(weights)
    for weight in weights:
        assert any(_is_rounded(each, weight) for each in small)


def _is_rounded(integers, weight):
    """Whether the one is the other in steps of each row, whatever these are."""
    if integers.shape != weight.shape:
        return False
    step = (integers * weight).sum(1) / np.square(integers).sum(1)
    return bool((np.abs(integers - weight / step[:, None]) < 1).all())


def test_kernel_that_does_not_let_go_of_pages_is_the_engines_fault(model, folder, monkeypatch):
    monkeypatch.setattr(openvino.mmap, "MADV_DONTNEED", -1)
    with pytest.raises(EngineError, match=r"cannot load .*encode\.blob: .*Invalid argument"):
        openvino.OpenVinoEngine(model.config, folder, "fp32", CPU)


def test_broken_files_are_named(model, folder, tmp_path):
    with pytest.raises(EngineError, match=r"cannot load .*encode\.blob"):
        openvino.OpenVinoEngine(model.config, tmp_path, "fp32", CPU)
    (tmp_path / "encode.blob").write_bytes((folder / "encode.blob").read_bytes()[:5000])
    with pytest.raises(EngineError, match=r"cannot load .*encode\.blob"):
        openvino.OpenVinoEngine(model.config, tmp_path, "fp32", CPU)


def test_points_of_a_grid_are_embedded_once_for_each_image(model, tmp_path, monkeypatch):
    openvino.build(model, "fp32", tmp_path, lambda _: None)
    engine = openvino.load(model.config, tmp_path, "fp32", CPU)
    reference = TorchEngine(model)
    generator = torch.Generator().manual_seed(0)
    side = model.config.encoder.input_px
    images = torch.randint(0, 256, (2, 1, 3, side, side), generator=generator).byte()
    first, second = ([each.encode(image) for each in (engine, reference)] for image in images)
    grid = torch.rand(1, 1, 9, 2, generator=generator)
    poke_xy = torch.rand(1, 1, 1, 2, generator=generator)
    poke_flow = torch.full_like(poke_xy, 0.1)
    embedded = []
    embed = engine._stages["embed"]
    monkeypatch.setitem(
        engine._stages,
        "embed",
        lambda inputs: embedded.append(inputs["points"].shape[2]) or embed(inputs),
    )

    def check(image, points, n_pokes):
        """Hold the answer against the reference; say how many points were embedded for it."""
        embedded.clear()
        answers = []
        for each, context in zip((engine, reference), image, strict=True):
            shape = (1, points.shape[1], n_pokes, 2)
            none = each.condition(context, *[torch.zeros(1, points.shape[1], 0, 2)] * 2)
            pokes = poke_xy[:, :, :n_pokes].expand(shape), poke_flow[:, :, :n_pokes].expand(shape)
            answers.append(each.extend(context, none, *pokes, points)[1])
        torch.testing.assert_close(*answers, rtol=1e-3, atol=1e-3)
        return embedded[:]

    assert check(first, grid, 0) == [9]
    assert check(first, grid, 1) == [1]
    assert check(first, grid, 0) == []
    assert check(first, grid.expand(1, 3, 9, 2), 1) == [9]  # candidates are not remembered
    assert check(first, grid, 1) == [1]
    assert check(second, grid, 1) == [9]
    assert check(second, grid, 0) == []
    grid += 0.01  # what the caller does with them is not noticed
    assert check(second, grid, 0) == [9]

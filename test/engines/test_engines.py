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


def test_all_layers_but_nothing_else_get_weights_of_eight_bits(model):
    pytest.importorskip("nncf")
    graph = export.stage_graphs(model)[-1]
    network = quantize.with_small_layers(openvino._converted(graph))
    weights = [
        weight.numpy()
        for name, weight in model.transformer.named_parameters()
        if name.endswith(("self_out.weight", "cross_q.weight", "ffn_up.weight", "ffn_down.weight"))
        or (name.endswith("cross_out.weight") and model.config.transformer.project_cross)
    ]
    width = model.config.transformer.width
    weights += [layer.self_qkv.weight[-width:].numpy() for layer in model.transformer.layers]
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

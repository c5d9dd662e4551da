"""The exported graphs in ONNX: run by OpenVINO against the network, and compiled by TensorRT.

All in one file, because it takes half a minute to export them.
"""

import dataclasses
from functools import partial

import pytest
import torch

from fpt_ros.core.encoder import DinoEncoder
from fpt_ros.core.engine import TorchEngine
from fpt_ros.core.model import FlowPokeModel
from fpt_ros.engines import tensorrt
from fpt_ros.engines.export import stage_graphs
from fpt_ros.engines.openvino import core
from fpt_ros.engines.staged import StagedEngine

onnx_ir = pytest.importorskip("onnx_ir", reason="pip install 'fpt_ros[tensorrt]'")

from fpt_ros.engines.precision import halve_products  # noqa: E402


@pytest.fixture(scope="module")
def model(model):
    """With its first layer only: each takes seconds to be exported."""
    transformer = dataclasses.replace(model.config.transformer, depth=1)
    shallow = FlowPokeModel(dataclasses.replace(model.config, transformer=transformer))
    missing, _ = shallow.load_state_dict(model.state_dict(), strict=False)
    assert not missing
    return shallow.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def onnx_graphs(model):
    """All stages with their graphs in float32, as protobuf."""
    return [(graph, onnx_ir.to_proto(graph.onnx())) for graph in stage_graphs(model)]


def compiled(graph, onnx):
    """A function from and to tensors by name."""
    pytest.importorskip("openvino")
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    model = core().read_model(onnx.SerializeToString())
    network = core().compile_model(model, "CPU", options)
    assert {port.any_name for port in network.inputs} == set(graph.inputs)

    def run(**inputs):
        result = network({name: each.numpy() for name, each in inputs.items()})
        return {name: torch.from_numpy(result[name].copy()) for name in graph.outputs}

    return run


@pytest.fixture(scope="module")
def graphs(onnx_graphs):
    """The stages by name."""
    return {graph.stage: compiled(graph, onnx) for graph, onnx in onnx_graphs}


class Questions:
    """Asks the graphs what `FlowPokeModel` is asked."""

    def __init__(self, graphs, image, camera_static):
        self.graphs = graphs
        encoded = graphs["encode"](image=image)
        self.maps = {name: each for name, each in encoded.items() if name.startswith("map")}
        self.image_keys = {k: v for k, v in encoded.items() if k.startswith("image")}
        self.camera = {"camera_static": camera_static}

    def embed(self, poke_xy, poke_flow, points):
        return self.graphs["embed"](
            **self.maps, poke_xy=poke_xy, poke_flow=poke_flow, points=points
        )

    def alone(self, points):
        unused = torch.zeros(*points.shape[:2], 1, 2)
        tokens = self.embed(unused, unused, points)
        return self.graphs["alone"](
            **self.camera,
            **self.image_keys,
            **{name: each for name, each in tokens.items() if name.startswith("point")},
        )["raw"]

    def advance(self, earlier, poke_xy, poke_flow, present, points, relative):
        reference = {"poke_xy": poke_xy, "poke_flow": poke_flow, "points": points}
        if not relative:
            reference = {}
            earlier = {k: v for k, v in earlier.items() if not k.endswith(("xy", "flow"))}
        return self.graphs["advance"](
            **self.camera,
            **self.image_keys,
            **self.embed(poke_xy, poke_flow, points),
            **reference,
            **earlier,
            poke_present=present,
        )


def nothing_earlier(model, candidates):
    """One earlier poke that is not there, with numbers that must not matter."""
    config = model.config.transformer
    keys = {
        f"earlier_{kind}_{layer:02}": torch.rand(1, candidates, config.heads, 1, config.d_head)
        for kind in ("key", "value")
        for layer in range(config.depth)
    }
    reference = {"earlier_reference": torch.rand(1, candidates, 1, 32)}
    return {
        **keys,
        **(reference if model.poke_reference else {}),
        "earlier_xy": torch.rand(1, candidates, 1, 2),
        "earlier_flow": torch.rand(1, candidates, 1, 2),
        "earlier_present": torch.zeros(1, candidates, 1, dtype=torch.bool),
    }


@pytest.fixture
def image(model):
    side = model.config.encoder.input_px
    return torch.randint(0, 256, (1, 3, side, side), dtype=torch.uint8)


@pytest.fixture(params=[True, False], ids=["static", "moving"])
def camera_static(request):
    return torch.tensor([request.param])


def near(actual, expected):
    torch.testing.assert_close(actual, expected, atol=2e-4, rtol=1e-4)


def test_points_without_pokes(model, graphs, image, camera_static):
    points = 1.2 * torch.rand(1, 3, 7, 2) - 0.1  # some outside of the image
    none = points[:, :, :0]
    context = model.encode(image / 127.5 - 1)
    pokes = model.condition(context, none, none, camera_static=camera_static)
    answer = Questions(graphs, image, camera_static).alone(points)
    near(answer, model.query(context, pokes, points))


@pytest.mark.parametrize(("candidates", "n_pokes", "n_points"), [(1, 1, 1), (3, 5, 6)])
def test_pokes_then_points(model, graphs, image, camera_static, candidates, n_pokes, n_points):
    relative = model.poke_reference is not None
    poke_xy, points = torch.rand(1, candidates, n_pokes, 2), torch.rand(1, candidates, n_points, 2)
    poke_flow = 0.3 * torch.randn(poke_xy.shape)
    counts = torch.tensor([[n_pokes, 1, 0][:candidates]])
    present = torch.arange(n_pokes) < counts[..., None]
    context = model.encode(image / 127.5 - 1)
    pokes = model.condition(context, poke_xy, poke_flow, counts, camera_static)
    expected = model.query(context, pokes, points)

    questions = Questions(graphs, image, camera_static)
    nothing = nothing_earlier(model, candidates)
    answer = questions.advance(nothing, poke_xy, poke_flow, present, points, relative)
    near(answer["raw"], expected)

    head_flow = poke_flow * model.config.head.flow_scale
    # In two passes, and with one more poke.
    conditioned = {
        **{k.replace("all", "earlier"): v for k, v in answer.items() if k != "raw"},
        "earlier_xy": torch.cat([nothing["earlier_xy"], poke_xy], dim=2),
        "earlier_flow": torch.cat([nothing["earlier_flow"], head_flow], dim=2),
        "earlier_present": torch.cat([nothing["earlier_present"], present], dim=2),
    }
    more_xy, more_flow = torch.rand(2, 1, candidates, 1, 2)
    for used in (False, True):
        if used:
            _, expected = model.extend(context, pokes, more_xy, more_flow, points)
        used_mask = torch.full((1, candidates, 1), used)
        answer = questions.advance(conditioned, more_xy, more_flow, used_mask, points, relative)
        near(answer["raw"], expected)


def halved(graph, onnx, dtype):
    """With products in half precision, but for the stage that computes angles."""
    if graph.stage == "embed":
        return onnx
    network = onnx_ir.from_proto(onnx)
    halve_products(network, dtype)
    return onnx_ir.to_proto(network)


def test_half_precision_in_the_products_only(model, onnx_graphs, image):
    run = {
        graph.stage: compiled(graph, halved(graph, onnx, onnx_ir.DataType.FLOAT16))
        for graph, onnx in onnx_graphs
    }
    engine = StagedEngine(
        model.config,
        torch.device("cpu"),
        {stage: partial(_call, function) for stage, function in run.items()},
        torch.float16,
    )
    points = torch.rand(1, 2, 9, 2)
    for n_pokes in (0, 3):
        poke_xy, poke_flow = torch.rand(1, 2, n_pokes, 2), 0.3 * torch.randn(1, 2, n_pokes, 2)
        actual, expected = (
            each.query(
                frame := each.encode(image), each.condition(frame, poke_xy, poke_flow), points
            )
            for each in (engine, TorchEngine(model))
        )
        error = (actual - expected).square().mean().sqrt() / expected.std()
        assert 1e-6 < error < 5e-3


def _call(function, inputs):
    return function(**inputs)


@pytest.mark.integration
def test_every_graph_compiles_for_gpus(onnx_graphs):
    pytest.importorskip("tensorrt_rtx", reason="pip install tensorrt-rtx")
    checker = pytest.importorskip("onnx").checker
    for graph, onnx in onnx_graphs:
        onnx = halved(graph, onnx, onnx_ir.DataType.BFLOAT16)
        checker.check_model(onnx, full_check=True)
        plan = tensorrt.build_plan(graph, onnx.SerializeToString(), capabilities=["SM89"])
        assert plan.nbytes > 100_000


def test_positions_are_resized_beforehand(model):
    encoder = model.image_embedder
    if not isinstance(encoder, DinoEncoder):
        pytest.skip("has none to resize")
    ours = stage_graphs(model)[0].module.encoder
    image = torch.rand(1, 3, encoder.input_px, encoder.input_px)
    torch.testing.assert_close(ours(image).tokens, encoder(image).tokens)
    assert ours.model.pos_embed.shape[1] == 1 + 3 * 3
    assert encoder.model.pos_embed.shape[1] == 1 + 4 * 4  # as it was
    assert ours.model.blocks is encoder.model.blocks

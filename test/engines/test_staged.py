"""The engine for GPUs, on the CPU: the same rounding of sizes, padding and bookkeeping."""

import copy

import pytest
import torch

from fpt_ros.core.engine import TorchEngine
from fpt_ros.core.errors import EngineError
from fpt_ros.engines import parity, replay
from fpt_ros.engines.cuda import CudaEngine, best_precision, stage_runners
from fpt_ros.engines.replay import Replayed
from fpt_ros.engines.staged import StagedEngine, bucket

CPU = torch.device("cpu")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


def staged(model, precision="fp32"):
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    return StagedEngine(model.config, CPU, stage_runners(model, CPU, precision), dtype)


@pytest.fixture(scope="module")
def engine(model):
    return staged(model)


@pytest.fixture(scope="module")
def reference(model):
    return TorchEngine(model)


@pytest.fixture
def image(model):
    side = model.config.encoder.input_px
    return torch.randint(0, 256, (1, 3, side, side), dtype=torch.uint8)


def near(actual, expected):
    torch.testing.assert_close(actual, expected, atol=2e-4, rtol=1e-4)


def pokes(candidates, n):
    return torch.rand(1, candidates, n, 2), 0.3 * torch.randn(1, candidates, n, 2)


@pytest.mark.parametrize("static", [True, False])
@pytest.mark.parametrize(("candidates", "n_pokes", "n_points"), [(1, 0, 9), (1, 1, 1), (9, 3, 17)])
def test_answers_as_the_reference(engine, reference, image, static, candidates, n_pokes, n_points):
    xy, flow = pokes(candidates, n_pokes)
    counts = torch.randint(0, n_pokes + 1, (1, candidates))
    camera, points = torch.tensor([static]), torch.rand(1, candidates, n_points, 2)
    answers = []
    for each in (engine, reference):
        frame = each.encode(image)
        context = each.condition(frame, xy, flow, counts, camera)
        # The second question finds the keys that the first one has computed.
        answers.append([each.query(frame, context, points) for _ in range(2)])
    for actual, expected in zip(*answers, strict=True):
        near(actual, expected)


def test_ignores_what_padding_holds(engine, image):
    xy, flow = pokes(2, 2)
    counts, points = torch.tensor([[2, 1]]), torch.rand(1, 2, 4, 2)
    frame = engine.encode(image)
    expected = engine.query(frame, engine.condition(frame, xy, flow, counts), points)
    xy[0, 1, 1] = flow[0, 1, 1] = torch.nan
    actual = engine.query(frame, engine.condition(frame, xy, flow, counts), points)
    torch.testing.assert_close(actual, expected)


def test_extends_contexts_as_the_reference(engine, reference, image):
    steps = [pokes(3, n) for n in (1, 2, 1, 1)]
    points = torch.rand(1, 3, 5, 2)
    answers = []
    for each in (engine, reference):
        frame = each.encode(image)
        context = each.condition(frame, *(part[:, :, :0] for part in steps[0]))
        raws = []
        for index, (xy, flow) in enumerate(steps):
            # Without points nothing is computed until somebody asks.
            asked = None if index == 1 else points
            longer, raw = each.extend(frame, context, xy, flow, asked)
            raws.append(raw)
            branch, _ = each.extend(frame, context, flow.abs(), xy)  # of no effect on `longer`
            raws.append(each.query(frame, branch, points))
            context = longer
        raws.append(each.query(frame, context, points[:, :, :0]))
        answers.append(raws)
    for actual, expected in zip(*answers, strict=True):
        near(actual, expected)


def test_frames_take_turns(engine, reference, image):
    frames = [image, image.flip(-1)]
    xy, flow = pokes(1, 1)
    points = torch.rand(1, 1, 3, 2)
    answers = []
    for each in (engine, reference):
        encoded = [each.encode(frame) for frame in frames]
        contexts = [each.condition(frame, xy, flow) for frame in encoded]
        order = (0, 1, 0, 1)
        answers.append([each.query(encoded[i], contexts[i], points) for i in order])
    near(torch.cat(answers[0]), torch.cat(answers[1]))


def test_half_precision_is_near(model, reference, image):
    engine = staged(model, "bf16")
    xy, flow = pokes(2, 3)
    points = torch.rand(1, 2, 33, 2)
    actual, expected = (
        each.query(frame := each.encode(image), each.condition(frame, xy, flow), points)
        for each in (engine, reference)
    )
    error = (actual - expected).square().mean().sqrt() / expected.std()
    assert 1e-6 < error < 0.05  # rounded, but not the angles


def test_float32_is_float32_in_convolutions_too(model, image):
    """By default cuDNN rounds their factors to TF32; nobody else is kept from it."""
    convolutions, seen = torch.backends.cudnn.conv, []
    assert convolutions.fp32_precision == "tf32"
    remember = model.image_embedder.register_forward_hook(
        lambda *_: seen.append(convolutions.fp32_precision)
    )
    for engine in (TorchEngine(model), staged(model)):
        seen.clear()
        engine.encode(image)
        assert seen == ["ieee"]
    remember.remove()
    assert convolutions.fp32_precision == "tf32"


def test_few_sizes_are_prepared():
    sizes = [bucket(n) for n in range(1, 5000)]
    assert all(n <= size < 1.25 * n for n, size in enumerate(sizes, start=1))
    assert len(set(sizes)) < 50


def test_work_is_prepared_once_per_size_and_reads_fixed_inputs_in_place():
    prepared = []

    def prepare(buffers):
        prepared.append({name: each.data_ptr() for name, each in buffers.items()})
        return lambda: {"sum": buffers["image_key"] + buffers["x"]}

    run = Replayed(prepare, record=False)
    fixed = torch.zeros(2)
    assert run({"image_key": fixed, "x": torch.ones(2)})["sum"].tolist() == [1, 1]
    fixed += 1
    assert run({"image_key": fixed, "x": torch.full((2,), 2.0)})["sum"].tolist() == [3, 3]
    assert len(prepared) == 1
    assert prepared[0]["image_key"] == fixed.data_ptr()
    run({"image_key": fixed, "x": torch.ones(1)})
    assert len(prepared) == 2


def prepared_for(asked):
    """The sizes that were prepared while these were asked for, of 8 bytes each."""
    prepared = []

    def prepare(buffers):
        prepared.append(buffers["x"].numel())
        return lambda: {"double": 2 * buffers["x"]}

    run = Replayed(prepare, record=False)
    for n in asked:
        inputs = {"map_0": torch.ones(1000), "x": torch.full((n,), 3.0)}
        assert run(inputs)["double"].sum() == 6 * n
    return prepared


@pytest.mark.parametrize(("limit", "most"), [("_KEPT_BYTES", 100), ("_KEPT_SIZES", 2)])
def test_what_was_not_used_for_longest_makes_room(monkeypatch, limit, most):
    monkeypatch.setattr(replay, limit, most)
    # 2 is too much beside 5 and 6, of which 6 has waited for longer.
    assert prepared_for([5, 6, 5, 2, 5, 6]) == [5, 6, 2, 6]


def test_more_than_may_be_kept_is_kept_while_it_is_the_only_one(monkeypatch):
    monkeypatch.setattr(replay, "_KEPT_BYTES", 100)
    assert prepared_for([6, 50, 50, 6]) == [6, 50, 6]


def test_failures_of_the_gpu_are_typed():
    def out_of_memory():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore")

    with pytest.raises(EngineError, match=r"Tried to allocate 2 GiB$"):
        Replayed(lambda buffers: out_of_memory, record=False)({"x": torch.ones(1)})


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu(model):
    with pytest.raises(EngineError, match="'cuda' cannot be used"):
        CudaEngine(model)
    with pytest.raises(EngineError, match="'cuda' cannot be used"):
        best_precision(torch.device("cuda"))
    with pytest.raises(EngineError, match="not the device 'cpu'"):
        CudaEngine(model, "cpu")


@needs_gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_on_a_gpu(model, precision):
    parity.check(CudaEngine(model, precision=precision), TorchEngine(model))


@needs_gpu
def test_reference_on_a_gpu_is_the_one_on_the_cpu(model):
    parity.check(TorchEngine(copy.deepcopy(model), "cuda"), TorchEngine(model))

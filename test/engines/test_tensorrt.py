"""The TensorRT adapter, as far as it goes without a GPU."""

import sys
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fpt_ros.core import predictor
from fpt_ros.core.engine import TorchEngine
from fpt_ros.core.errors import EngineError, InvalidInputError
from fpt_ros.core.joint import step_slices
from fpt_ros.engines import parity, tensorrt
from fpt_ros.engines.cuda import stage_runners
from fpt_ros.engines.staged import StagedEngine, bucket

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


@pytest.fixture
def rtx():
    return pytest.importorskip("tensorrt_rtx", reason="pip install tensorrt-rtx")


def test_refuses_what_is_no_graph(rtx, model):
    graph = tensorrt.stage_graphs(model)[0]
    with pytest.raises(EngineError, match="cannot read the stage encode"):
        tensorrt.build_plan(graph, b"not ONNX", capabilities=["SM89"])
    with pytest.raises(EngineError, match="SM12345"):
        tensorrt.build_plan(graph, b"", capabilities=["SM12345"])


@pytest.mark.parametrize("n_pokes", [0, 1, 3, 17, 64, 128, 255])
@pytest.mark.parametrize("n_candidates", [1, 5, 32, 33, 63, 64, 300, 512, 513, 4096, 10000])
def test_all_sizes_that_the_predictor_asks_for_are_built(n_candidates, n_pokes):
    group = next(predictor._groups([np.zeros((n_pokes, 4), np.float32)] * n_candidates))
    candidates = len(range(n_candidates)[group])
    most = max(1, predictor._TOKENS // predictor._tokens(candidates, n_pokes))
    for n_points in (1, most):
        assert_is_built(candidates, n_pokes, n_pokes, n_points)


def assert_is_built(candidates, n_earlier, n_pokes, n_points):
    earlier, pokes = (1 << max(0, n - 1).bit_length() for n in (n_earlier, n_pokes))
    wanted = (bucket(candidates), earlier, pokes, bucket(n_points))
    size = dict(zip((tensorrt.C, tensorrt.R, tensorrt.P, tensorrt.Q), wanted, strict=True))
    assert any(
        all(each <= profile[axis][1] for axis, each in size.items())
        for profile in tensorrt._PROFILES
    ), size


@pytest.fixture(scope="module")
def joint(model):
    """The most samples at once, of so many points with so many pokes."""
    asker = predictor.MotionPredictor(TorchEngine(model))
    asker.set_image(np.zeros((100, 100, 3), np.uint8))

    def largest_group(monkeypatch, n_pokes, n_points):
        groups = []

        def sample(engine, image, poke_xy, poke_flow, points, n_samples, *_):
            groups.append(n_samples)
            return torch.zeros(n_samples, len(points), 2)

        monkeypatch.setattr(predictor, "sample_jointly", sample)
        many = predictor._JOINT_TOKENS // (n_pokes + n_points) + 1
        asker.sample_jointly(np.full((n_pokes, 4), 50.0), np.full((n_points, 2), 50.0), many)
        return max(groups)

    return largest_group


@pytest.mark.parametrize("model", ["small"], indirect=True)
@pytest.mark.parametrize("n_pokes", [0, 1, 7, 8, 14, 15, 16, 17, 24, 30, 31, 33, 64, 129, 200, 256])
@pytest.mark.parametrize("n_points", [1, 2, 8, 9, 17, 64, 100, 256, 1000, 3840])
def test_all_sizes_that_joint_samples_ask_for_are_built(joint, monkeypatch, n_pokes, n_points):
    samples = joint(monkeypatch, n_pokes, n_points)
    for points_per_step in (1, 2, 16, 64, 256):
        steps = [each.stop - each.start for each in step_slices(n_points, points_per_step)]
        assert_is_built(samples, 0, n_pokes, steps[0])
        known = n_pokes
        for drawn, asked in pairwise(steps):
            assert_is_built(samples, known, drawn, asked)
            known += drawn


def test_gate_asks_what_each_range_of_sizes_is_for(model):
    cpu = torch.device("cpu")
    run = stage_runners(model, cpu, "fp32")
    advance, ranges = run["advance"], set()

    def record(inputs):
        _, candidates, n_earlier = inputs["earlier_present"].shape
        sizes = {
            tensorrt.C: candidates,
            tensorrt.R: n_earlier,
            tensorrt.P: inputs["poke_present"].shape[2],
            tensorrt.Q: inputs["point_tokens"].shape[2],
        }
        fits = [all(sizes[a] <= most for a, (_, most) in p.items()) for p in tensorrt._PROFILES]
        ranges.add(fits.index(True))
        return advance(inputs)

    engine = StagedEngine(model.config, cpu, {**run, "advance": record})
    engine.name, engine.precision = "staged", "fp32"
    parity.check(engine, TorchEngine(model))
    assert ranges == set(range(len(tensorrt._PROFILES)))


def test_question_that_is_too_large_is_not_the_engines_fault():
    plan = tensorrt._Plan.__new__(tensorrt._Plan)
    largest = [(1, 16, 256), (1, 64, 16)]
    plan._engine = SimpleNamespace(
        num_optimization_profiles=2,
        get_tensor_profile_shape=lambda name, index: (None, None, largest[index]),
    )
    assert plan._profile({"present": torch.zeros(1, 16, 256)}) == 0
    assert plan._profile({"present": torch.zeros(1, 17, 16)}) == 1
    with pytest.raises(InvalidInputError, match=r"asked for present \[1, 17, 17\]"):
        plan._profile({"present": torch.zeros(1, 17, 17)})


class FakeStream:
    """A stream that writes down what it is to do."""

    def __init__(self, name, log):
        self.cuda_stream, self.log = name, log

    def wait_stream(self, other):
        self.log.append(f"{self.cuda_stream} waits for {other.cuda_stream}")


@pytest.mark.parametrize("works", [True, False])
@pytest.mark.parametrize("is_rtx", [True, False])
def test_rtx_works_on_a_stream_of_its_own_in_turn_with_the_current_one(monkeypatch, is_rtx, works):
    log = []
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: FakeStream("default", log))
    plan = tensorrt._Plan.__new__(tensorrt._Plan)
    plan.is_rtx = is_rtx
    plan._scratch = SimpleNamespace(stream=FakeStream("own", log))

    def execute(stream):
        log.append(f"work on {stream}")
        return works

    assert plan._execute(SimpleNamespace(execute_async_v3=execute)) == works
    assert log == (
        ["own waits for default", "work on own", "default waits for own"]
        if is_rtx
        else ["work on default"]
    )


@no_gpu
@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_without_a_gpu(model, tmp_path, device):
    device = torch.device(device)
    for use in (
        lambda: tensorrt.describe(device),
        lambda: tensorrt.best_precision(device),
        lambda: tensorrt.load(model.config, tmp_path, "bf16", device),
    ):
        with pytest.raises(EngineError, match="needs an NVIDIA GPU"):
            use()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_on_a_gpu(model, tmp_path, precision):
    try:
        tensorrt.runtime()
    except EngineError as error:
        pytest.skip(str(error))
    tensorrt.build(model, precision, tmp_path, lambda _: None)
    engine = tensorrt.load(model.config, tmp_path, precision, torch.device("cuda"))
    parity.check(engine, TorchEngine(model))


@pytest.fixture
def packages(monkeypatch, tmp_path):
    """Pretends that there are these packages: sources by name, in the order of preference."""

    def pretend(**sources):
        for name, source in sources.items():
            (tmp_path / f"{name}.py").write_text(source)
            monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
        monkeypatch.setattr(tensorrt, "_PACKAGES", ("no_such_package", *sources))
        tensorrt._trt.cache_clear()

    yield pretend
    tensorrt._trt.cache_clear()


def test_without_the_packages(packages):
    packages()
    with pytest.raises(EngineError, match="pip install"):
        tensorrt.runtime()


def test_with_packages_that_do_not_load(packages):
    packages(
        broken_package="raise OSError('libcuda.so.1: not found')",
        old_package="raise ImportError('of another Python')",
    )
    reasons = r"broken_package .*libcuda.*; old_package cannot be imported: of another Python"
    with pytest.raises(EngineError, match=reasons):
        tensorrt.runtime()


def test_package_that_does_not_load_hides_no_other(packages):
    packages(broken_package="raise OSError('no')", working_package="__version__ = '7.5'")
    assert tensorrt.runtime() == "working_package 7.5"

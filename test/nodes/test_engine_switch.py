"""The node changes engines while it serves, over real topics; builds are real processes."""

import os
import queue
import shutil
import signal
import subprocess
import sys
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("rclpy")
pytest.importorskip("fpt_ros.msg")
pytest.importorskip("openvino")

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from fpt_ros import convert
from fpt_ros.cli import engine as cli_engine
from fpt_ros.core.checkpoint import load_checkpoint
from fpt_ros.core.errors import EngineError
from fpt_ros.engines import cache, choose, openvino
from fpt_ros.engines.openvino import OpenVinoEngine
from fpt_ros.msg import ModelInfo, MotionDistribution, WhatIf
from fpt_ros.nodes import engine_build, pipeline
from fpt_ros.nodes import models as models_module
from fpt_ros.nodes.predictor_node import PredictorNode
from fpt_ros.params import Settings
from fpt_ros.srv import LoadModel, PredictMotion

pytestmark = pytest.mark.integration
LATCHED = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class Bench:
    """A node, and what it says of its engines."""

    def __init__(self, ros, picture, **parameters):
        self.ros = ros
        self.namespace = next(ros.namespaces)
        self.tester = ros.node(namespace=self.namespace)
        self.infos, self.diagnostics = [], []
        self.tester.create_subscription(
            ModelInfo, "predictor/model_info", self.infos.append, LATCHED
        )
        self.tester.create_subscription(
            DiagnosticArray, "/diagnostics", self.diagnostics.append, 100
        )
        self.predict = self.tester.create_client(PredictMotion, "predictor/predict_motion")
        overrides = [Parameter(name, value=value) for name, value in parameters.items()]
        self.node = ros.node(PredictorNode, namespace=self.namespace, parameter_overrides=overrides)
        assert self.node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        assert self.node.trigger_activate() == TransitionCallbackReturn.SUCCESS
        image = self.tester.create_publisher(Image, "image", 10)
        ros.until(image.get_subscription_count)
        image.publish(convert.map_to_msg(picture, Header()))
        ros.until(lambda: self.ask().status == MotionDistribution.OK)

    def ask(self):
        question = WhatIf(poke_counts=[1], poke_xy=[30.0, 20.0], poke_dxdy=[5.0, 1.0])
        question.query_xy = [31.0, 21.0, 40.0, 10.0]  # answers on grids are kept
        return self.ros.call(self.predict, PredictMotion.Request(what_if=question)).motion

    def until_engine(self, name):
        self.ros.until(lambda: self.infos and self.infos[-1].engine == name, seconds=90)
        return self.infos[-1]

    def status(self):
        def mine():
            return [s for m in self.diagnostics for s in m.status if self.namespace in s.name]

        self.diagnostics.clear()
        self.ros.until(mine)
        return mine()[-1]

    def close(self):
        self.node.close()
        self.ros.remove(self.node)
        self.ros.remove(self.tester)


@pytest.fixture
def make_bench(ros, models, picture, tmp_path):
    benches = []

    def make(**parameters):
        defaults = {
            "checkpoint": str(models / "one.safetensors"),
            "grid_size": 4,
            "engine": "openvino",
            "engine_dir": str(tmp_path / "engines"),
            "num_threads": 1,
            "max_image_age_s": 0.0,
        }
        benches.append(Bench(ros, picture, **{**defaults, **parameters}))
        return benches[-1]

    yield make
    for bench in benches:
        bench.close()


def test_engine_is_built_while_pytorch_serves_and_serves_at_once_the_next_time(
    make_bench, tmp_path, monkeypatch
):
    first = make_bench()
    before = first.ask()
    info = first.until_engine("openvino")
    assert [each.engine for each in first.infos] == ["torch", "openvino"]
    assert 0 < info.parity_error < 0.1
    assert (tmp_path / "engines" / info.engine_key / "engine.json").is_file()
    after = first.ask()  # about the image from before the change
    assert after.status == MotionDistribution.OK
    assert after.means != before.means
    assert after.means == pytest.approx(before.means, abs=0.05 * max(map(abs, before.means)))

    threads_of_torch = []
    monkeypatch.setattr(torch, "set_num_threads", threads_of_torch.append)
    second = make_bench(num_threads=2)
    assert second.until_engine("openvino").engine_key == info.engine_key
    assert len(second.infos) == 1
    assert threads_of_torch[-1] == 1
    values = {each.key: each.value for each in second.status().values}
    assert (values["engine"], values["engine key"]) == ("openvino", info.engine_key)

    # It fails while it runs: one answer is lost, and PyTorch takes over once it is gone.
    engines, gone = [], []

    def fail(self, *_):
        engines.append(weakref.ref(self))
        raise EngineError("out of memory")

    def ready(*arguments):
        gone.append(engines[0]() is None)
        return choose.ready(*arguments)

    for name in ("query", "extend"):
        monkeypatch.setattr(OpenVinoEngine, name, fail)
    monkeypatch.setattr(models_module, "ready", ready)
    assert second.ask().status == MotionDistribution.MODEL_ERROR
    info = second.until_engine("torch")
    assert info.parity_error == 0
    assert threads_of_torch[-1] == 2
    assert second.ask().means == before.means
    assert "out of memory" in second.status().message
    assert gone == [True]


@pytest.fixture(scope="module")
def built(models, tmp_path_factory):
    """A folder with the engine of a model."""
    wish = choose.Wish("openvino", device="cpu", root=tmp_path_factory.mktemp("engines"))
    checkpoint = load_checkpoint(models / "one.safetensors")
    choose.build(checkpoint, "openvino", wish, lambda _: None)
    return wish.root


@pytest.fixture
def failing(make_bench, models, built, tmp_path, monkeypatch):
    """A node whose built engine fails from now on, and its checkpoint."""
    path = tmp_path / "model.safetensors"
    shutil.copy(models / "one.safetensors", path)
    bench = make_bench(checkpoint=str(path), engine_dir=str(built), model_dir=str(tmp_path))
    assert [each.engine for each in bench.infos] == ["openvino"]

    def fail(*_):
        raise EngineError("out of memory")

    for name in ("query", "extend"):
        monkeypatch.setattr(OpenVinoEngine, name, fail)
    return bench, path


@pytest.mark.parametrize("is_replaced", [True, False])
def test_pytorch_takes_over_when_the_file_is_another_or_gone(failing, models, is_replaced):
    bench, path = failing
    if is_replaced:
        shutil.copy(models / "two.safetensors", path.with_name("new"))
        os.replace(path.with_name("new"), path)
    else:
        path.unlink()
    assert bench.ask().status == MotionDistribution.MODEL_ERROR
    assert bench.until_engine("torch").model_id == bench.infos[0].model_id
    assert bench.ask().status == MotionDistribution.OK


def test_engine_stays_when_pytorch_cannot_take_over(failing, models, monkeypatch):
    bench, path = failing
    path.write_bytes((models / "two.safetensors").read_bytes())  # the same file: nothing is left
    for _ in range(2):
        assert bench.ask().status == MotionDistribution.MODEL_ERROR
    bench.ros.until(lambda: "was overwritten" in bench.status().message)
    message = bench.status().message
    assert "openvino failed: out of memory; to serve again, call ~/load_model" in message
    monkeypatch.undo()
    assert bench.ask().status == MotionDistribution.OK  # it has recovered
    load = bench.tester.create_client(LoadModel, "predictor/load_model")
    assert bench.ros.call(load, LoadModel.Request(path=path.name)).success
    assert bench.ask().status == MotionDistribution.OK
    assert bench.infos[-1].model_id != bench.infos[0].model_id


def test_engine_that_does_not_load_is_built_anew_but_only_once(
    make_bench, tmp_path, models, monkeypatch
):
    wish = choose.Wish("openvino", device="cpu", num_threads=1, root=tmp_path / "engines")
    checkpoint = load_checkpoint(models / "one.safetensors")
    identity = choose.identify(checkpoint, "openvino", wish)

    def write_rubbish(folder):
        (folder / "encode.blob").write_bytes(b"rubbish")
        return {"parity": {"mean_displacement": 0.0}}

    cache.store(wish.root, identity, write_rubbish)
    bench = make_bench()
    assert bench.until_engine("openvino").engine_key == identity.key
    assert [each.engine for each in bench.infos] == ["torch", "openvino"]

    def fail(*_, **__):
        raise EngineError("this process cannot load it")

    monkeypatch.setattr(openvino, "load", fail)
    made = []
    make_torch = choose.torch_engine
    monkeypatch.setattr(
        choose, "torch_engine", lambda *asked: made.append(asked) or make_torch(*asked)
    )
    bench = make_bench()
    reason = "built and does not work: this process cannot load it"
    bench.ros.until(lambda: reason in bench.status().message, seconds=90)
    assert len(made) == 1  # and goes on
    assert [each.engine for each in bench.infos] == ["torch"]
    assert bench.ask().status == MotionDistribution.OK


def test_engine_that_cannot_be_built_is_told_and_pytorch_goes_on(make_bench, tmp_path):
    (tmp_path / "engines").write_text("a file where the folder should be")
    bench = make_bench()
    bench.ros.until(lambda: "cannot be kept" in bench.status().message, seconds=90)
    assert bench.ask().status == MotionDistribution.OK
    assert [each.engine for each in bench.infos] == ["torch"]


def test_build_only_ends_with_the_code_of_the_build(models):
    command = [sys.executable, "-m", "fpt_ros.nodes.predictor", "--ros-args"]
    command += ["-p", "build_only:=true", "-p", f"checkpoint:={models / 'broken.safetensors'}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90)
    assert done.returncode == 2
    assert "damaged" in done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -15)])
def test_build_only_ends_with_its_build_when_it_is_told_to(number, code):
    stand_in = "import sys; print(sys.argv[1:], flush=True); sys.stdin.read()"
    program = (
        "import sys\n"
        "from fpt_ros.nodes import predictor_node\n"
        "predictor_node.PredictorNode.build_command = "
        f"lambda _: [sys.executable, '-c', {stand_in!r}]\n"
        "sys.exit(predictor_node.main(['--ros-args', '-p', 'build_only:=true']))\n"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as node:
        assert node.stdout.readline() == "['--end-with-stdin']\n"
        node.send_signal(number)
        assert node.wait(30) == code
        assert node.stdout.read() == ""  # ends when the build does, which has it too


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_faults_of_a_gpu_outside_of_its_engine_are_the_engines(monkeypatch, kind):
    class Predictor:
        def __init__(self, *_, **__):
            self.encode_image = self.predict_grid = lambda *_, **__: None

    monkeypatch.setattr(pipeline, "MotionPredictor", Predictor)
    engine = SimpleNamespace(name="other", device=torch.device(kind))
    service = choose.Service(engine, (), {}, {})
    checkpoint = SimpleNamespace(horizon_s=1.0, sha256="ab")
    surroundings = SimpleNamespace(settings=Settings, check=None)
    told = []
    subject = pipeline.PredictorPipeline(
        checkpoint, service, surroundings, lambda failed, error: told.append(error)
    )

    def fail(_):
        raise torch.OutOfMemoryError("CUDA out of memory\nmore")

    subject.predictor.encode_image = fail
    expected = EngineError if kind == "cuda" else torch.OutOfMemoryError
    with pytest.raises(expected, match="CUDA out of memory"):
        subject.encode(convert.map_to_msg(np.zeros((2, 2, 3), np.uint8), Header()))
    assert [str(error) for error in told] == ["the GPU failed: CUDA out of memory"] * len(told)
    assert len(told) == (kind == "cuda")


def test_what_needs_no_building_is_said_so(models, tmp_path, capsys):
    wish = choose.Wish("cuda", device="cpu", root=tmp_path)
    assert cli_engine._build(models / "one.safetensors", wish, rebuild=False) == 0
    assert "nothing to build" in capsys.readouterr().out


def test_build_ends_with_the_process_that_began_it(models, tmp_path):
    wish = choose.Wish("openvino", device="cpu", root=tmp_path)
    command = engine_build.build_command(models / "one.safetensors", "openvino", wish)
    with subprocess.Popen(
        [*command, "--end-with-stdin"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as build:
        build.stdin.close()
        assert build.wait(60) == 1
    assert not list(tmp_path.glob("openvino-*"))


def test_build_that_cannot_be_started_is_told(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError("too many processes")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    told = queue.Queue()
    wish = choose.Wish("openvino", device="cpu", root=tmp_path)
    engine_build.EngineBuild(
        tmp_path / "model", ["openvino"], wish, lambda *outcome: told.put(outcome)
    )
    name, problem = told.get(timeout=30)
    assert name == "openvino"
    assert "cannot be started: too many processes" in problem

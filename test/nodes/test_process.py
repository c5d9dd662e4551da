"""The node as a process of its own, over real DDS."""

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("fpt_ros.msg")

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from fpt_ros import convert
from fpt_ros.msg import MotionDistribution, PokeArray, WhatIf
from fpt_ros.nodes.desk import REQUEST_QOS
from fpt_ros.srv import LoadModel, PredictMotion

pytestmark = pytest.mark.integration

NODE = ["-m", "fpt_ros.nodes.predictor"]
# Its encoder never comes back from the native code of torch.
ENDLESS_NODE = [
    "-c",
    """
import pathlib, sys, torch
from fpt_ros.nodes import pipeline, predictor_node
def encode(self, image):
    pathlib.Path(sys.argv[1]).touch()
    matrix = torch.eye(700)
    while True:
        matrix = matrix @ matrix
pipeline.PredictorPipeline.encode = encode
sys.exit(predictor_node.main())
""",
]


# Its model never finishes loading.
LOADING_NODE = [
    "-c",
    """
import pathlib, sys, time
from fpt_ros.nodes import models, predictor_node
def load(path):
    pathlib.Path(sys.argv[1]).touch()
    time.sleep(1000)
models.load_checkpoint = load
sys.exit(predictor_node.main())
""",
]


class Process:
    """A running node, and a tester in this process."""

    def __init__(self, ros, command, **parameters):
        self.ros = ros
        self.namespace = next(ros.namespaces)
        arguments = ["--ros-args", "-r", f"__ns:={self.namespace}"]
        for name, value in {"engine": "torch", **parameters}.items():
            arguments += ["-p", f"{name}:={value}"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, *command, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        self.tester = ros.node(namespace=self.namespace)
        self.statuses = []
        self.motions = []
        self.tester.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self.tester.create_subscription(
            MotionDistribution, "predictor/motion", self.motions.append, 1000
        )
        self.image = self.tester.create_publisher(Image, "image", qos_profile_sensor_data)
        self.pokes = self.tester.create_publisher(PokeArray, "pokes", REQUEST_QOS)

    def _on_diagnostics(self, message):
        self.statuses += [s for s in message.status if self.namespace in s.name]

    def state(self):
        return {v.key: v.value for v in self.statuses[-1].values}["state"] if self.statuses else ""

    def until(self, condition, seconds=60.0):
        self.ros.until(condition, seconds)

    def until_active(self):
        self.until(lambda: self.state() == "active")
        self.until(self.image.get_subscription_count)
        self.until(self.pokes.get_subscription_count)
        self.until(lambda: self.tester.count_publishers(f"{self.namespace}/predictor/motion"))

    def send_image(self, picture):
        header = Header(stamp=self.tester.get_clock().now().to_msg(), frame_id="camera")
        self.image.publish(convert.map_to_msg(picture, header))
        return header

    def send_until_answered(self, picture):
        """Send images until the standing plan is answered on one; return its header."""

        def answered():
            if time.monotonic() - sent[-1][0] > 0.3:
                sent.append((time.monotonic(), self.send_image(picture)))
            return [m.header for m in self.motions if m.header in [h for _, h in sent]]

        sent = [(time.monotonic(), self.send_image(picture))]
        self.until(answered)
        return answered()[0]

    def end(self, number):
        """Send a signal; return exit code and output."""
        self.process.send_signal(number)
        output, _ = self.process.communicate(timeout=30.0)
        return self.process.returncode, output

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()
        self.ros.remove(self.tester)


@pytest.fixture
def start(ros):
    processes = []

    def start(command=NODE, **parameters):
        processes.append(Process(ros, command, **parameters))
        return processes[-1]

    yield start
    for process in processes:
        process.close()


def shared_memory_of(pid):
    maps = Path(f"/proc/{pid}/maps").read_text()
    return {Path(name) for name in re.findall(r"/dev/shm/fast(?:dds|rtps)_[0-9a-f]{16}\S*", maps)}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_inference_ends_the_process(start, models, picture, tmp_path, number):
    checkpoint = models / "one.safetensors"
    marker = tmp_path / "computing"
    command = [*ENDLESS_NODE, str(marker)]
    node = start(command, checkpoint=checkpoint)
    node.until_active()
    node.until(lambda: node.send_image(picture) and marker.exists())
    segments = shared_memory_of(node.process.pid) - shared_memory_of("self")
    assert segments
    code, output = node.end(number)
    assert code == 0
    assert "Traceback" not in output
    assert "terminate called" not in output
    assert not [segment for segment in segments if segment.exists()]


def test_an_interrupt_while_torch_is_imported_ends_the_process(start):
    node = start()
    maps = Path(f"/proc/{node.process.pid}/maps")
    node.until(lambda: "libtorch" in maps.read_text())
    code, output = node.end(signal.SIGINT)
    assert (code, output) == (0, "")


def test_a_signal_during_loading_ends_the_process(start, tmp_path):
    marker = tmp_path / "loading"
    node = start([*LOADING_NODE, str(marker)], checkpoint="any")
    node.until(marker.exists)
    code, output = node.end(signal.SIGINT)
    assert code == 0
    assert "Traceback" not in output


def test_bursts_are_answered_and_models_change_under_load(start, models, picture):
    node = start(
        checkpoint=models / "one.safetensors",
        model_dir=models,
        grid_size=4,
        max_image_age_s=0.0,
    )
    node.until_active()
    header = node.send_until_answered(picture)

    # 1,000 calls of the service
    client = node.tester.create_client(
        PredictMotion, "predictor/predict_motion", qos_profile=REQUEST_QOS
    )
    node.until(client.service_is_ready)
    what_if = WhatIf(header=header, poke_counts=[0])
    calls = [client.call_async(PredictMotion.Request(what_if=what_if)) for _ in range(1000)]
    node.until(lambda: all(call.done() for call in calls))
    counts = Counter(call.result().motion.status for call in calls)
    assert counts[MotionDistribution.OK] > 0
    assert set(counts) <= {MotionDistribution.OK, MotionDistribution.OVER_CAPACITY}

    # 1,000 messages on the topic
    for i in range(1000):
        node.pokes.publish(PokeArray(header=header, id=str(i)))
    node.until(lambda: sum(m.id != "" for m in node.motions) >= 1000)
    assert Counter(m.id for m in node.motions if m.id) == {str(i): 1 for i in range(1000)}

    # Images go on being answered while models come and go, and so do questions about them.
    load = node.tester.create_client(LoadModel, "predictor/load_model")
    node.until(load.service_is_ready)
    used = set()
    for name in ("two.safetensors", "broken.safetensors", "one.safetensors"):
        loading = load.call_async(LoadModel.Request(path=name))
        while not loading.done():
            header = node.send_until_answered(picture)
            call = client.call_async(
                PredictMotion.Request(what_if=WhatIf(header=header, poke_counts=[0]))
            )
            node.until(call.done)
            motion = call.result().motion
            assert (motion.status, motion.header) == (MotionDistribution.OK, header)
            used.add(motion.model_id)
        reply = loading.result()
        assert reply.success == (name != "broken.safetensors")
        header = node.send_until_answered(picture)
        assert node.motions[-1].model_id == reply.model_id
    assert len({m.model_id for m in node.motions if m.model_id}) == 2

    code, output = node.end(signal.SIGINT)
    assert code == 0
    assert "Traceback" not in output


def test_without_a_model_the_node_waits_and_says_why(start, tmp_path):
    missing = tmp_path / "missing.safetensors"
    node = start(checkpoint=missing)
    node.until(lambda: node.statuses)
    assert node.state() == "unconfigured"
    assert str(missing) in node.statuses[-1].message
    code, output = node.end(signal.SIGTERM)
    assert code == 0
    assert f"{missing}: no such file" in output


def test_an_impossible_parameter_ends_the_process_with_its_name(start):
    node = start(grid_size=1)
    output, _ = node.process.communicate(timeout=60.0)
    assert node.process.returncode == 2
    assert "grid_size" in output
    assert "Traceback" not in output


@pytest.mark.parametrize("module", ["predictor", "finetune_node"])
def test_an_impossible_remapping_ends_the_process_with_its_text(module):
    command = [sys.executable, "-m", f"fpt_ros.nodes.{module}", "--ros-args"]
    rule = "image:=/camera/image-raw"
    ended = subprocess.run([*command, "-r", rule], capture_output=True, text=True, timeout=60.0)
    assert ended.returncode == 2
    assert rule in ended.stderr
    assert "Traceback" not in ended.stderr

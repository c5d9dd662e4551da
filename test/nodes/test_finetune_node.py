"""Fine-tuning as a robot meets it: node, training process and predictor over real DDS."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

pytest.importorskip("rclpy")
pytest.importorskip("fpt_ros.action")

from action_msgs.msg import GoalStatus
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.action import ActionClient
from rclpy.qos import DurabilityPolicy, QoSProfile

from fpt_ros.action import FineTune
from fpt_ros.bags import BagWriter, typestore_for
from fpt_ros.core.checkpoint import save_checkpoint
from fpt_ros.core.config import DinoEncoderConfig, HeadConfig, ModelConfig, TransformerConfig
from fpt_ros.core.model import FlowPokeModel
from fpt_ros.data.tarfiles import add_file, jpeg, new_shard, npz
from fpt_ros.msg import ModelInfo

pytestmark = pytest.mark.integration

IMAGE = "sensor_msgs/msg/CompressedImage"
HORIZON_S = 0.5
RATE_HZ = 10.0
TIMEOUT_S = 400.0


def write_bag(path, n_frames):
    """A textured square that runs round on a textured ground."""
    rng = np.random.default_rng(0)
    ground = cv2.resize(rng.integers(0, 255, (40, 40, 3), np.uint8), (256, 256))
    square = cv2.resize(rng.integers(0, 255, (20, 20, 3), np.uint8), (90, 90))
    angles = np.arange(n_frames) / 20
    corners = 80 + 60 * np.stack([np.cos(angles), np.sin(angles)], -1)
    store = typestore_for(IMAGE)
    with BagWriter(path) as bag:
        bag.add_topic("/camera/image/compressed", IMAGE)
        for number in range(n_frames):
            stamp_ns = 10**18 + round(number / RATE_HZ * 1e9)
            shift = np.column_stack([np.eye(2), corners[number]])
            image = cv2.warpAffine(
                square, shift, (256, 256), ground.copy(), borderMode=cv2.BORDER_TRANSPARENT
            )
            header = store.types["std_msgs/msg/Header"](
                store.types["builtin_interfaces/msg/Time"](*divmod(stamp_ns, 10**9)), "camera"
            )
            message = store.types[IMAGE](header, "jpeg", cv2.imencode(".jpg", image)[1].ravel())
            cdr = bytes(store.serialize_cdr(message, IMAGE))
            bag.write("/camera/image/compressed", IMAGE, stamp_ns, cdr)
    return path


def write_synthetic(folder):
    """Three splits of still pictures in which a quarter moves to the right."""
    folder.mkdir()
    flow = np.zeros((2, 16, 16, 2), np.float16)
    flow[:, :8, :8, 0] = np.array([0.05, 0.1])[:, None, None]
    about = {"family": "toy", "view": 0, "camera_static": True, "horizon_s": [0.25, HORIZON_S]}
    for split in ("train", "val", "test"):
        with new_shard(folder / f"{split}-00000.tar") as tar:
            for number in range(4):
                image = np.random.default_rng(number).integers(0, 255, (64, 64, 3), np.uint8)
                add_file(tar, f"{number}.jpg", jpeg(image))
                facts = json.dumps(about | {"scene_seed": number}).encode()
                add_file(tar, f"{number}.json", facts)
                add_file(tar, f"{number}.npz", npz(flow=flow, part=np.zeros((16, 16), np.int16)))


def save_wrong_model(path):
    """Sure that everything goes far to the right, so that any training makes it better."""
    torch.manual_seed(0)
    model = FlowPokeModel(
        ModelConfig(
            DinoEncoderConfig(input_px=28, width=32, depth=1, heads=2, patch_px=7, position_grid=4),
            TransformerConfig(width=32, depth=2, d_head=16),
            HeadConfig(n_components=2),
        )
    )
    with torch.no_grad():
        model.out_mlp[-1].bias[2:6] += torch.tensor([0.5, 0.0, 0.5, 0.0])
        model.out_mlp[-1].bias[6:] -= 2.0
    training = {"config": {"learning_rate": 0.03}}
    save_checkpoint(path, model, horizon_s=HORIZON_S, licence="Apache-2.0", training=training)
    return path


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    """A recording, synthetic data, a base, and a folder for results."""
    folder = tmp_path_factory.mktemp("workshop")
    write_bag(folder / "bag", n_frames=84)
    (folder / "models").mkdir()
    write_synthetic(folder / "synthetic")
    save_wrong_model(folder / "models" / "base.safetensors")
    return folder


class Node:
    """A process with a node in it."""

    def __init__(self, module, namespace, log, **parameters):
        arguments = ["--ros-args", "-r", f"__ns:={namespace}"]
        for name, value in parameters.items():
            arguments += ["-p", f"{name}:={value}"]
        self.log = log
        with log.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )

    def end(self):
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(60.0)
        assert "Traceback" not in self.log.read_text()
        return code

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@pytest.fixture(scope="module")
def robot(ros, workshop):
    """Predictor and fine-tuning node of one robot, and a client."""
    namespace = next(ros.namespaces)
    models = workshop / "models"
    nodes = [
        Node(
            "fpt_ros.nodes.predictor",
            namespace,
            workshop / "predictor.log",
            checkpoint=models / "base.safetensors",
            model_dir=models,
            engine="torch",
        ),
        Node(
            "fpt_ros.nodes.finetune_node",
            namespace,
            workshop / "finetune.log",
            output_dir=models,
            base_checkpoint=models / "base.safetensors",
            rehearsal=workshop / "synthetic",
            budget_minutes=0.05,
        ),
    ]
    tester = ros.node(namespace=namespace)
    client = ActionClient(tester, FineTune, "finetune/fine_tune")
    try:
        ros.until(client.server_is_ready, TIMEOUT_S)
        yield Robot(ros, tester, client, nodes[1])
        assert [node.end() for node in nodes] == [0, 0]
    finally:
        for node in nodes:
            node.close()
        client.destroy()
        ros.remove(tester)


class Robot:
    def __init__(self, ros, tester, client, node):
        self.ros, self.tester, self.client, self.node = ros, tester, client, node

    def send(self, on_feedback=None, **goal):
        sent = self.client.send_goal_async(FineTune.Goal(**goal), feedback_callback=on_feedback)
        self.ros.until(sent.done, TIMEOUT_S)
        assert sent.result().accepted
        return sent.result()

    def result(self, handle):
        asked = handle.get_result_async()
        self.ros.until(asked.done, TIMEOUT_S)
        return asked.result().status, asked.result().result

    def children(self):
        """Processes that the fine-tuning node has started."""
        pid = self.node.process.pid
        return [*map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]


@pytest.mark.parametrize(
    ("goal", "reason"),
    [
        ({}, "names no bags"),
        ({"bags": ["bag"], "output_directory": "../elsewhere"}, "not a folder inside"),
        ({"bags": ["bag"], "budget_minutes": -1.0}, "budget_minutes"),
        ({"bags": ["/nowhere/bag"]}, "/nowhere/bag: no such file"),
    ],
)
def test_goals_that_cannot_be_served_end_with_the_reason(robot, goal, reason):
    status, result = robot.result(robot.send(**goal))
    assert status == GoalStatus.STATUS_ABORTED
    assert reason in result.message
    assert not result.success
    assert not robot.children()


def test_a_better_model_is_taken_over_by_the_running_predictor(robot, workshop):
    infos, feedback, statuses = [], [], []
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    robot.tester.create_subscription(ModelInfo, "predictor/model_info", infos.append, latched)
    robot.tester.create_subscription(DiagnosticArray, "/diagnostics", statuses.append, 10)
    robot.ros.until(lambda: infos, TIMEOUT_S)
    handle = robot.send(
        lambda message: feedback.append(message.feedback),
        bags=[str(workshop / "bag")],
        output_directory="better",
        promote=True,
    )
    # One goal at a time.
    status, result = robot.result(robot.send(bags=[str(workshop / "bag")]))
    assert status == GoalStatus.STATUS_ABORTED
    assert "another goal is being served" in result.message

    status, result = robot.result(handle)
    assert status == GoalStatus.STATUS_SUCCEEDED, result.message
    assert (result.success, result.promoted) == (True, True), result.message
    folder = workshop / "models" / "better"
    assert Path(result.checkpoint) == folder / "tuned.safetensors"
    assert Path(result.report).read_text().startswith("# Fine-tuning")
    row = "end point error of moving points [px of 448], held out of the recording, 1 pokes"
    index = list(result.measure_names).index(row)
    assert result.after[index] < result.before[index]

    phases = list(dict.fromkeys(message.phase for message in feedback))
    assert phases[-3:] == ["training", "averaging weights", "measuring the result"]
    fractions = [message.fraction for message in feedback]
    assert fractions == sorted(fractions)
    assert any(message.time_left.sec > 0 for message in feedback)
    assert np.isfinite([m.loss for m in feedback if m.phase == "averaging weights"]).all()
    assert "nll/one_poke" in feedback[-1].measure_names

    robot.ros.until(lambda: len(infos) > 1, TIMEOUT_S)
    digest = json.loads((folder / "promoted.json").read_text())["sha256"]
    assert infos[-1].model_id == digest[:12] != infos[0].model_id
    said = {status.message for array in statuses for status in array.status}
    assert "training" in said


def test_cancelling_keeps_the_last_checkpoint(robot, workshop):
    feedback = []
    done = workshop / "models" / "better" / "recording"
    if done.exists():  # saves time
        shutil.copytree(done, workshop / "models" / "long" / "recording")
    handle = robot.send(
        lambda message: feedback.append(message.feedback),
        bags=[str(workshop / "bag")],
        output_directory="long",
        budget_minutes=1000.0,
    )
    robot.ros.until(lambda: any(m.loss == m.loss for m in feedback), TIMEOUT_S)
    (child,) = robot.children()
    assert os.getpriority(os.PRIO_PROCESS, child) >= 10
    assert b"CUDA_MPS_CLIENT_PRIORITY=1" in Path(f"/proc/{child}/environ").read_bytes()
    assert b"OMP_WAIT_POLICY=PASSIVE" in Path(f"/proc/{child}/environ").read_bytes()
    cancelled = handle.cancel_goal_async()
    robot.ros.until(cancelled.done)
    status, result = robot.result(handle)
    assert status == GoalStatus.STATUS_CANCELED
    assert result.message.startswith("cancelled")
    folder = workshop / "models" / "long"
    assert result.checkpoint == str(folder / "training" / "last.safetensors")
    assert Path(result.checkpoint).exists()
    assert result.message.endswith(f"send the goal again with output_directory {folder}")
    assert not robot.children()


def test_a_goal_hears_of_the_end_of_the_node(robot, workshop):
    handle = robot.send(bags=[str(workshop / "bag")])
    robot.ros.until(robot.children, TIMEOUT_S)
    asked = handle.get_result_async()
    robot.node.process.send_signal(signal.SIGINT)
    robot.ros.until(asked.done, TIMEOUT_S)
    assert asked.result().status == GoalStatus.STATUS_ABORTED
    assert asked.result().result.message.startswith("the node is ending; there are no weights yet")
    assert robot.node.process.wait(60.0) == 0


def test_the_training_process_ends_with_its_parent():
    code = """
import sys, time
from fpt_ros.train import child
def run(settings, out):
    child._write(out, progress=settings)
    time.sleep(1000)
child._run = run
sys.exit(child.main())
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    process.stdin.write('{"niceness": 3, "out": "x"}\n')
    process.stdin.flush()
    assert json.loads(process.stdout.readline()) == {"progress": {"out": "x"}}
    assert process.poll() is None
    process.stdin.close()  # as when the parent is killed
    assert process.wait(60) == -signal.SIGTERM

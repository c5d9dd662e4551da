"""Goals of the fine-tuning node that are cancelled or promoted; their training is pretended."""

import json
import shutil
from pathlib import Path
from typing import ClassVar

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("fpt_ros.action")

from action_msgs.msg import GoalStatus
from rclpy.action import ActionClient
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile

from fpt_ros.action import FineTune
from fpt_ros.msg import ModelInfo
from fpt_ros.nodes import finetune_node
from fpt_ros.srv import LoadModel

pytestmark = pytest.mark.integration

BASE_SHA256 = 64 * "b"
OUTCOME = {
    "checkpoint": "/models/tuned.safetensors",
    "report": "/models/report.md",
    "base_sha256": BASE_SHA256,
    "promoted": True,
    "verdict": "promoted: better",
    "measures": {},
}


class Training:
    """Ends when it is told to, or as it is stopped."""

    started: ClassVar[list] = []

    def __init__(self, settings, log, threads, on_progress, on_end):
        self.settings, self.on_end, self.stopped = settings, on_end, False
        self.started.append(self)

    def stop(self):
        self.stopped = True
        self.on_end({"error": "stopped"})


class Desk:
    """The node, a client of its action, and a predictor that can only load."""

    def __init__(self, ros, output_dir):
        self.ros = ros
        namespace = next(ros.namespaces)
        self.node = ros.node(
            finetune_node.FineTuneNode,
            namespace=namespace,
            parameter_overrides=[Parameter("output_dir", value=str(output_dir))],
        )
        self.tester = ros.node(namespace=namespace)
        self.client = ActionClient(self.tester, FineTune, "finetune/fine_tune")
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.model_info = self.tester.create_publisher(ModelInfo, "predictor/model_info", latched)
        self.loaded = []
        self.service = None
        ros.until(self.client.server_is_ready)

    def offer_loading(self, answer=lambda: None):
        """From now on the predictor loads; `answer` is called while it does."""

        def load(request, response):
            self.loaded.append(request.path)
            answer()
            response.success, response.model_id = True, "new"
            return response

        self.service = self.tester.create_service(LoadModel, "predictor/load_model", load)

    def send(self, **goal):
        sent = self.client.send_goal_async(FineTune.Goal(bags=["bag"], **goal))
        self.ros.until(sent.done)
        return sent.result()

    def result(self, handle):
        asked = handle.get_result_async()
        self.ros.until(asked.done)
        return asked.result().status, asked.result().result

    def cancel(self, handle):
        """Tell whether the node agrees."""
        asked = handle.cancel_goal_async()
        self.ros.until(asked.done)
        return bool(asked.result().goals_canceling)

    def training(self, number=0):
        self.ros.until(lambda: len(Training.started) > number)
        return Training.started[number]

    def close(self):
        self.node.end(self.ros.executor)
        self.client.destroy()
        self.ros.remove(self.node)
        self.ros.remove(self.tester)


@pytest.fixture
def desk(ros, tmp_path, monkeypatch):
    monkeypatch.setattr(finetune_node, "TrainingProcess", Training)
    monkeypatch.setattr(finetune_node, "_DISCOVERY_S", 1.0)
    monkeypatch.setattr(finetune_node, "_FAREWELL_S", 0.0)
    monkeypatch.setattr(Training, "started", [])
    desk = Desk(ros, tmp_path)
    yield desk
    desk.close()


def test_what_the_node_begins_with_does_not_change_later(desk):
    (promote,) = desk.node.set_parameters([Parameter("promote", value=True)])
    assert not promote.successful
    assert "read-only" in promote.reason
    (percent,) = desk.node.set_parameters([Parameter("forget_percent", value=2)])
    assert percent.successful


@pytest.mark.parametrize("name", ["", "a b", "pre-dictor", "predictor/", "9lives", "/", 300 * "a"])
def test_a_predictor_that_no_node_can_be_called_is_refused(desk, name):
    (change,) = desk.node.set_parameters([Parameter("predictor", value=name)])
    assert not change.successful
    assert change.reason.startswith("predictor must be the name of a node")
    assert repr(name) in change.reason
    (change,) = desk.node.set_parameters([Parameter("predictor", value="/robot/predictor")])
    assert change.successful


def test_a_result_is_told_even_if_asking_the_predictor_fails(desk, monkeypatch):
    async def fails(*_):
        raise RuntimeError("no such handle")

    monkeypatch.setattr(desk.node, "_hot_swap", fails)
    handle = desk.send(promote=True)
    desk.training().on_end({"outcome": OUTCOME})
    status, result = desk.result(handle)
    assert (status, result.success) == (GoalStatus.STATUS_SUCCEEDED, True)
    assert (result.checkpoint, result.promoted) == (OUTCOME["checkpoint"], False)
    assert result.message == "better than the base, but not loaded: RuntimeError('no such handle')"


def test_a_cancelled_goal_stops_its_own_training_only(desk):
    desk.node.set_parameters([Parameter("horizon_s", value=0.4)])
    first = desk.send()
    training = desk.training()
    assert training.settings["horizon_s"] == 0.4
    second = desk.send()
    desk.cancel(second)  # it is being turned away, or has been
    status, result = desk.result(second)
    assert status == GoalStatus.STATUS_ABORTED
    assert "another goal" in result.message
    assert not training.stopped
    assert desk.cancel(first)
    assert training.stopped
    status, result = desk.result(first)
    assert status == GoalStatus.STATUS_CANCELED
    assert result.message.startswith("cancelled; there are no weights yet")
    assert result.checkpoint == ""


@pytest.mark.parametrize(
    ("files", "kept", "which"),
    [
        (["last.safetensors"], "last.safetensors", "latest"),
        (["last.safetensors", "best.safetensors"], "best.safetensors", "best"),
    ],
)
def test_a_cancelled_goal_tells_what_it_leaves_and_how_to_go_on(desk, tmp_path, files, kept, which):
    handle = desk.send()
    desk.training()
    (folder,) = tmp_path.iterdir()  # it was not named
    (folder / "training").mkdir()
    for name in files:
        (folder / "training" / name).touch()
    assert desk.cancel(handle)
    _, result = desk.result(handle)
    assert result.checkpoint == str(folder / "training" / kept)
    assert f"the {which} weights" in result.message
    assert f"output_directory {folder}" in result.message

    desk.send(output_directory=str(folder))
    assert desk.training(1).settings["out"] == str(folder)


def test_the_end_of_the_node_ends_its_goal_too(desk, tmp_path, monkeypatch):
    monkeypatch.setattr(finetune_node, "_FAREWELL_S", 0.5)
    asked = desk.send(output_directory="run").get_result_async()
    desk.training()
    (tmp_path / "run" / "training").mkdir()
    last = tmp_path / "run" / "training" / "last.safetensors"
    last.touch()
    desk.node.end(desk.ros.executor)
    assert asked.done()
    assert asked.result().status == GoalStatus.STATUS_ABORTED
    assert asked.result().result.message.startswith("the node is ending; the latest weights")
    assert asked.result().result.checkpoint == str(last)


def test_a_goal_that_is_cancelled_before_it_is_served_starts_nothing(desk, monkeypatch):
    serve = desk.node._result

    async def later(handle):
        await desk.node._until(lambda: handle.is_cancel_requested, 20.0)
        return await serve(handle)

    monkeypatch.setattr(desk.node, "_result", later)
    handle = desk.send()
    monkeypatch.setattr(finetune_node, "_id", lambda handle: b"another goal")
    assert desk.cancel(handle)
    assert desk.result(handle)[0] == GoalStatus.STATUS_CANCELED
    assert not Training.started


def test_a_goal_that_is_cancelled_when_all_is_done_gives_what_there_is_and_loads_nothing(desk):
    desk.offer_loading()
    desk.model_info.publish(ModelInfo(model_id="m", weights_sha256=BASE_SHA256))
    handle = desk.send(promote=True)
    training = desk.training()
    training.stop = lambda: training.on_end({"outcome": OUTCOME})  # it had said so before
    assert desk.cancel(handle)
    status, result = desk.result(handle)
    assert status == GoalStatus.STATUS_CANCELED
    assert (result.success, result.promoted) == (True, False)
    assert (result.checkpoint, result.report) == (OUTCOME["checkpoint"], OUTCOME["report"])
    assert result.message.startswith("cancelled when all was done")
    assert not desk.loaded


def test_while_the_predictor_changes_over_the_node_is_busy_and_the_goal_cannot_be_cancelled(desk):
    handle = desk.send(promote=True)
    desk.model_info.publish(ModelInfo(model_id="m", weights_sha256=BASE_SHA256))
    desk.training().on_end({"outcome": OUTCOME})
    desk.ros.until(lambda: desk.node._process is None)
    assert not desk.cancel(handle)
    status, result = desk.result(desk.send())
    assert status == GoalStatus.STATUS_ABORTED
    assert "another goal" in result.message
    desk.offer_loading()
    status, result = desk.result(handle)
    assert (status, result.promoted) == (GoalStatus.STATUS_SUCCEEDED, True), result.message
    assert desk.loaded == [OUTCOME["checkpoint"]]
    assert "the next goal will not begin with it" in result.message  # for there is no such file


def test_what_the_predictor_took_over_is_the_next_base_whatever_becomes_of_its_folder(
    desk, tmp_path
):
    promoted = tmp_path / "promoted.safetensors"
    desk.model_info.publish(ModelInfo(model_id="m", weights_sha256=BASE_SHA256))
    desk.offer_loading()
    for number in range(2):  # the second takes the place of the first
        handle = desk.send(promote=True)
        training = desk.training(number)
        assert training.settings["promote"]
        folder, base = Path(training.settings["out"]), training.settings["base"]
        if number:
            assert Path(base).read_text() == f"weights {number - 1}"
        else:
            assert base is None
        tuned = folder / "tuned.safetensors"
        tuned.write_text(f"weights {number}")
        training.on_end({"outcome": OUTCOME | {"checkpoint": str(tuned)}})
        _, result = desk.result(handle)
        assert (result.promoted, result.message) == (True, "")
        shutil.rmtree(folder)
        assert promoted.read_text() == f"weights {number}"
    desk.send(base_checkpoint="mine.safetensors")
    assert desk.training(2).settings["base"] == "mine.safetensors"


@pytest.mark.parametrize("before", ["weights", None])
def test_a_run_goes_on_with_the_base_it_began_with_whatever_is_promoted_since(
    desk, tmp_path, before
):
    promoted = tmp_path / "promoted.safetensors"
    if before:
        promoted.write_text(before)
    first = desk.send(output_directory="run")
    began = desk.training().settings
    assert not began["resume"]
    (tmp_path / "run" / "finetune.json").write_text(
        json.dumps({"config": {"base": began["base"]}, "base_sha256": BASE_SHA256})
    )
    desk.cancel(first)
    desk.result(first)
    (tmp_path / "other").write_text("better weights")
    (tmp_path / "other").replace(promoted)

    desk.send(output_directory="run")
    resumed = desk.training(1).settings
    assert resumed["resume"]
    assert resumed["base"] == began["base"]
    if before:
        assert Path(resumed["base"]).read_text() == before
    else:
        assert resumed["base"] is None


@pytest.mark.parametrize(
    ("served", "reason"),
    [
        ("a" * 64, "the predictor serves aaaaaaaaaaaa,"),
        ("", "the predictor serves unknown weights,"),
        (None, "says of no model"),
    ],
)
def test_only_the_base_is_replaced(desk, served, reason):
    desk.offer_loading()
    if served is not None:
        desk.model_info.publish(ModelInfo(model_id="m", weights_sha256=served))
    handle = desk.send(promote=True)
    desk.training().on_end({"outcome": OUTCOME})
    status, result = desk.result(handle)
    assert (status, result.success) == (GoalStatus.STATUS_SUCCEEDED, True)
    assert not result.promoted
    assert reason in result.message
    assert not desk.loaded

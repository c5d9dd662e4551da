"""The node in this process, spoken to over real topics and services."""

import collections
import os
import pickle
import re
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("fpt_ros.msg")

from builtin_interfaces.msg import Duration, Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import Log, ParameterType
from rcl_interfaces.srv import DescribeParameters, SetParameters
from rclpy.exceptions import InvalidParameterValueException
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from std_msgs.msg import Header

from fpt_ros import convert
from fpt_ros.core.parts import DEFAULT_CRITERION
from fpt_ros.images import depth_to_metres, image_to_rgb
from fpt_ros.msg import ModelInfo, MotionDistribution, Poke, PokeArray, WhatIf
from fpt_ros.nodes import image_input
from fpt_ros.nodes.predictor_node import PredictorNode
from fpt_ros.params import Settings
from fpt_ros.srv import LoadModel, PredictMotion

OK = MotionDistribution.OK
SUCCESS = TransitionCallbackReturn.SUCCESS
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
BEST_EFFORT = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
PUSH = Poke(x=30.0, y=20.0, dx=8.0, dy=-3.0)


class Bench:
    """A predictor node and a tester that publishes to it and hears its answers."""

    def __init__(self, ros, picture, start=True, **parameters):
        self.ros = ros
        self.picture = picture
        self.namespace = next(ros.namespaces)
        self.tester = ros.node(namespace=self.namespace)
        overrides = [Parameter(name, value=value) for name, value in parameters.items()]
        self.node = ros.node(PredictorNode, namespace=self.namespace, parameter_overrides=overrides)
        self.image = self.tester.create_publisher(Image, "image", 10)
        self.pokes = self.tester.create_publisher(PokeArray, "pokes", 100)
        self.what_if = self.tester.create_publisher(WhatIf, "what_if", 100)
        self.motions = self.listen(MotionDistribution, "predictor/motion")
        self.what_if_motions = self.listen(MotionDistribution, "predictor/what_if_motion")
        self.diagnostics = self.listen(DiagnosticArray, "/diagnostics")
        self.logs = self.listen(Log, "/rosout", 1000)
        self.predict = self.tester.create_client(PredictMotion, "predictor/predict_motion")
        self.load = self.tester.create_client(LoadModel, "predictor/load_model")
        if start:
            assert self.node.trigger_configure() == SUCCESS
            assert self.node.trigger_activate() == SUCCESS
            for publisher in (self.image, self.pokes, self.what_if):
                self.until(publisher.get_subscription_count)

    def listen(self, kind, topic, qos=100):
        messages = []
        self.tester.create_subscription(kind, topic, messages.append, qos)
        if topic.startswith("predictor/"):
            self.until(lambda: self.tester.count_publishers(f"{self.namespace}/{topic}"))
        return messages

    def until(self, condition):
        self.ros.until(condition)

    def header(self, age_s=0.0):
        now = self.tester.get_clock().now().nanoseconds - int(age_s * 1e9)
        stamp = Time(sec=now // 10**9, nanosec=now % 10**9)
        return Header(stamp=stamp, frame_id="camera")

    def send_image(self, picture=None, age_s=0.0, header=None):
        header = header or self.header(age_s)
        picture = self.picture if picture is None else picture
        self.image.publish(convert.map_to_msg(picture, header))
        return header

    def processed_image(self, **arguments):
        """Send an image and wait until the standing plan was answered on it."""
        header = self.send_image(**arguments)
        self.answer_about(header)
        return header

    def answer_about(self, header, request_id=None):
        def found():
            return [m for m in self.motions if m.header == header and request_id in (None, m.id)]

        self.until(found)
        return found()[-1]

    def ask(self, **fields):
        what_if = WhatIf(**{"poke_counts": [0], **fields})
        return self.ros.call(self.predict, PredictMotion.Request(what_if=what_if)).motion

    def load_model(self, path):
        return self.ros.call(self.load, LoadModel.Request(path=str(path)))

    def set_parameter(self, name, value):
        client = self.tester.create_client(SetParameters, "predictor/set_parameters")
        request = SetParameters.Request(
            parameters=[Parameter(name, value=value).to_parameter_msg()]
        )
        return self.ros.call(client, request).results[0]

    def status(self):
        """Return the diagnostics of this node that come next."""

        def mine():
            return [s for m in self.diagnostics for s in m.status if self.namespace in s.name]

        self.diagnostics.clear()
        self.until(mine)
        return mine()[-1]

    def values(self):
        return {v.key: v.value for v in self.status().values}

    def log_has(self, *words):
        def found():
            own = [m.msg for m in self.logs if m.name == f"{self.namespace[1:]}.predictor"]
            return [text for text in own if all(word in text for word in words)]

        self.until(found)
        return found()[0]

    def close(self):
        self.node.close()
        self.ros.remove(self.node)
        self.ros.remove(self.tester)


@pytest.fixture
def make_bench(ros, models, picture):
    benches = []

    def make(**parameters):
        defaults = {"checkpoint": str(models / "one.safetensors"), "grid_size": 8}
        benches.append(Bench(ros, picture, **{**defaults, **parameters}))
        return benches[-1]

    yield make
    for bench in benches:
        bench.close()


@pytest.fixture(scope="module")
def bench(ros, models, picture):
    """A node that serves many tests; they must leave it as they found it."""
    bench = Bench(
        ros,
        picture,
        checkpoint=str(models / "one.safetensors"),
        model_dir=str(models),
        grid_size=8,
    )
    yield bench
    bench.close()


# ---- life cycle ---------------------------------------------------------------------------------


def test_a_whole_life(make_bench):
    bench = make_bench(start=False)
    change = bench.tester.create_client(ChangeState, "predictor/change_state")

    def transition(number):
        request = ChangeState.Request(transition=Transition(id=number))
        return bench.ros.call(change, request).success

    answer = bench.ask(id="early")
    assert (answer.status, answer.id) == (MotionDistribution.NO_IMAGE, "early")
    assert "not active" in answer.status_text
    assert bench.values()["state"] == "unconfigured"

    def announced():
        """What somebody who subscribes now is told of the model."""
        infos = bench.listen(ModelInfo, "predictor/model_info", LATCHED)
        bench.until(lambda: infos)
        return infos[-1]

    for _ in range(2):
        assert transition(Transition.TRANSITION_CONFIGURE)
        assert announced().model_id
        assert bench.values()["state"] == "inactive"
        assert bench.image.get_subscription_count() == 0
        assert transition(Transition.TRANSITION_ACTIVATE)
        bench.until(bench.image.get_subscription_count)
        bench.processed_image()
        assert bench.ask().status == OK
        assert transition(Transition.TRANSITION_DEACTIVATE)
        assert bench.ask().status == MotionDistribution.NO_IMAGE
        assert transition(Transition.TRANSITION_CLEANUP)
        info = announced()
        assert info.header.stamp.sec
        assert info == ModelInfo(header=info.header)
    assert transition(Transition.TRANSITION_CONFIGURE)
    assert announced().model_id
    assert transition(Transition.TRANSITION_INACTIVE_SHUTDOWN)
    assert not announced().model_id


class Malicious:
    def __reduce__(self):
        return os.system, ("touch executed",)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "no such file"),
        (b"", "damaged"),
        ("truncated", "damaged"),
        (pickle.dumps(Malicious()), "damaged"),
    ],
)
def test_a_bad_checkpoint_is_told_in_log_and_diagnostics(
    make_bench, models, tmp_path, monkeypatch, content, reason
):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model.safetensors"
    if content == "truncated":
        content = (models / "one.safetensors").read_bytes()[:-100]
    if content is not None:
        path.write_bytes(content)
    bench = make_bench(start=False, checkpoint=str(path))
    bench.until(lambda: bench.tester.count_publishers("/rosout") >= 2)
    assert bench.node.trigger_configure() == TransitionCallbackReturn.FAILURE
    bench.log_has(str(path), reason)
    status = bench.status()
    assert status.level == DiagnosticStatus.ERROR
    assert str(path) in status.message
    assert not (tmp_path / "executed").exists()
    # It can be put right without a restart.
    assert bench.set_parameter("checkpoint", str(models / "one.safetensors")).successful
    assert bench.node.trigger_configure() == SUCCESS
    assert bench.status().level == DiagnosticStatus.OK


# ---- answers ------------------------------------------------------------------------------------


def test_the_standing_plan_is_answered_on_every_image(bench):
    first = bench.processed_image()
    answer = bench.answer_about(first)
    assert (answer.status, answer.id) == (OK, "")
    assert answer.header == first
    assert (answer.num_candidates, answer.num_points, answer.num_components) == (1, 64, 3)
    assert answer.horizon == Duration(sec=0, nanosec=500_000_000)
    mixture = convert.mixture_from_msg(answer)
    assert mixture.mean().isfinite().all()

    bench.pokes.publish(PokeArray(id="push", pokes=[PUSH]))
    pushed = bench.answer_about(first, "push")
    assert pushed.header == first
    assert not np.allclose(pushed.means, answer.means)
    second = bench.processed_image()
    assert bench.answer_about(second).id == "push"

    bench.pokes.publish(PokeArray(id=""))
    bench.answer_about(second, "")


def test_the_points_asked_about_come_back(bench):
    header = bench.processed_image()
    xy = [20.0, 10.0, 1.0, 40.0, -5.0, 10.0]  # seen; beside the crop; outside the image
    bench.pokes.publish(PokeArray(header=header, id="points", pokes=[PUSH], query_xy=xy))
    answer = bench.answer_about(header, "points")
    assert list(answer.points) == xy
    assert list(answer.flags) == [
        0,
        MotionDistribution.OUTSIDE_ROI,
        MotionDistribution.OUTSIDE_ROI | MotionDistribution.OUTSIDE_IMAGE,
    ]


def test_requests_name_older_images_by_stamp(bench):
    old = bench.processed_image()
    bench.processed_image(picture=255 - bench.picture)
    answer = bench.ask(header=old)
    assert (answer.status, answer.header) == (OK, old)
    assert not np.allclose(answer.means, bench.ask().means)
    bench.pokes.publish(PokeArray(header=old, id="old"))
    assert bench.answer_about(old, "old").status == OK
    unknown = Header(stamp=Time(sec=5))
    answer = bench.ask(header=unknown, id="gone")
    assert (answer.status, answer.id) == (MotionDistribution.NO_IMAGE, "gone")
    assert "5.000000000" in answer.status_text


def test_candidates_by_topic_and_service(bench):
    header = bench.processed_image()
    what_if = WhatIf(
        id="three",
        poke_counts=[1, 0, 2],
        poke_xy=[30.0, 20.0, 30.0, 20.0, 40.0, 30.0],
        poke_dxdy=[5.0, 5.0, -5.0, 5.0, 3.0, 0.0],
        query_xy=[20.0, 20.0, 40.0, 40.0],
    )
    bench.what_if.publish(what_if)
    bench.until(lambda: bench.what_if_motions)
    answer = bench.what_if_motions.pop()
    assert (answer.status, answer.id, answer.header) == (OK, "three", header)
    assert convert.mixture_from_msg(answer).batch_shape == (3, 2)
    by_service = bench.ros.call(bench.predict, PredictMotion.Request(what_if=what_if)).motion
    np.testing.assert_array_equal(by_service.means, answer.means)
    alone = bench.ask(query_xy=[20.0, 20.0, 40.0, 40.0])
    unpoked = convert.mixture_from_msg(answer)[1].mean()
    np.testing.assert_allclose(convert.mixture_from_msg(alone)[0].mean(), unpoked, atol=1e-4)


def test_one_contact_out_of_sight_does_not_cost_the_other_candidates(bench):
    bench.processed_image()
    answer = bench.ask(
        poke_counts=[1, 1],
        poke_xy=[1.0, 20.0, 30.0, 20.0],
        poke_dxdy=[5.0, 0.0, 5.0, 0.0],
        query_xy=[20.0, 20.0, 40.0, 40.0],
    )
    assert (answer.status, answer.status_text) == (OK, "")
    contact = MotionDistribution.CONTACT_OUTSIDE_ROI
    assert list(answer.flags) == [contact, contact, 0, 0]
    finite = convert.mixture_from_msg(answer).mean().isfinite().all(-1)
    assert finite.tolist() == [[False, False], [True, True]]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"poke_counts": [2]}, "poke_xy must hold 2 x 2 numbers"),
        (
            {"poke_counts": [1], "poke_xy": [500.0, 20.0], "poke_dxdy": [0.0, 0.0]},
            "pokes[0] starts at (500, 20), outside the image",
        ),
        (
            {"poke_counts": [0, 1], "poke_xy": [30.0, 20.0], "poke_dxdy": [9e6, 0.0]},
            "candidates[1][0] is 9000000 px long",
        ),
        ({"max_wait": Duration(sec=-1)}, "max_wait must not be negative"),
    ],
)
def test_bad_requests_are_told_the_reason(bench, fields, reason):
    bench.processed_image()
    answer = bench.ask(id="bad", **fields)
    assert (answer.status, answer.id) == (MotionDistribution.BAD_REQUEST, "bad")
    assert reason in answer.status_text
    assert answer.num_points == 0


def test_a_bad_plan_is_refused_once_and_the_old_one_stays(bench):
    bench.processed_image()
    bench.pokes.publish(PokeArray(id="nan", pokes=[Poke(x=float("nan"))]))
    bench.until(lambda: [m for m in bench.motions if m.id == "nan"])
    header = bench.processed_image()
    assert bench.answer_about(header).id == ""
    refused = [m for m in bench.motions if m.id == "nan"]
    assert [m.status for m in refused] == [MotionDistribution.BAD_REQUEST]
    assert "pokes[0]" in refused[0].status_text


def test_a_deadline_that_cannot_be_met(bench):
    bench.processed_image()
    assert bench.ask(max_wait=Duration(nanosec=1)).status == MotionDistribution.DEADLINE_MISSED
    assert bench.ask(max_wait=Duration(sec=100)).status == OK


def test_no_image_yet(make_bench):
    bench = make_bench()
    assert bench.ask().status == MotionDistribution.NO_IMAGE
    bench.pokes.publish(PokeArray(id="early", pokes=[PUSH]))
    bench.until(lambda: bench.motions)
    assert bench.motions[0].status == MotionDistribution.NO_IMAGE
    assert bench.answer_about(bench.send_image()).id == "early"  # it has become the plan


def test_old_images_are_stale(make_bench):
    bench = make_bench(max_image_age_s=2.0)
    header = bench.send_image(age_s=10.0)
    answer = bench.answer_about(header)
    assert answer.status == MotionDistribution.STALE_IMAGE
    assert "max_image_age_s is 2" in answer.status_text
    status = bench.status()
    assert bench.set_parameter("max_image_age_s", 0).successful
    assert bench.answer_about(bench.send_image(age_s=10.0)).status == OK
    assert {v.key: v.value for v in status.values}["images stale"] == "1"


def test_bad_images_are_dropped_and_counted(make_bench):
    bench = make_bench()
    message = convert.map_to_msg(bench.picture, bench.header())
    message.step = 1
    bench.image.publish(message)
    bench.log_has("image dropped", "step must be at least 192")
    assert bench.answer_about(bench.send_image()).status == OK
    values = bench.values()
    assert values["images unusable"] == "1"


def test_image_sizes_may_change(make_bench):
    bench = make_bench()
    for height, width in ((48, 64), (16, 16), (1, 1), (2160, 3840), (31, 97)):
        picture = np.full((height, width, 3), 90, np.uint8)
        answer = bench.answer_about(bench.send_image(picture))
        assert answer.status == OK
        assert (answer.image_height, answer.image_width) == (height, width)
        assert answer.roi.width == min(height, width)


def test_compressed_images(make_bench):
    bench = make_bench(start=False, image_transport="compressed")
    publisher = bench.tester.create_publisher(CompressedImage, "image/compressed", 10)
    assert bench.node.trigger_configure() == SUCCESS
    assert bench.node.trigger_activate() == SUCCESS
    bench.until(publisher.get_subscription_count)
    _, data = cv2.imencode(".jpg", bench.picture)
    header = bench.header()
    publisher.publish(CompressedImage(header=header, format="jpeg", data=data.tobytes()))
    assert bench.answer_about(header).image_width == 64


# ---- pictures and points, for those who listen --------------------------------------------------


def test_pictures_have_the_size_of_the_image(make_bench):
    bench = make_bench(moving_part_threshold_nats=0.0, moving_part_probability=0.0)
    topics = ("uncertainty", "moving_part/mask", "moving_part/score", "overlay")
    heard = {topic: bench.listen(Image, f"predictor/{topic}") for topic in topics}
    bench.pokes.publish(PokeArray(id="push", pokes=[PUSH]))
    bench.until(lambda: bench.motions)
    bench.until(lambda: bench.send_image() and all(heard.values()))
    pictures = {topic: messages[-1] for topic, messages in heard.items()}
    assert all((m.width, m.height) == (64, 48) for m in pictures.values())
    assert all(m.header.frame_id == "camera" for m in pictures.values())
    uncertainty = depth_to_metres(pictures["uncertainty"])
    assert np.isnan(uncertainty[:, :8]).all()
    assert (uncertainty[:, 8:56] > 0).all()
    score = depth_to_metres(pictures["moving_part/score"])
    mask = image_to_rgb(pictures["moving_part/mask"])[..., 0]
    assert set(np.unique(mask)) <= {0, 255}
    np.testing.assert_array_equal(mask > 0, np.nan_to_num(score) > 0)
    assert (mask > 0).any()
    assert pictures["overlay"].encoding == "rgb8"


def test_nothing_is_published_that_nobody_hears(bench):
    bench.processed_image()
    assert bench.tester.count_publishers(f"{bench.namespace}/predictor/overlay") == 1
    assert bench.node._desk.listened_to() == {"motion"}


def test_points_in_space(make_bench):
    bench = make_bench()
    clouds = bench.listen(PointCloud2, "predictor/motion_points")
    camera = bench.tester.create_publisher(CameraInfo, "camera_info", 10)
    bench.until(camera.get_subscription_count)
    bench.until(
        lambda: (
            bench.send_image()
            and [m for m in bench.logs if f"yet on {bench.namespace}/camera_info" in m.msg]
        )
    )
    info = CameraInfo(width=64, height=48, k=[50.0, 0.0, 32.0, 0.0, 50.0, 24.0, 0.0, 0.0, 1.0])
    camera.publish(info)
    bench.until(lambda: bench.send_image() and clouds)

    def distances(cloud):
        return set(np.frombuffer(cloud.data, np.float32).reshape(-1, 7)[:, 2])

    assert distances(clouds[-1]) == {1.0}
    assert clouds[-1].width == 64
    depth = f"{bench.namespace}/depth"
    bench.until(lambda: bench.tester.count_subscribers(depth) == 1)  # as somebody listens
    depth = bench.tester.create_publisher(Image, "depth", 10)
    bench.until(depth.get_subscription_count)

    def with_depth(age_s):
        depth.publish(convert.map_to_msg(np.full((48, 64), 2.5, np.float32), bench.header(age_s)))
        return bench.send_image()

    # Depth of another time: no cloud, rather than one at a wrong distance.
    late = "no motion_points: the nearest"
    bench.until(lambda: with_depth(1.0) and late in bench.status().message)
    clouds.clear()
    bench.processed_image()
    assert not clouds
    bench.until(lambda: with_depth(0.0) and clouds)
    assert distances(clouds[-1]) == {2.5}
    info.width = 65
    camera.publish(info)
    bench.until(lambda: bench.send_image() and [m for m in bench.logs if "camera_info" in m.msg])
    assert bench.processed_image()


# ---- parameters ---------------------------------------------------------------------------------


def test_live_parameters_change_and_others_refuse(bench):
    assert bench.set_parameter("grid_size", 5).successful
    assert bench.answer_about(bench.send_image()).num_points == 25
    assert bench.set_parameter("grid_size", 8).successful
    result = bench.set_parameter("device", "cuda")
    assert not result.successful
    assert "device cannot change while" in result.reason
    assert bench.set_parameter("device", "auto").successful  # nothing changes
    result = bench.set_parameter("grid_size", 1000)
    assert not result.successful
    assert "grid_size out of range. Min: 2, Max: 128, value: 1000" in result.reason
    assert bench.set_parameter("max_image_age_s", 7).successful
    assert bench.set_parameter("max_image_age_s", 5.0).successful
    assert not bench.set_parameter("camera_static", "yes").successful


def test_parameters_are_described(bench):
    client = bench.tester.create_client(DescribeParameters, "predictor/describe_parameters")
    request = DescribeParameters.Request(names=["grid_size", "image_qos"])
    grid, qos = bench.ros.call(client, request).descriptors
    assert grid.type == ParameterType.PARAMETER_INTEGER
    assert grid.integer_range[0].to_value == 128
    assert "sensor_data, reliable" in qos.additional_constraints


@pytest.mark.parametrize(
    ("name", "value"), [("grid_size", 1), ("image_qos", "best"), ("max_rate_hz", "fast")]
)
def test_a_bad_value_at_start_is_named(ros, name, value):
    with pytest.raises(InvalidParameterValueException, match=name):
        PredictorNode(context=ros.context, parameter_overrides=[Parameter(name, value=value)])


def test_the_default_criterion_is_that_of_the_core():
    assert Settings().moving_part_threshold_nats == DEFAULT_CRITERION.threshold_nats
    assert Settings().moving_part_probability == DEFAULT_CRITERION.least_probability


# ---- models -------------------------------------------------------------------------------------


def test_models_are_replaced_at_run_time(bench, models):
    infos = bench.listen(ModelInfo, "predictor/model_info", LATCHED)
    bench.until(lambda: infos)
    assert infos[0].checkpoint == str(models / "one.safetensors")
    assert (infos[0].license, infos[0].num_components, infos[0].input_size) == ("Apache-2.0", 3, 56)
    assert infos[0].horizon == Duration(nanosec=500_000_000)
    old = bench.processed_image()
    before = bench.ask(header=old)
    reply = bench.load_model("two.safetensors")
    assert reply.success, reply.message
    after = bench.ask(header=old)  # an image from before the change
    assert (after.status, after.header) == (OK, old)
    assert after.model_id == reply.model_id != before.model_id
    assert not np.allclose(after.means, before.means)
    bench.until(lambda: len(infos) == 2)
    assert infos[1].model_id == reply.model_id
    assert bench.load_model(models / "one.safetensors").success
    np.testing.assert_array_equal(bench.ask(header=old).means, before.means)


def test_a_model_that_cannot_be_loaded_leaves_the_old_one(bench, models, tmp_path):
    outside = tmp_path / "outside.safetensors"
    outside.write_bytes((models / "two.safetensors").read_bytes())
    link = models / "link.safetensors"
    link.symlink_to(outside)
    bench.processed_image()
    before = bench.ask()
    for path, reason in (
        ("missing.safetensors", "no such file"),
        ("broken.safetensors", "damaged"),
        (outside, "not a file inside the folder of `model_dir`"),
        ("../outside.safetensors", "not a file inside"),
        ("link.safetensors", "not a file inside"),
        ("", "not a file inside"),
    ):
        reply = bench.load_model(path)
        assert not reply.success
        assert reason in reply.message
        assert reply.model_id == before.model_id
        assert bench.ask().model_id == before.model_id
    link.unlink()


def test_no_folder_no_models(make_bench):
    reply = make_bench().load_model("one.safetensors")
    assert not reply.success
    assert "model_dir" in reply.message


# ---- silence and mismatches ---------------------------------------------------------------------


def test_silence_is_explained(make_bench, monkeypatch):
    monkeypatch.setattr(image_input, "SILENCE_S", 0.2)
    bench = make_bench(start=False)
    other = bench.tester.create_publisher(Image, "other_camera", BEST_EFFORT)
    bench.until(lambda: bench.node.count_publishers(other.topic_name))
    assert bench.node.trigger_configure() == SUCCESS
    assert bench.node.trigger_activate() == SUCCESS
    text = bench.log_has("no image for", f"{bench.namespace}/image", "best effort", "depth 1")
    assert f"{bench.namespace}/other_camera (Image, 1 publishers)" in text
    assert f"{bench.namespace}/predictor/overlay" not in text
    status = bench.status()
    assert status.level == DiagnosticStatus.WARN
    assert "no image for" in status.message


def test_incompatible_qos_is_named(make_bench):
    bench = make_bench(start=False, image_qos="reliable")
    topic = f"{bench.namespace}/image"
    bench.tester.create_publisher(Image, "image", BEST_EFFORT)
    bench.until(lambda: bench.node.count_publishers(topic) == 2)
    assert bench.node.trigger_configure() == SUCCESS
    assert bench.node.trigger_activate() == SUCCESS
    text = bench.log_has("incompatible QoS", topic)
    assert "asks for reliable, volatile, depth 1" in text
    assert "tester offers best effort, volatile" in text


def test_a_missing_clock_is_told(make_bench):
    status = make_bench(use_sim_time=True).status()
    assert "nothing arrives on /clock" in status.message


def test_ages_are_measured_on_the_clock_of_a_simulation(make_bench):
    bench = make_bench(use_sim_time=True)
    clock = bench.tester.create_publisher(Clock, "/clock", 10)
    bench.until(clock.get_subscription_count)

    def at(now_s, stamp_s):
        clock.publish(Clock(clock=Time(sec=now_s)))
        bench.until(lambda: bench.node.get_clock().now().nanoseconds == now_s * 10**9)
        return bench.answer_about(bench.send_image(header=Header(stamp=Time(sec=stamp_s)))).status

    assert at(now_s=100, stamp_s=99) == OK
    assert at(now_s=200, stamp_s=101) == MotionDistribution.STALE_IMAGE
    assert at(now_s=50, stamp_s=49) == OK  # the recording starts again


def test_diagnostics_count(make_bench):
    bench = make_bench()
    for _ in range(3):
        bench.processed_image()
    bench.ask()
    status = bench.status()
    values = {v.key: v.value for v in status.values}
    assert status.level == DiagnosticStatus.OK
    assert values["state"] == "active"
    assert values["engine"] == "torch"
    assert values["images received"] == values["images processed"] == "3"
    assert int(values["answers OK"]) == 4
    assert values["model_id"] == bench.motions[-1].model_id
    for key in ("encode p50 [ms]", "query p95 [ms]", "age p95 [ms]"):
        assert float(values[key]) > 0


def documented(heading):
    """Rows of a table in the README: the name in the first column, the types in the second."""
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    table = readme.partition(f"| {heading} | type | |")[2].partition("\n\n")[0]
    rows = [row.split("|")[1:3] for row in table.splitlines()[2:]]
    return [(re.findall("`(.*?)`", names), re.findall("`(.*?)`", types)) for names, types in rows]


def test_the_documented_topics_and_services_exist(bench):
    node, namespace = bench.node, bench.namespace

    def named(graph):
        """What exists beyond what every node has, by the names that the README gives it."""
        own = {name.replace(f"{namespace}/predictor/", "~/"): kinds for name, kinds in graph}
        own = {name.replace(f"{namespace}/", ""): kinds for name, kinds in own.items()}
        return {
            name: kind.replace("/msg/", "/").replace("/srv/", "/")
            for name, (kind, *_) in own.items()
            if kind.partition("/")[0]
            not in ("rcl_interfaces", "lifecycle_msgs", "type_description_interfaces")
        }

    published = {names[0]: types[0] for names, types in documented("published")}
    assert named(node.get_publisher_names_and_types_by_node("predictor", namespace)) == published
    services = {names[0]: types[0] for names, types in documented("service")}
    assert named(node.get_service_names_and_types_by_node("predictor", namespace)) == services
    subscribed = named(node.get_subscriber_names_and_types_by_node("predictor", namespace))
    known = {name: set(types) for names, types in documented("subscribed") for name in names}
    for name, kind in subscribed.items():
        assert kind in known[name]
    assert {"image", "pokes", "what_if", "camera_info"} <= set(subscribed)


def test_a_burst_on_the_topics_is_answered_completely(make_bench):
    bench = make_bench(request_queue_size=5)
    bench.processed_image()
    header = bench.processed_image()
    for i in range(50):
        bench.pokes.publish(PokeArray(header=header, id=f"p{i}"))
        bench.what_if.publish(WhatIf(id=f"w{i}", poke_counts=[0]))
    bench.until(lambda: len(bench.what_if_motions) >= 50)
    bench.until(partial(lambda: sum(m.id.startswith("p") for m in bench.motions) >= 50))
    answers = collections.Counter(m.id for m in bench.motions + bench.what_if_motions if m.id)
    assert answers == {f"{kind}{i}": 1 for kind in "pw" for i in range(50)}
    statuses = {m.status for m in bench.motions + bench.what_if_motions}
    assert statuses <= {OK, MotionDistribution.OVER_CAPACITY}

"""Thousands of malformed messages into the live node: it stays alive and answers every request."""

import itertools
import logging
from collections import Counter
from functools import partial

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("rclpy")
pytest.importorskip("fpt_ros.msg")

from builtin_interfaces.msg import Duration, Time
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2, RegionOfInterest
from std_msgs.msg import Header

from fpt_ros import convert
from fpt_ros.msg import MotionDistribution, Poke, PokeArray, WhatIf
from fpt_ros.nodes.predictor_node import PredictorNode
from fpt_ros.srv import PredictMotion

KNOWN_STAMP = Time(sec=1_000)

any_float = st.floats(width=32, allow_subnormal=False)
likely_float = st.one_of(st.floats(0, 64, width=32), any_float)
some_size = st.one_of(st.integers(0, 12), st.sampled_from([2**31, 2**32 - 1]))
headers = st.builds(
    Header,
    stamp=st.one_of(
        st.just(Time()),
        st.just(KNOWN_STAMP),
        st.builds(Time, sec=st.integers(-5, 5), nanosec=st.integers(0, 10)),
    ),
    frame_id=st.sampled_from(["", "camera", "\u20ac/\n"]),
)
encodings = st.sampled_from(
    ["rgb8", "bgra8", "mono8", "mono16", "bayer_rggb8", "yuv422", "yuv422_yuy2", "32FC1", "", "?"]
)
images = st.builds(
    Image,
    header=headers,
    height=some_size,
    width=some_size,
    encoding=encodings,
    is_bigendian=st.integers(0, 255),
    step=st.one_of(st.integers(0, 40), some_size),
    data=st.binary(max_size=600),
)


@st.composite
def good_sized_images(draw):
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    data = np.zeros((height, width, 3), np.uint8)
    return convert.map_to_msg(data, draw(headers))


compressed_images = st.builds(
    CompressedImage,
    header=headers,
    format=st.sampled_from(["jpeg", "png", "rgb8; jpeg compressed bgr8", ""]),
    data=st.one_of(
        st.binary(max_size=100),
        st.binary(max_size=60).map(lambda b: b"\xff\xd8\xff\xc0\0\x11\x08" + b + b"\xff\xd9"),
        st.binary(max_size=60).map(lambda b: b"\x89PNG\r\n\x1a\n" + b + b"IEND\xaeB`\x82"),
    ),
)
pokes = st.builds(
    Poke,
    x=likely_float,
    y=likely_float,
    dx=likely_float,
    dy=likely_float,
)
poke_arrays = st.builds(
    PokeArray,
    header=headers,
    id=st.text(max_size=5),
    pokes=st.one_of(st.lists(pokes, max_size=4), st.builds(lambda: [Poke()] * 10_000)),
    query_xy=st.lists(likely_float, max_size=7),
)
floats = st.lists(likely_float, max_size=8)
wild_what_ifs = st.builds(
    WhatIf,
    header=headers,
    id=st.text(max_size=5),
    poke_counts=st.lists(st.one_of(st.integers(0, 3), st.just(2**32 - 1)), max_size=4),
    poke_xy=floats,
    poke_dxdy=floats,
    query_xy=floats,
    max_wait=st.builds(
        Duration, sec=st.integers(-1, 1), nanosec=st.sampled_from([0, 1, 999_999_999])
    ),
)


@st.composite
def consistent_what_ifs(draw):
    counts = draw(st.lists(st.integers(0, 2), min_size=1, max_size=3))
    numbers = st.lists(likely_float, min_size=2 * sum(counts), max_size=2 * sum(counts))
    return WhatIf(
        header=draw(headers),
        id="consistent",
        poke_counts=counts,
        poke_xy=draw(numbers),
        poke_dxdy=draw(numbers),
        query_xy=draw(st.lists(st.floats(-10, 80, width=32), max_size=3).map(lambda v: v * 2)),
        max_wait=Duration(nanosec=draw(st.sampled_from([0, 0, 1, 999_999_999]))),
    )


what_ifs = st.one_of(wild_what_ifs, consistent_what_ifs())
camera_infos = st.builds(
    CameraInfo,
    height=some_size,
    width=some_size,
    k=st.lists(st.floats(), min_size=9, max_size=9),
    p=st.one_of(st.just([0.0] * 12), st.lists(st.floats(), min_size=12, max_size=12)),
    binning_x=some_size,
    binning_y=some_size,
    roi=st.builds(
        RegionOfInterest, x_offset=some_size, y_offset=some_size, width=some_size, height=some_size
    ),
)
inputs = st.one_of(
    st.tuples(st.just("image"), st.one_of(good_sized_images(), images, compressed_images)),
    st.tuples(st.just("pokes"), poke_arrays),
    st.tuples(st.just("what_if"), what_ifs),
    st.tuples(st.just("service"), what_ifs),
    st.tuples(st.just("camera_info"), camera_infos),
    st.tuples(st.just("depth"), st.one_of(good_sized_images(), images)),
    st.tuples(st.just("executed"), poke_arrays),
)


class Live:
    """An active node whose callbacks are called as the executor would, and all its answers."""

    def __init__(self, ros, checkpoint):
        self.ros = ros
        self.numbers = itertools.count()
        self.statuses = Counter()
        self.defects = []  # unexpected errors in the worker
        handler = logging.Handler(logging.ERROR)
        handler.emit = self.defects.append
        logging.getLogger("fpt_ros").addHandler(handler)
        namespace = next(ros.namespaces)
        overrides = [
            Parameter("checkpoint", value=str(checkpoint)),
            Parameter("grid_size", value=3),
            Parameter("max_image_age_s", value=0.0),
            Parameter("surprise_period_s", value=1.0),
        ]
        self.node = ros.node(PredictorNode, namespace=namespace, parameter_overrides=overrides)
        self.listener = ros.node(namespace=namespace)
        for topic in ("uncertainty", "moving_part/mask", "moving_part/score", "overlay"):
            self._listen(Image, topic)
        self._listen(PointCloud2, "motion_points")
        self._listen(MotionDistribution, "motion")
        for trigger in (self.node.trigger_configure, self.node.trigger_activate):
            assert trigger() == TransitionCallbackReturn.SUCCESS
        self.answers = []
        desk = self.node._desk
        desk._what_if_answers.publish = self.answers.append
        desk._outputs["motion"].publish = self.answers.append
        ros.until(lambda: len(desk.listened_to()) == 6)

    def _listen(self, kind, topic):
        self.listener.create_subscription(kind, f"predictor/{topic}", lambda _: None, 1)

    def put(self, kind, message):
        """Hand in a message; return the id under which it is to be answered, if it is."""
        node, desk = self.node, self.node._desk
        if kind == "image":
            node._on_image(message)
        elif kind == "camera_info":
            node._geometry._on_camera_info(message)
        elif kind == "depth":
            node._geometry._on_depth(message)
        elif kind == "executed":
            node._live_check._on_executed(message)
        else:
            message.id = f"{next(self.numbers)} {message.id}"
            if kind == "pokes":
                desk._on_pokes(message)
            elif kind == "what_if":
                desk._on_what_if(message)
            else:
                request = PredictMotion.Request(what_if=message)
                task = self.ros.executor.create_task(
                    desk._on_predict_motion, request, PredictMotion.Response()
                )
                task.add_done_callback(lambda task: self.answers.append(task.result().motion))
            return message.id
        return None

    def count(self, request_id):
        return sum(answer.id == request_id for answer in self.answers)


@pytest.fixture(scope="module")
def live(ros, models):
    live = Live(ros, models / "one.safetensors")
    yield live
    live.node.close()
    ros.remove(live.listener)
    ros.remove(live.node)


@settings(
    max_examples=200,
    suppress_health_check=[HealthCheck.data_too_large, HealthCheck.too_slow],
)
@given(st.lists(inputs, min_size=12, max_size=25))
def test_every_request_is_answered(live, batch):
    live.answers.clear()
    asked = {}
    for kind, message in batch:
        standing = kind == "pokes" and not convert.nanoseconds(message.header.stamp)
        request_id = live.put(kind, message)
        if request_id is not None:
            asked[request_id] = standing
    for request_id in asked:
        live.ros.until(partial(live.count, request_id))
    live.statuses.update(answer.status for answer in live.answers)
    assert MotionDistribution.MODEL_ERROR not in live.statuses
    for request_id, standing in asked.items():
        assert standing or live.count(request_id) == 1


def test_the_node_is_as_good_as_new(live):
    image = convert.map_to_msg(np.zeros((48, 64, 3), np.uint8), Header(stamp=KNOWN_STAMP))
    live.put("image", image)
    live.answers.clear()
    request_id = live.put("service", WhatIf(header=image.header, poke_counts=[0]))
    live.ros.until(partial(live.count, request_id))
    (answer,) = [answer for answer in live.answers if answer.id == request_id]
    assert answer.status == MotionDistribution.OK
    assert not live.defects
    # The messages have reached all branches.
    expected = {"OK", "NO_IMAGE", "BAD_REQUEST", "DEADLINE_MISSED"}
    assert {getattr(MotionDistribution, name) for name in expected} <= live.statuses.keys()

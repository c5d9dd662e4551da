"""The planner's side: asks the questions of the script at their times, and records everything."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from rclpy.serialization import deserialize_message, serialize_message
from rclpy.task import Future
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from demo.script import How, Question
from fpt_ros.bags import BagWriter
from fpt_ros.msg import ModelInfo, MotionDistribution, Poke, PokeArray, WhatIf
from fpt_ros.srv import PredictMotion

IMAGE = "/camera/image_raw/compressed"
CAMERA_INFO = "/camera/camera_info"
POKES = "/pokes"
WHAT_IF = "/what_if"
MOTION = "/predictor/motion"
WHAT_IF_MOTION = "/predictor/what_if_motion"
SERVICE = "/predictor/predict_motion"
SERVICE_REPLY = f"{SERVICE}/reply"  # exists in the recording only: bags hold no service calls
MODEL_INFO = "/predictor/model_info"
DIAGNOSTICS = "/diagnostics"
PREDICTOR = "/predictor"  # its name there
MAPS = ("/predictor/uncertainty", "/predictor/moving_part/mask", "/predictor/moving_part/score")

# Maps are recorded with the first answers to each plan only: they have a megabyte each.
MAPS_WANTED = 3

# A question must not be lost, and no answer either.
_QUESTIONS = QoSProfile(depth=100)
_LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class Asker:
    """Subscribes to all that the demonstration shows and writes it to a bag.

    The times in the bag are those of publication, so that it alone tells how old answers were.
    """

    def __init__(self, node: Node, bag: BagWriter, script: Sequence[Question]) -> None:
        self._node = node
        self._bag = bag
        self._to_ask = list(script)
        self._unanswered: set[str] = set()
        self._start_ns: int | None = None  # stamp of the first image
        self._node_has_image = False
        self._asked_for_image: Future[Any] | None = None
        self._plan = ""  # id of the newest one
        self._maps_wanted = 0
        self._map_subscriptions: list[Any] = []
        self.model: ModelInfo | None = None
        self.complaint = ""  # the error that the predictor reports of itself
        self.images = 0
        self.motions = 0
        for topic, kind, qos in (
            (IMAGE, CompressedImage, QoSProfile(depth=30)),
            (CAMERA_INFO, CameraInfo, qos_profile_sensor_data),
            (MOTION, MotionDistribution, QoSProfile(depth=30)),
            (WHAT_IF_MOTION, MotionDistribution, QoSProfile(depth=30)),
            (MODEL_INFO, ModelInfo, _LATCHED),
            (DIAGNOSTICS, DiagnosticArray, QoSProfile(depth=30)),
        ):
            self._record(topic, kind, qos)
        for topic, kind in ((POKES, PokeArray), (WHAT_IF, WhatIf)):
            bag.add_topic(topic, _type_name(kind))
        bag.add_topic(SERVICE_REPLY, _type_name(MotionDistribution))
        for topic in MAPS:
            bag.add_topic(topic, _type_name(Image))
        self._pokes = node.create_publisher(PokeArray, POKES, _QUESTIONS)
        self._what_ifs = node.create_publisher(WhatIf, WHAT_IF, _QUESTIONS)
        self._service: Any = node.create_client(PredictMotion, SERVICE)

    def is_connected(self) -> bool:
        """Tell whether the node runs a model and hears our questions."""
        return (
            self.model is not None
            and self.model.model_id != ""
            and self._pokes.get_subscription_count() > 0
            and self._what_ifs.get_subscription_count() > 0
            and self._service.service_is_ready()
        )

    @property
    def has_all_answers(self) -> bool:
        """All questions were asked, and those that get one answer have it."""
        return not self._to_ask and not self._unanswered

    @property
    def missing(self) -> list[str]:
        """Questions that were not asked or not answered."""
        return [*sorted(self._unanswered), *(question.id for question in self._to_ask)]

    # ---- recording ------------------------------------------------------------------------------

    def _record(self, topic: str, kind: type, qos: QoSProfile) -> None:
        self._bag.add_topic(topic, _type_name(kind))
        self._subscribe(topic, kind, qos)

    def _subscribe(self, topic: str, kind: type, qos: QoSProfile) -> Any:
        def receive(cdr: Any, info: Any) -> None:
            self._bag.write(topic, _type_name(kind), info["source_timestamp"], cdr)
            self._react(topic, kind, cdr)

        return self._node.create_subscription(kind, topic, receive, qos, raw=True)

    def _react(self, topic: str, kind: type, cdr: bytes) -> None:
        if topic == IMAGE:
            self.images += 1
            self._on_image(_stamp(cdr))
        elif topic == MODEL_INFO:
            self.model = deserialize_message(cdr, kind)
        elif topic == DIAGNOSTICS:
            report: DiagnosticArray = deserialize_message(cdr, kind)
            for status in report.status:
                if status.name == PREDICTOR:
                    is_error = status.level == DiagnosticStatus.ERROR
                    self.complaint = status.message if is_error else ""
        elif topic in (MOTION, WHAT_IF_MOTION):
            answer: MotionDistribution = deserialize_message(cdr, kind)
            self._unanswered.discard(answer.id)
            if topic == MOTION:
                self.motions += 1
                self._maps_wanted -= answer.id == self._plan

    # ---- asking ---------------------------------------------------------------------------------

    def _on_image(self, stamp: Time) -> None:
        stamp_ns = stamp.sec * 1_000_000_000 + stamp.nanosec
        if self._start_ns is None:
            self._start_ns = stamp_ns
        now_s = (stamp_ns - self._start_ns) * 1e-9
        if not self._node_has_image:
            self._ask_for_image()
            return
        # One for each image: where several are overdue, a plan would replace the one before it.
        if self._to_ask and self._to_ask[0].at_s <= now_s:
            question = self._to_ask.pop(0)
            self._unanswered.add(question.id)
            self._ask(question, stamp)
            if question.how is How.PLAN:
                self._plan, self._maps_wanted = question.id, MAPS_WANTED
        self._watch_maps(self._maps_wanted > 0)

    def _ask_for_image(self) -> None:
        """Find out whether the node has an image yet: without one it would refuse the first plan.

        Images reach it later than us, or not at all; so only an answer of its own tells.
        """
        if self._asked_for_image is None or self._asked_for_image.done():
            # One point: a cheap question. It is none of the script and not recorded.
            request = PredictMotion.Request(what_if=WhatIf(poke_counts=[0], query_xy=[0.0, 0.0]))
            self._asked_for_image = self._service.call_async(request)
            self._asked_for_image.add_done_callback(self._on_image_of_node)

    def _on_image_of_node(self, future: Future[Any]) -> None:
        status = future.result().motion.status  # type: ignore[union-attr]
        self._node_has_image = status != MotionDistribution.NO_IMAGE

    def _watch_maps(self, wanted: bool) -> None:
        if wanted and not self._map_subscriptions:
            self._map_subscriptions = [
                self._subscribe(topic, Image, QoSProfile(depth=5)) for topic in MAPS
            ]
        elif not wanted and self._map_subscriptions:
            for subscription in self._map_subscriptions:
                self._node.destroy_subscription(subscription)
            self._map_subscriptions = []

    def _ask(self, question: Question, stamp: Time) -> None:
        if question.how in (How.PLAN, How.ONCE):
            (pokes,) = question.candidates.values()
            plan = [Poke(x=x, y=y, dx=dx, dy=dy) for x, y, dx, dy in pokes]
            message = PokeArray(id=question.id, pokes=plan)
            if question.how is How.ONCE:
                message.header = Header(stamp=stamp)
            self._publish(self._pokes, POKES, message)
            return
        rows = [poke for candidate in question.candidates.values() for poke in candidate]
        what_if = WhatIf(
            header=Header(stamp=stamp),
            id=question.id,
            poke_counts=[len(candidate) for candidate in question.candidates.values()],
            poke_xy=[value for poke in rows for value in poke[:2]],
            poke_dxdy=[value for poke in rows for value in poke[2:]],
        )
        if question.how is How.TOPIC:
            self._publish(self._what_ifs, WHAT_IF, what_if)
        else:
            self._write(WHAT_IF, what_if)
            future = self._service.call_async(PredictMotion.Request(what_if=what_if))
            future.add_done_callback(self._on_reply)

    def _on_reply(self, future: Future[Any]) -> None:
        motion = future.result().motion  # type: ignore[union-attr]
        self._write(SERVICE_REPLY, motion)
        self._unanswered.discard(motion.id)

    def _publish(self, publisher: Any, topic: str, message: Any) -> None:
        publisher.publish(message)
        self._write(topic, message)

    def _write(self, topic: str, message: Any) -> None:
        now_ns = self._node.get_clock().now().nanoseconds
        self._bag.write(topic, _type_name(type(message)), now_ns, serialize_message(message))


def _type_name(kind: type) -> str:
    package = kind.__module__.split(".")[0]
    return f"{package}/msg/{kind.__name__}"


def _stamp(cdr: bytes) -> Time:
    """Read the stamp of a serialised message that begins with a header."""
    sec, nanosec = struct.unpack_from("<iI" if cdr[1] else ">iI", cdr, 4)
    return Time(sec=sec, nanosec=nanosec)

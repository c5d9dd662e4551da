"""Takes questions from topics and the service to the worker, and the answers back."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.event_handler import PublisherEventCallbacks
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.task import Future
from sensor_msgs.msg import Image, PointCloud2
from std_msgs.msg import Header

from fpt_ros.convert import Question, nanoseconds, question_from_pokes, question_from_what_if
from fpt_ros.core.errors import InvalidInputError
from fpt_ros.msg import MotionDistribution, PokeArray, WhatIf
from fpt_ros.nodes.jobs import Answer, Request, Status
from fpt_ros.nodes.outbox import Outbox
from fpt_ros.nodes.pipeline import MASK, MOTION, OVERLAY, POINTS, SCORE, UNCERTAINTY
from fpt_ros.nodes.worker import Worker
from fpt_ros.params import Settings
from fpt_ros.srv import PredictMotion

# A burst of requests must neither push out its own requests nor the answers to them.
REQUEST_QOS = QoSProfile(history=HistoryPolicy.KEEP_ALL, reliability=ReliabilityPolicy.RELIABLE)
ANSWER_QOS = QoSProfile(depth=1000, reliability=ReliabilityPolicy.RELIABLE)
# The executor looks at every event of every publisher at every turn, which takes half of its time.
# A subscriber that asks for what is not offered is told so at its own end.
NO_EVENTS = PublisherEventCallbacks(use_default_callbacks=False)
LATEST_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)

_OUTPUTS = {
    MOTION: (MotionDistribution, ANSWER_QOS),
    UNCERTAINTY: (Image, LATEST_QOS),
    MASK: (Image, LATEST_QOS),
    SCORE: (Image, LATEST_QOS),
    POINTS: (PointCloud2, LATEST_QOS),
    OVERLAY: (Image, LATEST_QOS),
}


class Desk:
    """Questions in, answers out. All methods but `listened_to` are for the executor's thread."""

    def __init__(
        self,
        node: LifecycleNode,
        worker: Worker,
        outbox: Outbox,
        settings: Callable[[], Settings],
        warn: Callable[[str, str], None],
    ) -> None:
        """Create publishers and the service; `open` subscribes. warn: logs a kind and a text."""
        self._node = node
        self._worker = worker
        self._outbox = outbox
        self._settings = settings
        self._warn = warn
        self._subscriptions: list[Any] = []
        self._outputs = {
            name: node.create_lifecycle_publisher(kind, f"~/{name}", qos, event_callbacks=NO_EVENTS)
            for name, (kind, qos) in _OUTPUTS.items()
        }
        self._what_if_answers = node.create_lifecycle_publisher(
            MotionDistribution, "~/what_if_motion", ANSWER_QOS, event_callbacks=NO_EVENTS
        )
        node.create_service(
            PredictMotion,
            "~/predict_motion",
            self._on_predict_motion,
            qos_profile=REQUEST_QOS,
            # A reply may have to wait for the worker; meanwhile other requests are taken.
            callback_group=ReentrantCallbackGroup(),
        )

    def open(self) -> None:
        """Subscribe, and ask for the unconditional motion until there is a plan."""
        create = self._node.create_subscription
        self._subscriptions = [
            create(PokeArray, "pokes", self._on_pokes, REQUEST_QOS),
            create(WhatIf, "what_if", self._on_what_if, REQUEST_QOS),
        ]
        nothing = Question(Header(), "", (np.zeros((0, 4), np.float32),), None)
        self._worker.set_plan(self._plan(nothing), answer_now=False)

    def close(self) -> None:
        """Unsubscribe."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []

    def listened_to(self) -> set[str]:
        """Return the outputs that somebody subscribes to; for any thread."""
        return {name for name, each in self._outputs.items() if each.get_subscription_count()}

    def _on_pokes(self, message: PokeArray) -> None:
        publish = self._outputs[MOTION].publish
        try:
            question = question_from_pokes(message, self._settings())
        except InvalidInputError as error:
            self._refuse(message, publish, error)
            return
        if stamp_ns := nanoseconds(message.header.stamp):
            reply = partial(self._deliver, question, publish)
            self._worker.submit(Request(question, reply, stamp_ns))
        else:
            self._worker.set_plan(self._plan(question))

    def _plan(self, question: Question) -> Request:
        return Request(question, partial(self._deliver, question, self._publish_outputs))

    def _publish_outputs(self, answer: MotionDistribution | dict[str, Any]) -> None:
        outputs = answer if isinstance(answer, dict) else {MOTION: answer}
        for name, message in outputs.items():
            self._outputs[name].publish(message)

    def _on_what_if(self, message: WhatIf) -> None:
        self._ask(message, self._what_if_answers.publish)

    async def _on_predict_motion(
        self, request: PredictMotion.Request, response: PredictMotion.Response
    ) -> PredictMotion.Response:
        answer: Future[MotionDistribution] = Future()
        self._ask(request.what_if, answer.set_result)
        response.motion = await answer
        return response

    def _ask(self, message: WhatIf, deliver: Callable[[MotionDistribution], object]) -> None:
        try:
            question = question_from_what_if(message, self._settings())
            max_wait_ns = nanoseconds(message.max_wait)
            if max_wait_ns < 0:
                raise InvalidInputError(f"max_wait must not be negative, got {max_wait_ns} ns")
        except InvalidInputError as error:
            self._refuse(message, deliver, error)
            return
        deadline_ns = None
        if max_wait_ns:
            deadline_ns = self._node.get_clock().now().nanoseconds + max_wait_ns
        reply = partial(self._deliver, question, deliver)
        stamp_ns = nanoseconds(message.header.stamp)
        self._worker.submit(Request(question, reply, stamp_ns, deadline_ns))

    def _refuse(
        self,
        message: PokeArray | WhatIf,
        deliver: Callable[[MotionDistribution], object],
        error: InvalidInputError,
    ) -> None:
        asked = Question(message.header, message.id, (), None)
        request = Request(asked, partial(self._deliver, asked, deliver))
        self._worker.reply(request, Answer(Status.BAD_REQUEST, str(error)))

    def _deliver(
        self, question: Question, deliver: Callable[[Any], object], answer: Answer
    ) -> None:
        """Turn an answer into a message and have it sent; called on any thread."""
        result = answer.result
        if answer.status is not Status.OK:
            self._warn(answer.status.name, f"{answer.text} (request {question.id!r})")
            header = question.header if answer.image is None else answer.image.header
            result = MotionDistribution(
                header=header,
                id=question.id,
                status=int(answer.status),
                status_text=answer.text,
            )
        self._outbox.post(partial(deliver, result))

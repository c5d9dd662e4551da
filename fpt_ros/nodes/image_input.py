"""The subscription to the camera, and words for why it may be silent."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from rclpy.event_handler import (
    QoSMessageLostInfo,
    SubscriptionEventCallbacks,
    UnsupportedEventTypeError,
)
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

SILENCE_S = 5.0  # without an image, before the log says so
_REPEAT_S = 30.0
_IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")


class ImageInput:
    """Hands each image to a callback and watches that they come."""

    def __init__(
        self, node: Node, transport: str, qos: str, callback: Callable[[Any], None]
    ) -> None:
        """Subscribe; transport and qos are the values of those parameters."""
        self.lost = 0  # images that the middleware knows to have missed
        self._node = node
        self._callback = callback
        self._kind = CompressedImage if transport == "compressed" else Image
        topic = node.resolve_topic_name("image")
        self._qos = QoSProfile(depth=1, reliability=_RELIABILITY[qos])
        self._received = 0
        self._before = 0, 0  # received and lost at the last complaints
        self._latest_s = time.monotonic()
        self._logged_s = -math.inf
        self._subscription = self._subscribed(
            f"{topic}/compressed" if transport == "compressed" else topic
        )
        self.topic: str = self._subscription.topic_name  # it may have been remapped itself

    def close(self) -> None:
        """Unsubscribe."""
        self._node.destroy_subscription(self._subscription)

    def complaints(self) -> list[str]:
        """Say what is wrong with the stream since the last call, in the log too."""
        received, lost = self._received - self._before[0], self.lost - self._before[1]
        self._before = self._received, self.lost
        found = []
        if lost > received:
            found.append(f"{lost} of {lost + received} images were lost on the way to the node")
            self._log(
                f"{found[0]}. Give camera and node the Fast DDS profile config/fastdds.xml (see the"
                " README), or make both reliable (parameter image_qos)"
            )
        if time.monotonic() - self._latest_s > SILENCE_S:
            found.append(f"no image for {SILENCE_S:g} s on {self.topic}")
            present = ", ".join(self._image_topics()) or "none"
            self._log(
                f"{found[-1]} ({self._kind.__name__}, {_described(self._qos)}). Image topics now: "
                f"{present}. Remap with: --ros-args -r image:=<topic>; see the parameters"
                " image_transport and image_qos"
            )
        return found

    def _log(self, text: str) -> None:
        if time.monotonic() - self._logged_s > _REPEAT_S:
            self._logged_s = time.monotonic()
            self._node.get_logger().warning(text)

    def _subscribed(self, topic: str) -> Any:
        def subscribe(events: SubscriptionEventCallbacks) -> Any:
            return self._node.create_subscription(
                self._kind, topic, self._take, self._qos, event_callbacks=events
            )

        try:
            return subscribe(
                SubscriptionEventCallbacks(
                    incompatible_qos=self._on_incompatible, message_lost=self._on_lost
                )
            )
        except UnsupportedEventTypeError:  # some middlewares do not count lost messages
            return subscribe(SubscriptionEventCallbacks(incompatible_qos=self._on_incompatible))

    def _take(self, message: Any) -> None:
        self._received += 1
        self._latest_s = time.monotonic()
        self._callback(message)

    def _on_lost(self, event: QoSMessageLostInfo) -> None:
        self.lost += event.total_count_change

    def _on_incompatible(self, _: object) -> None:
        offers = [
            f"{info.node_namespace.rstrip('/')}/{info.node_name} offers "
            f"{_described(info.qos_profile)}"
            for info in self._node.get_publishers_info_by_topic(self.topic)
        ]
        self._node.get_logger().warning(
            f"incompatible QoS on {self.topic}: this node asks for {_described(self._qos)}; "
            f"{'; '.join(offers) or 'the publisher is gone'}. Set the parameter image_qos"
        )

    def _image_topics(self) -> list[str]:
        own = f"{self._node.get_fully_qualified_name()}/"
        return [
            f"{name} ({kind.rsplit('/', 1)[-1]}, {self._node.count_publishers(name)} publishers)"
            for name, kinds in self._node.get_topic_names_and_types()
            for kind in kinds
            if kind in _IMAGE_TYPES
            and not name.startswith(own)
            and self._node.count_publishers(name)
        ]


def _described(qos: QoSProfile) -> str:
    reliability = qos.reliability.name.lower().replace("_", " ")
    durability = qos.durability.name.lower().replace("_", " ")
    return f"{reliability}, {durability}, depth {qos.depth}"


_RELIABILITY = {
    "sensor_data": ReliabilityPolicy.BEST_EFFORT,
    "reliable": ReliabilityPolicy.RELIABLE,
}

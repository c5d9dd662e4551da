"""Camera model and depth, which turn pixels into points in space."""

from collections import deque
from typing import Any

from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from fpt_ros.convert import nanoseconds
from fpt_ros.core.errors import InvalidInputError

_TOLERANCE_NS = 50_000_000  # between the stamps of an image and its depth
_HELD = 10


class GeometryInput:
    """Keeps the latest camera model, and some depth images while they are of use."""

    def __init__(self, node: Node) -> None:
        """Subscribe to `camera_info`."""
        self._camera: CameraInfo | None = None
        self._node = node
        self._depth_images: deque[Image] = deque(maxlen=_HELD)
        self._depth: Any = None
        self._depth_topic = node.resolve_topic_name("depth")
        self._camera_info = node.create_subscription(
            CameraInfo, "camera_info", self._on_camera_info, qos_profile_sensor_data
        )
        self.follow_depth(False)

    def close(self) -> None:
        """Unsubscribe; asks the middleware nothing, for it may have been shut down."""
        self._leave_depth()
        self._node.destroy_subscription(self._camera_info)

    def follow_depth(self, wanted: bool) -> None:
        """Subscribe to `depth`, or stop: its images are large. To be called now and then."""
        self._depth_offered = self._node.count_publishers(self._depth_topic) > 0
        if wanted and self._depth is None:
            self._depth = self._node.create_subscription(
                Image, "depth", self._on_depth, qos_profile_sensor_data
            )
        elif not wanted:
            self._leave_depth()

    def _leave_depth(self) -> None:
        if self._depth is not None:
            self._node.destroy_subscription(self._depth)
            self._depth = None
            self._depth_images.clear()

    def camera(self) -> CameraInfo:
        """The latest camera model; for any thread. Raises InvalidInputError before there is one."""
        if self._camera is None:
            raise InvalidInputError(f"nothing has come yet on {self._camera_info.topic_name}")
        return self._camera

    def depth_of(self, header: Header) -> Image | None:
        """Return the depth that was taken with the image of this header; for any thread.

        None where nobody publishes depth.

        Raises:
            InvalidInputError: there is depth, but not of that time.
        """
        stamp_ns = nanoseconds(header.stamp)

        def distance_ns(depth: Image) -> int:
            return abs(nanoseconds(depth.header.stamp) - stamp_ns)

        nearest = min(self._depth_images.copy(), key=distance_ns, default=None)
        if nearest is None:
            if self._depth_offered:
                raise InvalidInputError(f"nothing has come yet on {self._depth_topic}")
            return None
        if distance_ns(nearest) > _TOLERANCE_NS:
            raise InvalidInputError(
                f"the nearest image on {self._depth_topic} was taken "
                f"{distance_ns(nearest) / 1e6:.0f} ms before or after the camera's; at most "
                f"{_TOLERANCE_NS / 1e6:.0f} ms are allowed"
            )
        return nearest

    def _on_camera_info(self, message: CameraInfo) -> None:
        self._camera = message

    def _on_depth(self, message: Image) -> None:
        self._depth_images.append(message)

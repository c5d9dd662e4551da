"""`fpt record`: write topics to a rosbag2 recording, for machines without `ros2 bag`."""

import os
import signal
import threading
import time
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)

from fpt_ros.bags import BagWriter
from fpt_ros.cli.play import message_class
from fpt_ros.core.errors import InvalidInputError

if TYPE_CHECKING:
    from rclpy.node import Node
    from rclpy.qos import QoSProfile

LOOK_FOR_TOPICS_S = 0.5
REMIND_AFTER_S = 5.0
QUEUE_DEPTH = 100


def record(
    topics: tyro.conf.Positional[tuple[str, ...]],
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o", "--output"])] = None,
    duration: float | None = None,
    max_size: float | None = None,
) -> int:
    """Record topics into a new rosbag2 folder (MCAP) until Ctrl-C.

    Topics may appear later. The definitions of all message types are stored with them. The file is
    complete after Ctrl-C or SIGTERM, not after SIGKILL. Exit code 1: nothing came.

    Example: fpt record /camera/image_raw /predictor/motion -o push_01 --duration 60

    Args:
        topics: names of the topics
        out: folder to make; default: rosbag2_<date>-<time>
        duration: stop after this many seconds
        max_size: stop after this many megabytes of messages, before compression
    """
    import rclpy
    from rclpy.signals import SignalHandlerOptions
    from rich.console import Console

    from fpt_ros.dds import profile_environment

    console = Console(stderr=True, highlight=False)
    out = out or Path(datetime.now().strftime("rosbag2_%Y_%m_%d-%H_%M_%S"))
    if not topics:
        raise InvalidInputError("name at least one topic to record")
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):  # an exception could tear a message apart
        signal.signal(number, lambda *_: stop.set())
    os.environ.update(profile_environment(os.environ))
    with BagWriter(out) as writer:
        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
        try:
            recorder = Recorder(rclpy.create_node("fpt_record"), writer, topics)
            recorder.run(console, stop, duration, None if max_size is None else max_size * 1e6)
        finally:
            rclpy.try_shutdown()
    for topic, count in recorder.counts.items():
        console.print(f"{count:8d}  {topic}")
    console.print(f"written: {out} ({writer.message_count} messages)")
    return 0 if writer.message_count else 1


class Recorder:
    """Writes what arrives on topics of a node to a bag, as serialised as it came."""

    def __init__(self, node: "Node", writer: BagWriter, topics: tuple[str, ...]) -> None:
        self._node = node
        self._writer = writer
        self.counts = dict.fromkeys((node.resolve_topic_name(topic) for topic in topics), 0)
        self.missing = set(self.counts)  # topics that nobody has published so far

    def run(
        self,
        console: Any,
        stop: threading.Event,
        duration_s: float | None = None,
        max_size_bytes: float | None = None,
    ) -> None:
        """Record until `stop` is set, or the duration or size is reached."""
        import rclpy

        began_s = time.monotonic()
        next_look_s = began_s
        next_reminder_s = began_s + REMIND_AFTER_S
        with console.status("recording") as status:
            while not stop.is_set():
                now_s = time.monotonic()
                if duration_s is not None and now_s - began_s >= duration_s:
                    return
                if max_size_bytes is not None and self._writer.size_bytes >= max_size_bytes:
                    console.print("the maximum size is reached")
                    return
                if self.missing and now_s >= next_look_s:
                    self.look_for_topics(console)
                    next_look_s = now_s + LOOK_FOR_TOPICS_S
                if self.missing and now_s >= next_reminder_s:
                    console.print(f"[yellow]no publisher yet:[/] {', '.join(sorted(self.missing))}")
                    next_reminder_s = now_s + REMIND_AFTER_S
                status.update(
                    f"{self._writer.message_count} messages, {self._writer.size_bytes / 1e6:.1f} MB"
                )
                rclpy.spin_once(self._node, timeout_sec=0.1)

    def look_for_topics(self, console: Any) -> None:
        """Subscribe to the topics that have appeared."""
        for topic in sorted(self.missing):
            publishers = self._node.get_publishers_info_by_topic(topic)
            if not publishers:
                continue
            self.missing.remove(topic)
            type_name = publishers[0].topic_type
            offered = [publisher.qos_profile for publisher in publishers]
            try:
                message_type = message_class(type_name)
                self._writer.add_topic(topic, type_name, [_bag_qos(qos) for qos in offered])
            except InvalidInputError as error:  # the other topics go on
                console.print(f"[yellow]not recorded:[/] {topic}: {error}")
                continue
            self._node.create_subscription(
                message_type,
                topic,
                partial(self._write, topic, type_name),
                requested_qos(offered),
                raw=True,
            )

    def _write(self, topic: str, type_name: str, cdr: bytes) -> None:
        self._writer.write(topic, type_name, time.time_ns(), cdr)
        self.counts[topic] += 1


def requested_qos(offered: "list[QoSProfile]") -> "QoSProfile":
    """QoS to subscribe with, so that every one of the publishers matches."""
    from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

    all_reliable = all(q.reliability == ReliabilityPolicy.RELIABLE for q in offered)
    all_latched = all(q.durability == DurabilityPolicy.TRANSIENT_LOCAL for q in offered)
    profile = QoSProfile(depth=QUEUE_DEPTH)
    profile.reliability = (
        ReliabilityPolicy.RELIABLE if all_reliable else ReliabilityPolicy.BEST_EFFORT
    )
    profile.durability = (
        DurabilityPolicy.TRANSIENT_LOCAL if all_latched else DurabilityPolicy.VOLATILE
    )
    return profile


def _bag_qos(profile: "QoSProfile") -> Qos:
    def bag_time(duration: Any) -> QosTime:
        return QosTime(*divmod(duration.nanoseconds, 1_000_000_000))

    return Qos(
        QosHistory[profile.history.name],
        profile.depth,
        QosReliability[profile.reliability.name],
        QosDurability[profile.durability.name],
        bag_time(profile.deadline),
        bag_time(profile.lifespan),
        QosLiveliness[profile.liveliness.name],
        bag_time(profile.liveliness_lease_duration),
        profile.avoid_ros_namespace_conventions,
    )

"""`fpt play`: publish a recording, for machines without `ros2 bag`."""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from fpt_ros.bags import TYPE_NAME, BagReader, BagTopic, shift_stamp
from fpt_ros.core.errors import InvalidInputError

if TYPE_CHECKING:
    from rclpy.node import Node
    from rclpy.publisher import Publisher
    from rclpy.qos import QoSProfile

DEFAULT_DEPTH = 10
CLOCK_RATE_HZ = 100.0
ACKNOWLEDGE_TIMEOUT_S = 1.0
STAMP_CHOICES = Literal["recorded", "now"]


def play(
    bag: tyro.conf.Positional[Path],
    topics: tuple[str, ...] = (),
    remap: tuple[str, ...] = (),
    rate: float = 1.0,
    loop: bool = False,
    clock: bool = False,
    stamp: STAMP_CHOICES = "recorded",
    subscribers: int = 0,
) -> None:
    """Publish the messages of a rosbag2 recording (MCAP or sqlite3) at the recorded times.

    Topics whose message type is not installed are skipped and named. With recorded stamps in the
    headers, nodes that look at the age of images need --clock here and use_sim_time there; --stamp
    now makes the recording look like a live camera instead.

    Examples:
      fpt play demo/bag --loop --stamp now
      fpt play drive.mcap --topics /camera/image_raw --remap /camera/image_raw:=/image --clock

    Args:
        bag: rosbag2 folder, or an .mcap or .db3 file
        topics: play only these topics; default: all
        remap: recorded:=published names of topics
        rate: speed, 2 = twice as fast as recorded
        loop: start again at the end, until Ctrl-C
        clock: publish the recording's time on /clock, for nodes with use_sim_time
        stamp: header stamps: as recorded, or moved so that the first message is now
        subscribers: hold the first message until a topic has this many subscribers
    """
    import rclpy
    from rclpy.signals import SignalHandlerOptions
    from rich.console import Console

    from fpt_ros.dds import profile_environment

    console = Console(stderr=True, highlight=False)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.environ.update(profile_environment(os.environ))
    with BagReader(bag) as reader:
        known = reader.damages
        for damage in known:
            console.print(damage, style="yellow", markup=False)
        # Without arguments: rclpy would apply the `a:=b` of the command line once more.
        rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
        try:
            player = Player(rclpy.create_node("fpt_play"), reader, topics, remap, rate)
            player.run(console, loop=loop, clock=clock, stamp=stamp, subscribers=subscribers)
        except KeyboardInterrupt:  # the way to end a loop
            console.print("stopped")
        finally:
            rclpy.try_shutdown()
            for damage in reader.damages:  # some show only while it is read
                if damage not in known:
                    console.print(damage, style="yellow", markup=False)


@dataclass
class _Channel:
    publisher: "Publisher[Any]"
    has_header: bool  # as its first field


class Player:
    """Publishes the messages of an open bag on a node.

    Raises:
        InvalidInputError: a rate, topic or remapping that makes no sense, or nothing to play.
    """

    def __init__(
        self,
        node: "Node",
        reader: BagReader,
        topics: tuple[str, ...] = (),
        remap: tuple[str, ...] = (),
        rate: float = 1.0,
    ) -> None:
        if not 0.001 <= rate <= 1000:
            raise InvalidInputError(f"--rate {rate} is not between 0.001 and 1000")
        self._node = node
        self._reader = reader
        self._rate = rate
        self._names = dict(_parse_remapping(rule) for rule in remap)
        recorded = {topic.name for topic in reader.topics}
        if unknown := sorted({*topics, *self._names} - recorded):
            raise InvalidInputError(f"not in the bag: {unknown}; it holds {sorted(recorded)}")
        self.skipped: dict[BagTopic, str] = {}  # topics that cannot be published, and why
        self._channels: dict[BagTopic, _Channel] = {}
        for topic in reader.topics:
            if topics and topic.name not in topics:
                continue
            try:
                self._channels[topic] = self._channel(topic)
            except InvalidInputError as error:
                self.skipped[topic] = str(error)
        if not self._channels:
            reasons = [f"{topic.name}: {reason}" for topic, reason in self.skipped.items()]
            raise InvalidInputError("nothing to play" + "".join(f"\n  {r}" for r in reasons))
        self._clock: Publisher[Any] | None = None
        self.published = 0
        self.damaged = 0
        self.worst_lateness_s = 0.0

    def _channel(self, topic: BagTopic) -> _Channel:
        from rclpy.exceptions import InvalidTopicNameException

        message_type = message_class(topic.type_name)
        name = self._names.get(topic.name, topic.name)
        try:
            publisher = self._node.create_publisher(message_type, name, offered_qos(topic))
        except InvalidTopicNameException as error:
            raise InvalidInputError(f"invalid topic name: {error}") from None
        fields = list(message_type.get_fields_and_field_types().values())
        return _Channel(publisher, has_header=fields[:1] == ["std_msgs/Header"])

    def run(
        self,
        console: Any,
        *,
        loop: bool = False,
        clock: bool = False,
        stamp: STAMP_CHOICES = "recorded",
        subscribers: int = 0,
    ) -> None:
        """Publish everything once, or for ever; print what happens on the rich console."""
        from rclpy.duration import Duration
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        for topic, reason in self.skipped.items():
            console.print(
                f"[yellow]skipped:[/] {topic.name} ({topic.message_count} messages): {reason}"
            )
        for topic in self._channels:
            console.print(f"{topic.name} -> {self._names.get(topic.name, topic.name)}")
        if clock:
            from rosgraph_msgs.msg import Clock

            self._clock = self._node.create_publisher(Clock, "/clock", 1)
        if subscribers:
            console.print(f"waiting for {subscribers} subscribers")
            while max(self._subscription_counts()) < subscribers:
                time.sleep(0.02)
        total = sum(topic.message_count for topic in self._channels)
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
        with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
            task = progress.add_task(f"{self._reader.duration_s / self._rate:.1f} s", total=total)
            self._play_once(lambda: progress.advance(task), stamp)
            while loop:
                progress.reset(task)
                self._play_once(lambda: progress.advance(task), stamp)
        for channel in self._channels.values():
            # Reliable messages may still be on their way when this process ends.
            channel.publisher.wait_for_all_acked(Duration(seconds=ACKNOWLEDGE_TIMEOUT_S))
        console.print(
            f"published {self.published} of {total} messages, at most "
            f"{self.worst_lateness_s * 1e3:.1f} ms late; damaged: {self.damaged}"
        )

    def _subscription_counts(self) -> list[int]:
        return [c.publisher.get_subscription_count() for c in self._channels.values()]

    def _play_once(self, advance: Callable[[], None], stamp: STAMP_CHOICES) -> None:
        start_ns = self._reader.start_ns
        timer = _Timer(self._clock, start_ns, self._rate)
        now_ns = time.time_ns()
        names = {topic.name for topic in self._channels}
        for topic, recorded_ns, cdr in self._reader.messages(names):
            if (channel := self._channels.get(topic)) is None:
                continue
            try:
                if stamp == "now" and channel.has_header:
                    cdr = shift_stamp(cdr, start_ns, now_ns, self._rate)
                elif len(cdr) < 4:
                    raise InvalidInputError("the message is empty")
            except InvalidInputError:
                self.damaged += 1
                continue
            lateness_s = timer.sleep_until(recorded_ns)
            self.worst_lateness_s = max(self.worst_lateness_s, lateness_s)
            channel.publisher.publish(cdr)
            self.published += 1
            advance()


class _Timer:
    """Maps the time of a recording to the monotonic clock; ticks on /clock while it sleeps."""

    def __init__(self, clock: "Publisher[Any] | None", start_ns: int, rate: float) -> None:
        self._clock = clock
        self._start_ns = start_ns
        self._rate = rate
        self._began_s = time.monotonic()
        self._next_tick_s = self._began_s

    def sleep_until(self, recorded_ns: int) -> float:
        """Return how late it was when the sleep ended, in seconds."""
        due_s = self._began_s + (recorded_ns - self._start_ns) * 1e-9 / self._rate
        while self._clock is not None and self._next_tick_s <= due_s:
            _sleep_until(self._next_tick_s)
            self._tick(self._clock)
        _sleep_until(due_s)
        return time.monotonic() - due_s

    def _tick(self, clock: "Publisher[Any]") -> None:
        now_s = time.monotonic()
        recorded_ns = self._start_ns + round((now_s - self._began_s) * self._rate * 1e9)
        message = clock.msg_type()
        message.clock.sec, message.clock.nanosec = divmod(recorded_ns, 1_000_000_000)
        clock.publish(message)
        self._next_tick_s = max(self._next_tick_s + 1 / CLOCK_RATE_HZ, now_s)


def _sleep_until(monotonic_s: float) -> None:
    if (remaining_s := monotonic_s - time.monotonic()) > 0:
        time.sleep(remaining_s)


def _parse_remapping(rule: str) -> tuple[str, str]:
    recorded, separator, published = rule.partition(":=")
    if not (recorded and separator and published):
        raise InvalidInputError(f"--remap {rule!r} is not of the form /recorded:=/published")
    return recorded, published


def message_class(type_name: str) -> Any:
    # The name comes from an untrusted file: only what looks like a message type is imported.
    if not TYPE_NAME.fullmatch(type_name):
        raise InvalidInputError(f"{type_name!r} is not a message type")
    package, _, name = type_name.split("/")
    try:
        return getattr(import_module(f"{package}.msg"), name)
    except (ImportError, AttributeError):
        raise InvalidInputError(f"message type {type_name} is not installed") from None


def offered_qos(topic: BagTopic) -> "QoSProfile":
    """QoS to publish a recorded topic with: what all its recorded publishers offered.

    Where they disagree or said nothing: reliable and volatile, which suits most subscribers.
    """
    from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

    reliability = {qos.reliability.name for qos in topic.qos}
    durability = {qos.durability.name for qos in topic.qos}
    depth = max((qos.depth for qos in topic.qos if 0 < qos.depth < 10_000), default=DEFAULT_DEPTH)
    profile = QoSProfile(depth=depth)
    profile.reliability = (
        ReliabilityPolicy.BEST_EFFORT
        if reliability == {"BEST_EFFORT"}
        else ReliabilityPolicy.RELIABLE
    )
    profile.durability = (
        DurabilityPolicy.TRANSIENT_LOCAL
        if durability == {"TRANSIENT_LOCAL"}
        else DurabilityPolicy.VOLATILE
    )
    return profile

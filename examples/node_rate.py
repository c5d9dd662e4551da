"""How fast and how fresh the node's masks are: publish a camera, count what comes back.

    predictor_node &                            # or: ros2 launch fpt_ros predictor.launch.py
    python examples/node_rate.py --rate 10 --frames 150
    python examples/node_rate.py --rate 6 --frames 10000 --pid $!   # does its memory grow?

640 x 480 pictures of sliding noise, a standing plan of one poke, one subscriber to the mask. With
--pid, the plan is replaced at every picture, and the memory of that process is told ten times.
"""

import argparse
import array
import os
import re
import time
from pathlib import Path

import numpy as np
import rclpy
from rclpy.qos import qos_profile_sensor_data
from rclpy.time import Time
from sensor_msgs.msg import Image

from fpt_ros.dds import profile_environment
from fpt_ros.msg import Poke, PokeArray

_HEIGHT_PX, _WIDTH_PX = 480, 640
# The first answers belong to the start.
_LEFT_OUT = 20
_MEMORY_READINGS = 10


def main() -> None:
    """Measure, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=float, default=10.0, help="pictures per second")
    parser.add_argument("--frames", type=int, default=150, help="pictures that are sent")
    parser.add_argument("--pid", type=int, help="process of the node, to read its memory")
    arguments = parser.parse_args()
    os.environ.update(profile_environment(os.environ))  # or few pictures would arrive
    rclpy.init()
    node = rclpy.create_node("node_rate")
    camera = node.create_publisher(Image, "image", qos_profile_sensor_data)
    plans = node.create_publisher(PokeArray, "pokes", 10)
    noise = np.random.default_rng(0).integers(0, 255, (_HEIGHT_PX, _WIDTH_PX, 3), np.uint8)
    ages_ms: list[float] = []
    came_s: list[float] = []
    resident_mb: list[float] = []
    sent = 0
    memory_frames = np.linspace(_LEFT_OUT, arguments.frames, _MEMORY_READINGS + 1).astype(int)

    def publish() -> None:
        nonlocal sent
        picture = Image(height=_HEIGHT_PX, width=_WIDTH_PX, encoding="rgb8", step=3 * _WIDTH_PX)
        picture.header.stamp = node.get_clock().now().to_msg()
        picture.data = array.array("B", np.roll(noise, sent, axis=1).tobytes())
        camera.publish(picture)
        sent += 1
        if sent == _LEFT_OUT // 2 or arguments.pid:
            x, y = 320.0 + sent % 97, 240.0 + sent % 89
            plans.publish(PokeArray(pokes=[Poke(x=x, y=y, dx=40.0, dy=0.0)]))
        if arguments.pid and sent in memory_frames:
            resident_mb.append(_resident_mb(arguments.pid))
            print(
                f"after {sent} pictures, {len(ages_ms)} masks: {resident_mb[-1]:.1f} MB, "
                f"{resident_mb[-1] - resident_mb[0]:+.1f}",
                flush=True,
            )

    def receive(mask: Image) -> None:
        age = node.get_clock().now() - Time.from_msg(mask.header.stamp)
        ages_ms.append(age.nanoseconds / 1e6)
        came_s.append(time.monotonic())

    node.create_subscription(Image, "/predictor/moving_part/mask", receive, 10)
    print("waiting for the node to listen to plans")
    while not plans.get_subscription_count():  # what is published before would be lost
        rclpy.spin_once(node, timeout_sec=0.1)
    node.create_timer(1 / arguments.rate, publish)
    while sent < arguments.frames:
        rclpy.spin_once(node, timeout_sec=0.1)
    rclpy.shutdown()
    if len(ages_ms) <= _LEFT_OUT + 1:
        raise SystemExit(f"{sent} pictures sent, {len(ages_ms)} masks came: is the node there?")
    rate_hz = (len(came_s) - _LEFT_OUT - 1) / (came_s[-1] - came_s[_LEFT_OUT])
    p50, p95, worst = np.percentile(ages_ms[_LEFT_OUT:], (50, 95, 100))
    print(
        f"{sent} pictures sent at {arguments.rate:g} Hz, {len(ages_ms)} masks at {rate_hz:.1f} Hz, "
        f"age p50 {p50:.0f} ms, p95 {p95:.0f} ms, worst {worst:.0f} ms"
    )


def _resident_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"^VmRSS:\s*(\d+) kB", status, re.M)
    return int(found[1]) * 1024 / 1e6 if found else float("nan")


if __name__ == "__main__":
    main()

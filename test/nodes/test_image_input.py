"""The subscription to the camera: where it listens."""

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("sensor_msgs.msg")

from fpt_ros.nodes import image_input


@pytest.mark.parametrize(
    ("rule", "transport", "expected"),
    [
        ("image:=/cam/raw", "raw", "/cam/raw"),
        ("image:=/cam/raw", "compressed", "/cam/raw/compressed"),
        ("image/compressed:=/cam/jpeg", "compressed", "/cam/jpeg"),
    ],
)
def test_the_topic_is_the_one_that_is_subscribed_to(ros, monkeypatch, rule, transport, expected):
    monkeypatch.setattr(image_input, "SILENCE_S", -1.0)
    node = ros.node(namespace=next(ros.namespaces), cli_args=["--ros-args", "-r", rule])
    camera = image_input.ImageInput(node, transport, "sensor_data", lambda _: None)
    assert camera.topic == expected
    subscribed = [info.topic_type for info in node.get_subscriptions_info_by_topic(expected)]
    assert subscribed == [f"sensor_msgs/msg/{'Image' if transport == 'raw' else 'CompressedImage'}"]
    (complaint,) = camera.complaints()
    assert complaint.endswith(f" on {expected}")
    camera.close()
    ros.remove(node)

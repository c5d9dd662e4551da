"""A callback that fails is logged, and the node's others go on."""

from functools import partial
from types import SimpleNamespace

import pytest

pytest.importorskip("rclpy")

from rclpy.executors import ExternalShutdownException

from fpt_ros.nodes.spin import spin_on


def test_a_callback_that_fails_is_logged_and_the_others_go_on(ros, monkeypatch):
    node, calls, errors = ros.node(), [], []
    monkeypatch.setattr(node, "get_logger", lambda: SimpleNamespace(error=errors.append))

    def fail():
        calls.append("fails")
        raise RuntimeError("a defect")

    node.create_timer(0.01, fail)
    node.create_timer(0.01, lambda: calls.append("works"))
    while not {"fails", "works"} <= set(calls) or len(errors) < 2:
        spin_on(node, partial(ros.executor.spin_once, timeout_sec=0.1))
    assert "Traceback" in errors[0]
    assert "a defect" in errors[0]
    ros.remove(node)


def test_the_end_is_no_error():
    def ended():
        raise ExternalShutdownException

    def published_at_the_end():
        raise RuntimeError("the context is gone")

    over = SimpleNamespace(context=SimpleNamespace(ok=lambda: False))
    spin_on(over, ended)
    spin_on(over, published_at_the_end)

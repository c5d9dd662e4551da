"""Calls from the worker thread, carried out on the executor's thread."""

from collections import deque
from collections.abc import Callable

from rclpy.exceptions import InvalidHandle
from rclpy.node import Node


class Outbox:
    """Lets another thread publish and reply while only the executor's thread touches rclpy."""

    def __init__(self, node: Node) -> None:
        self._calls: deque[Callable[[], object]] = deque()
        self._context = node.context
        self._guard = node.create_guard_condition(self.flush)

    def post(self, call: Callable[[], object]) -> None:
        """Have `call` executed soon. Any thread; never blocks."""
        self._calls.append(call)
        try:
            self._guard.trigger()
        except InvalidHandle:  # the node is gone, and with it everybody who would listen
            self._calls.clear()

    def flush(self) -> None:
        """Execute what was posted. On the executor's thread only."""
        while self._calls and self._context.ok():
            self._calls.popleft()()

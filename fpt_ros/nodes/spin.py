"""What keeps a node alive when one of its callbacks fails."""

import traceback
from collections.abc import Callable

from rclpy.executors import ExternalShutdownException
from rclpy.node import Node


def spin_on(node: Node, spin: Callable[[], object]) -> None:
    """Call `spin`, a method of the node's executor; log what a callback raises in there.

    It is a defect, but the others are to go on: call this in a loop.
    """
    try:
        spin()
    except ExternalShutdownException:
        pass
    except Exception:
        if node.context.ok():  # otherwise something was published at the very end
            node.get_logger().error(traceback.format_exc())

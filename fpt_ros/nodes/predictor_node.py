"""The predictor node: images, planned pokes and what-ifs in; motion distributions out.

A life-cycle node: configure loads the model, activate subscribes and answers, deactivate stops,
cleanup frees. The executor's thread moves messages and never computes: `worker` has the thread that
does, and `pipeline` what it does. `fpt_ros.params` has the parameters, `predictor` the program.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import InvalidParameterValueException
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from fpt_ros.convert import nanoseconds
from fpt_ros.core.errors import InvalidInputError
from fpt_ros.dds import profile_environment
from fpt_ros.nodes.desk import Desk
from fpt_ros.nodes.diagnostics import Condition, status_message
from fpt_ros.nodes.engine_build import build_and_wait
from fpt_ros.nodes.geometry_input import GeometryInput
from fpt_ros.nodes.image_input import ImageInput
from fpt_ros.nodes.models import Models
from fpt_ros.nodes.outbox import Outbox
from fpt_ros.nodes.pipeline import POINTS, Surroundings
from fpt_ros.nodes.spin import spin_on
from fpt_ros.nodes.surprise import LiveCheck
from fpt_ros.nodes.worker import Worker
from fpt_ros.params import TABLE, Settings, changed

_DEADLINE_CHECK_S = 0.05
_LOG_THROTTLE_S = 5.0
_CLOSE_S = 0.4  # granted to a computation under way


class PredictorNode(LifecycleNode):
    """See the top of this file."""

    def __init__(self, **arguments: Any) -> None:
        """Create the node unconfigured; arguments are those of rclpy's Node.

        Raises:
            InvalidParameterValueException: names a parameter that has an impossible value.
        """
        super().__init__("predictor", **arguments)
        self._settings = Settings()
        self._declare_parameters()
        self._image: ImageInput | None = None
        self._geometry: GeometryInput | None = None
        self._deadlines: Any = None
        self._warned_s: dict[str, float] = {}
        self._problem = ""  # that kept the node from being configured
        self._output_problem = ""  # that an output could not be made, since the last report

        self._outbox = Outbox(self)
        self._worker = Worker(self._settings, self._now_ns, self._warn)
        self._desk = Desk(self, self._worker, self._outbox, lambda: self._settings, self._warn)
        surroundings = Surroundings(
            settings=lambda: self._settings,
            listened_to=self._desk.listened_to,
            camera=self._camera,
            depth=self._depth_of,
            on_problem=self._on_output_problem,
            check=self._worker.check,
        )
        self._models = Models(self, self._worker, self._outbox, surroundings)
        self._live_check = LiveCheck(
            self,
            self._worker,
            self._outbox,
            lambda: self._settings,
            self._horizon_ns,
            self._warn,
        )
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._reported = self._worker.statistics(), time.monotonic()
        # Real time: it is also to be told when /clock stands still.
        self.create_timer(1.0, self._report, clock=Clock(clock_type=ClockType.STEADY_TIME))

    # ---- life cycle -----------------------------------------------------------------------------

    def autostart(self) -> None:
        """Configure and activate, if the parameter says so."""
        if (
            self._settings.autostart
            and self.trigger_configure() == TransitionCallbackReturn.SUCCESS
        ):
            self.trigger_activate()

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the model; FAILURE (the log says why) leaves the node unconfigured."""
        self._problem = self._models.load_configured()
        if self._problem:
            self.get_logger().error(f"cannot load the model: {self._problem}")
            return TransitionCallbackReturn.FAILURE
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe, and answer from now on."""
        result = super().on_activate(state)
        self._worker.resume()
        self._desk.open()
        self._geometry = GeometryInput(self)
        settings = self._settings
        self._image = ImageInput(self, settings.image_transport, settings.image_qos, self._on_image)
        self._live_check.open(self._image.topic)
        self._deadlines = self.create_timer(_DEADLINE_CHECK_S, self._worker.expire)
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe, and answer what waits with NO_IMAGE."""
        self._stop()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the model."""
        self._models.free(_CLOSE_S)
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop and free everything."""
        self.close()
        self._models.withdraw()
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop and free everything but what is needed to be configured again."""
        self._stop()
        self._models.free(_CLOSE_S)
        return super().on_error(state)

    def close(self) -> None:
        """Stop for good. A computation under way for longer than a moment is left behind."""
        self._stop()
        self._models.stop_building()
        self._worker.close(_CLOSE_S)

    def build_command(self) -> list[str]:
        """The command that builds the engine that the parameters ask for."""
        return self._models.build_command()

    def destroy_node(self) -> None:
        """Destroy the node with its state machine, which rclpy forgets.

        It would keep the DDS participant, and its shared memory, beyond the end of the process.
        """
        super().destroy_node()
        self._state_machine.destroy_when_not_in_use()

    def _stop(self) -> None:
        self._desk.close()
        self._live_check.close()
        if self._image is not None:
            self._image.close()
        if self._geometry is not None:
            self._geometry.close()
        if self._deadlines is not None:
            self.destroy_timer(self._deadlines)
        self._image = self._geometry = self._deadlines = None
        self._worker.pause()
        self._outbox.flush()

    # ---- what the worker is told ----------------------------------------------------------------

    def _on_image(self, message: Any) -> None:
        stamp_ns = nanoseconds(message.header.stamp)
        self._worker.put_image(message, stamp_ns)
        self._live_check.put_image(message, stamp_ns)

    def _horizon_ns(self) -> int:
        info = self._models.info
        return nanoseconds(info.horizon) if info else 0

    def _camera(self) -> CameraInfo:
        geometry = self._geometry
        if geometry is None:
            raise InvalidInputError("the node is not active any more")
        return geometry.camera()

    def _depth_of(self, header: Header) -> Image | None:
        geometry = self._geometry
        return geometry.depth_of(header) if geometry else None

    def _now_ns(self) -> int:
        return int(self.get_clock().now().nanoseconds)

    def _warn(self, kind: str, text: str) -> None:
        """Log a warning, each kind at most every few seconds; for any thread.

        The throttle of rclpy's logger looks for its caller in the file system at every call, which
        takes longer than to refuse a request.
        """
        now_s = time.monotonic()
        if now_s - self._warned_s.get(kind, -math.inf) >= _LOG_THROTTLE_S:
            self._warned_s[kind] = now_s
            self.get_logger().warning(f"{kind}: {text}")

    def _on_output_problem(self, kind: str, text: str) -> None:
        self._output_problem = f"{kind}: {text}"
        self._warn(kind, text)

    def _state(self) -> str:
        return str(self._state_machine.current_state[1])

    # ---- parameters -----------------------------------------------------------------------------

    def _declare_parameters(self) -> None:
        self.add_on_set_parameters_callback(self._check_parameters)
        for row in TABLE.values():
            self.declare_parameter(row.name, row.default, row.descriptor())
        values = {name: self.get_parameter(name).value for name in TABLE}
        self._settings = changed(self._settings, values)
        self.add_post_set_parameters_callback(self._apply_parameters)

    def _check_parameters(self, parameters: Sequence[Parameter[Any]]) -> SetParametersResult:
        configured = self._state() != "unconfigured"
        for parameter in parameters:
            if row := TABLE.get(parameter.name):
                changes = row.widened(parameter.value) != getattr(self._settings, row.name)
                if reason := row.refusal(parameter.value, configured=configured and changes):
                    return SetParametersResult(successful=False, reason=reason)
        return SetParametersResult(successful=True)

    def _apply_parameters(self, parameters: Sequence[Parameter[Any]]) -> None:
        self._settings = changed(self._settings, {each.name: each.value for each in parameters})
        self._worker.settings = self._settings

    # ---- diagnostics ----------------------------------------------------------------------------

    def _report(self) -> None:
        if self._geometry is not None:
            self._geometry.follow_depth(POINTS in self._desk.listened_to())
        before, before_s = self._reported
        now, now_s = self._reported = self._worker.statistics(), time.monotonic()
        name = self.get_fully_qualified_name()
        status = status_message(name, self._condition(), now, before, now_s - before_s)
        message = DiagnosticArray(status=[status])
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)

    def _condition(self) -> Condition:
        warnings = self._image.complaints() if self._image else []
        if self.get_parameter("use_sim_time").value and not self._now_ns():
            warnings.append("use_sim_time is set, but nothing arrives on /clock")
        warnings += self._live_check.complaints()
        if self._output_problem:
            warnings.append(self._output_problem)
            self._output_problem = ""
        if self._models.engine_problem:
            warnings.append(self._models.engine_problem)
        return Condition(
            state=self._state(),
            model=self._models.describe(),
            errors=[f"cannot load the model: {self._problem}"] if self._problem else [],
            warnings=warnings,
            images_lost=self._image.lost if self._image else 0,
            more=self._live_check.values(),
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM, then end the process; return 2 if it cannot start.

    With the parameter build_only: build the engine and return the exit code of that, or 130.
    """
    # rclpy reacts to SIGINT by ending the executor; a KeyboardInterrupt on top, wherever the
    # program may be at that moment, would be a traceback.
    signal.signal(signal.SIGINT, lambda *_: None)
    # The executor's thread has little to do, but is to do it at once while the worker computes.
    sys.setswitchinterval(0.0005)
    os.environ.update(profile_environment(os.environ))
    try:
        rclpy.init(args=None if arguments is None else list(arguments))
    except RuntimeError as error:  # it says which of the --ros-args it cannot read
        print(f"predictor: {error}", file=sys.stderr)
        return 2
    try:
        node = PredictorNode()
    except InvalidParameterValueException as error:
        print(f"predictor: {error}", file=sys.stderr)
        rclpy.try_shutdown()
        return 2
    if node.get_parameter("build_only").value:
        command = node.build_command()
        node.close()
        node.destroy_node()
        rclpy.try_shutdown()
        return build_and_wait(command)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    executor.create_task(node.autostart)
    while rclpy.ok():
        spin_on(node, executor.spin)
    executor.shutdown()
    node.close()
    node.destroy_node()
    rclpy.try_shutdown()
    # All that others can see of this process is closed. Left to itself, Python would take its time
    # over unloading torch, and abort if the worker is inside the network for seconds to come.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)

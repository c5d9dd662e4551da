"""The fine-tuning node: recorded bags in, a better model out, while the predictor goes on.

One action, `~/fine_tune`. The work is done by a process of its own with low priority
(`training_process`), which ends with the node; the executor's thread only moves messages. A ROS
rejection carries no reason, so goals that cannot be served are accepted and then aborted with one.

    python -m fpt_ros.nodes.finetune_node --ros-args -p output_dir:=models -p bag:=recording
"""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import rclpy
from builtin_interfaces.msg import Duration
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rcl_interfaces.msg import SetParametersResult
from rclpy.action import ActionClient, ActionServer, CancelResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import InvalidParameterValueException, NameValidationException
from rclpy.executors import Executor, SingleThreadedExecutor
from rclpy.expand_topic_name import expand_topic_name
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future
from rclpy.validate_full_topic_name import validate_full_topic_name

from fpt_ros.action import FineTune
from fpt_ros.core.errors import FptError, InvalidInputError
from fpt_ros.dds import profile_environment
from fpt_ros.msg import ModelInfo
from fpt_ros.nodes.finetune_files import GoalFiles
from fpt_ros.nodes.outbox import Outbox
from fpt_ros.nodes.spin import spin_on
from fpt_ros.nodes.training_process import TrainingProcess
from fpt_ros.params import FINE_TUNE_TABLE, FineTuneSettings, changed
from fpt_ros.srv import LoadModel
from fpt_ros.train.child import CHECKPOINT_S

_RESULT_KEPT_S = 3600
_DISCOVERY_S = 10.0
_LOAD_S = 120.0
_END_S = CHECKPOINT_S + 5.0
_FAREWELL_S = 0.5  # for results to leave, also to clients that have only just asked for one
_LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class FineTuneNode(Node):
    """See the top of this file."""

    def __init__(self, **arguments: Any) -> None:
        """Offer the action; arguments are those of rclpy's Node.

        Raises:
            InvalidParameterValueException: names a parameter that has an impossible value.
        """
        super().__init__("finetune", **arguments)
        self._settings = FineTuneSettings()
        self._declare_parameters()
        self._outbox = Outbox(self)
        self._served_id: bytes | None = None  # of the goal that is served, until it has its result
        self._process: TrainingProcess | None = None  # of that goal
        self._progress: dict[str, Any] = {}
        self._problem = ""  # of the latest goal
        self._served = 0
        self._ending = False
        self._group = ReentrantCallbackGroup()  # a goal is cancelled while it is served
        self._server = ActionServer(
            self,
            FineTune,
            "~/fine_tune",
            self._serve,
            callback_group=self._group,
            cancel_callback=self._on_cancel,
            result_timeout=_RESULT_KEPT_S,
        )
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        # Real time: it is also to be told when /clock stands still.
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(1.0, self._report, clock=self._steady)

    def end(self, executor: Executor) -> None:
        """Stop a training that runs and tell its client what it leaves; no goal is served after."""
        self._ending = True
        if self._process is not None:
            self.get_logger().info("ending as soon as the training has written its checkpoint")
            self._process.stop()
        spin = partial(executor.spin_once, timeout_sec=0.1)
        last_s = time.monotonic() + _END_S
        while self._served_id is not None and time.monotonic() < last_s:
            spin_on(self, spin)
        last_s = time.monotonic() + _FAREWELL_S
        while time.monotonic() < last_s:
            spin_on(self, spin)

    def destroy_node(self) -> None:
        """Destroy the node with its action, which rclpy forgets."""
        self._server.destroy()
        super().destroy_node()

    async def begin(self) -> None:
        """Send the goal that the parameters describe, if they do."""
        settings = self._settings
        if not settings.bag:
            return
        client: Any = ActionClient(self, FineTune, "~/fine_tune", callback_group=self._group)
        goal = FineTune.Goal(bags=[settings.bag], promote=settings.promote)
        if settings.topic:
            goal.topics = [settings.topic]
        while not client.server_is_ready():
            await self._sleep(0.1)
        handle = await client.send_goal_async(goal)
        if handle is not None:
            await handle.get_result_async()

    # ---- the action -----------------------------------------------------------------------------

    async def _serve(self, handle: ServerGoalHandle) -> FineTune.Result:
        if self._ending:
            return self._aborted(handle, "the node is ending")
        if self._served_id is not None:
            return self._aborted(
                handle, "another goal is being served; cancel it, or send this one again later"
            )
        self._served_id = _id(handle)
        self._problem = ""
        self._progress = {"phase": "starting", "fraction": 0.0}
        try:
            return await self._result(handle)
        finally:
            self._served_id = None

    async def _result(self, handle: ServerGoalHandle) -> FineTune.Result:
        ended: Future[dict[str, Any]] = Future()
        try:
            root = Path(self._settings.output_dir)
            files = GoalFiles.inside(root, handle.request.output_directory)
            if handle.is_cancel_requested:  # before there was anything to stop
                return self._canceled(handle, files)
            self._process = self._start(handle, files, ended)
        except (FptError, OSError) as error:
            self._problem = str(error)
            return self._aborted(handle, self._problem)
        self.get_logger().info(f"fine-tuning in {files.folder}")
        try:
            end = await ended
        finally:
            self._process = None
        assert end is not None  # rclpy: a future without a value gives None
        if "outcome" in end:
            return await self._finished(handle, end["outcome"], files)
        if handle.is_cancel_requested:
            return self._canceled(handle, files)
        if self._ending:
            checkpoint, kept = files.kept()
            return self._aborted(handle, f"the node is ending; {kept}", checkpoint)
        self._problem = end["error"]
        return self._aborted(handle, self._problem)

    def _start(
        self, handle: ServerGoalHandle, files: GoalFiles, ended: Future[dict[str, Any]]
    ) -> TrainingProcess:
        goal, settings, folder = handle.request, self._settings, files.folder
        if not goal.bags:
            raise InvalidInputError("the goal names no bags")
        minutes = goal.budget_minutes or settings.budget_minutes
        if not 0 < minutes < math.inf:
            raise InvalidInputError(f"budget_minutes must be positive, got {minutes}")
        folder.mkdir(parents=True, exist_ok=True)
        return TrainingProcess(
            {
                "out": str(folder),
                "bag": list(goal.bags),
                "topics": list(goal.topics),
                "base": goal.base_checkpoint or settings.base_checkpoint or files.base(),
                "rehearsal": settings.rehearsal or None,
                "horizon_s": settings.horizon_s or None,
                "minutes": minutes,
                "forget_percent": settings.forget_percent,
                "device": settings.device,
                "threads": settings.num_threads,
                "resume": files.plan.exists(),
                "niceness": settings.niceness,
                "promote": goal.promote,
            },
            folder / "finetune.log",
            settings.num_threads,
            lambda progress: self._outbox.post(partial(self._on_progress, handle, progress)),
            lambda end: self._outbox.post(partial(ended.set_result, end)),
        )

    def _on_progress(self, handle: ServerGoalHandle, progress: dict[str, Any]) -> None:
        if not handle.is_active:
            return
        if progress["phase"] != self._progress["phase"]:
            self.get_logger().info(progress["phase"])
        self._progress = progress
        left_s = progress["time_left_s"]
        handle.publish_feedback(
            FineTune.Feedback(
                phase=progress["phase"],
                fraction=progress["fraction"],
                loss=progress["loss"],
                measure_names=list(progress["measures"]),
                measures=list(map(float, progress["measures"].values())),
                time_left=Duration(sec=0 if math.isnan(left_s) else min(round(left_s), 2**31 - 1)),
            )
        )

    def _on_cancel(self, handle: ServerGoalHandle) -> CancelResponse:
        if self._served_id != _id(handle):
            return CancelResponse.ACCEPT  # it waits for its turn, or is being turned away
        if self._process is None:
            return (
                CancelResponse.REJECT
            )  # weights and report are there; the predictor may be loading
        self._process.stop()
        return CancelResponse.ACCEPT

    # ---- results --------------------------------------------------------------------------------

    def _aborted(
        self, handle: ServerGoalHandle, reason: str, checkpoint: str = ""
    ) -> FineTune.Result:
        self.get_logger().error(f"goal aborted: {reason}")
        handle.abort()
        return FineTune.Result(message=reason, checkpoint=checkpoint)

    def _canceled(self, handle: ServerGoalHandle, files: GoalFiles) -> FineTune.Result:
        checkpoint, kept = files.kept()
        message = f"cancelled; {kept}"
        self.get_logger().info(message)
        handle.canceled()
        return FineTune.Result(message=message, checkpoint=checkpoint)

    async def _finished(
        self, handle: ServerGoalHandle, outcome: dict[str, Any], files: GoalFiles
    ) -> FineTune.Result:
        self._served += 1
        measures = outcome["measures"]
        result = FineTune.Result(
            success=True,
            checkpoint=outcome["checkpoint"],
            report=outcome["report"],
            measure_names=list(measures),
            before=[float(before) for before, _ in measures.values()],
            after=[float(after) for _, after in measures.values()],
        )
        if handle.is_cancel_requested:  # too late for anything else
            result.message = f"cancelled when all was done but to load it; {outcome['verdict']}"
            self.get_logger().info(result.message)
            handle.canceled()
            return result
        if not outcome["promoted"]:
            result.message = outcome["verdict"]
        elif handle.request.promote:
            try:
                result.message = await self._hot_swap(outcome["checkpoint"], outcome["base_sha256"])
            except Exception as error:  # a defect, and no reason to keep hours of work to oneself
                result.message = f"better than the base, but not loaded: {error!r}"
            result.promoted = not result.message
        if result.promoted:
            try:
                files.promote(outcome["checkpoint"])
            except OSError as error:
                result.message = f"promoted, but the next goal will not begin with it: {error}"
        self.get_logger().info(f"{outcome['verdict']}; {outcome['report']}")
        if result.message:
            self.get_logger().warning(result.message)
        handle.succeed()
        return result

    async def _hot_swap(self, checkpoint: str, base_sha256: str) -> str:
        """Have the predictor load the weights if it serves the base; return what went wrong."""
        predictor = self._settings.predictor
        infos: list[ModelInfo] = []
        subscription = self.create_subscription(
            ModelInfo, f"{predictor}/model_info", infos.append, _LATCHED, callback_group=self._group
        )
        client: Any = self.create_client(
            LoadModel, f"{predictor}/load_model", callback_group=self._group
        )
        try:
            if not await self._until(client.service_is_ready, _DISCOVERY_S):
                return f"better than the base, but there is no service {client.srv_name}"
            if not await self._until(lambda: infos and infos[-1].model_id, _DISCOVERY_S):
                return f"better than the base, but {subscription.topic_name} says of no model"
            served = infos[-1].weights_sha256
            if served != base_sha256:  # it may be better than both
                return (
                    f"better than the base {base_sha256[:12]}, but the predictor serves "
                    f"{served[:12] or 'unknown weights'}, which it was not compared with: "
                    "let both begin with the same (checkpoint there, base_checkpoint here)"
                )
            call = client.call_async(LoadModel.Request(path=checkpoint))
            if not await self._until(call.done, _LOAD_S):
                return f"better than the base, but {client.srv_name} did not answer"
            reply = call.result()
            assert reply is not None
            if not reply.success:
                return f"better than the base, but not loaded: {reply.message}"
        finally:
            self.destroy_client(client)
            self.destroy_subscription(subscription)
        self.get_logger().info(f"the predictor serves {reply.model_id}")
        return ""

    async def _until(self, condition: Any, timeout_s: float) -> bool:
        deadline_s = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline_s:
                return False
            await self._sleep(0.05)
        return True

    async def _sleep(self, duration_s: float) -> None:
        over: Future[None] = Future()
        timer = self.create_timer(duration_s, lambda: over.set_result(None), clock=self._steady)
        await over
        self.destroy_timer(timer)

    # ---- parameters and diagnostics -------------------------------------------------------------

    def _declare_parameters(self) -> None:
        self.add_on_set_parameters_callback(self._check_parameters)
        for row in FINE_TUNE_TABLE.values():
            self.declare_parameter(row.name, row.default, row.descriptor())
        values = {name: self.get_parameter(name).value for name in FINE_TUNE_TABLE}
        self._settings = changed(self._settings, values)
        self.add_post_set_parameters_callback(self._apply_parameters)

    def _check_parameters(self, parameters: Sequence[Parameter[Any]]) -> SetParametersResult:
        for parameter in parameters:
            row = FINE_TUNE_TABLE.get(parameter.name)
            # rclpy itself refuses changes of the read-only ones.
            if row and (reason := row.refusal(parameter.value, configured=False)):
                return SetParametersResult(successful=False, reason=reason)
            if parameter.name == "predictor" and not _is_node_name(parameter.value):
                reason = (
                    "predictor must be the name of a node, such as predictor or /robot/predictor, "
                    f"got {parameter.value!r}"
                )
                return SetParametersResult(successful=False, reason=reason)
        return SetParametersResult(successful=True)

    def _apply_parameters(self, parameters: Sequence[Parameter[Any]]) -> None:
        self._settings = changed(self._settings, {each.name: each.value for each in parameters})

    def _report(self) -> None:
        busy = self._served_id is not None
        state = str(self._progress["phase"]) if busy else "idle"
        values = {
            "state": state,
            "goals served": str(self._served),
            **{name: str(value) for name, value in self._progress.items() if name != "measures"},
        }
        status = DiagnosticStatus(
            level=DiagnosticStatus.WARN if self._problem else DiagnosticStatus.OK,
            name=self.get_fully_qualified_name(),
            message=f"the latest goal failed: {self._problem}" if self._problem else state,
            values=[KeyValue(key=key, value=value) for key, value in values.items()],
        )
        message = DiagnosticArray(status=[status])
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)


def _is_node_name(name: str) -> bool:
    """Tell whether topics and services can be below a name."""
    try:
        full = expand_topic_name(f"{name}/load_model", "node", "/")
        validate_full_topic_name(full, is_service=True)
    except (ValueError, NameValidationException):
        return False
    return bool(name)


def _id(handle: ServerGoalHandle) -> bytes:
    return bytes(handle.goal_id.uuid)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM; return 2 if it cannot start."""
    # rclpy's own handlers would end all communication at once, before a client is told of it.
    asked_to_end: list[int] = []
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, lambda number, _: asked_to_end.append(number))
    os.environ.update(profile_environment(os.environ))
    try:
        rclpy.init(
            args=None if arguments is None else list(arguments),
            signal_handler_options=SignalHandlerOptions.NO,
        )
    except RuntimeError as error:  # it says which of the --ros-args it cannot read
        print(f"finetune: {error}", file=sys.stderr)
        return 2
    try:
        node = FineTuneNode()
    except InvalidParameterValueException as error:
        print(f"finetune: {error}", file=sys.stderr)
        rclpy.try_shutdown()
        return 2
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    executor.create_task(node.begin)
    try:
        while rclpy.ok() and not asked_to_end:
            # Python sees a signal when this returns.
            spin_on(node, partial(executor.spin_once, timeout_sec=1.0))
    finally:
        node.end(executor)
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())

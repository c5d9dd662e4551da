"""Loads models: the configured one, and others at run time through a service."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent import futures
from contextlib import suppress
from functools import partial
from pathlib import Path

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.task import Future
from std_msgs.msg import Header

from fpt_ros.core.checkpoint import load_checkpoint
from fpt_ros.core.errors import FptError, InvalidInputError
from fpt_ros.msg import ModelInfo
from fpt_ros.nodes.outbox import Outbox
from fpt_ros.nodes.pipeline import PredictorPipeline, Surroundings
from fpt_ros.nodes.worker import Worker
from fpt_ros.srv import LoadModel
from fpt_ros.weights import default_checkpoint

_LATCHED_QOS = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class Models:
    """Puts models into the worker, and says which one serves."""

    def __init__(
        self, node: Node, worker: Worker, outbox: Outbox, surroundings: Surroundings
    ) -> None:
        self.info: ModelInfo | None = None  # of the model in use
        self._node = node
        self._worker = worker
        self._outbox = outbox
        self._surroundings = surroundings
        self._loading = False
        self._generation = 0  # counts how often the node was configured or cleaned up
        self._publisher = node.create_publisher(ModelInfo, "~/model_info", _LATCHED_QOS)
        node.create_service(
            LoadModel,
            "~/load_model",
            self._on_load_model,
            callback_group=ReentrantCallbackGroup(),  # other requests are taken meanwhile
        )

    def load_configured(self) -> str:
        """Load the model that the parameters name, and wait for it; return what went wrong.

        Returns at once when rclpy is shut down meanwhile.
        """
        self._generation += 1
        future = self._worker.install(self._configured)
        while not future.done():
            futures.wait([future], timeout=0.05)
            if not self._node.context.ok():
                return "interrupted"
        try:
            self._announce(future.result())
        except Exception as error:  # whatever a file or a device comes up with
            return _described(error)
        return ""

    def free(self, timeout_s: float) -> None:
        """Free the model; if it is computing for longer than the timeout, it is freed later."""
        self.info = None
        self._generation += 1
        futures.wait([self._worker.install(lambda: None)], timeout_s)

    def _configured(self) -> PredictorPipeline:
        name = self._surroundings.settings().checkpoint
        path = Path(name).expanduser() if name else default_checkpoint()
        return PredictorPipeline(load_checkpoint(path), self._surroundings)

    def _announce(self, pipeline: PredictorPipeline) -> None:
        self.info = pipeline.info(Header(stamp=self._node.get_clock().now().to_msg()))
        self._publisher.publish(self.info)
        self._node.get_logger().info(
            f"model {self.info.model_id} from {self.info.checkpoint} on {self.info.device}"
        )

    # ---- the service ----------------------------------------------------------------------------

    async def _on_load_model(
        self, request: LoadModel.Request, response: LoadModel.Response
    ) -> LoadModel.Response:
        response.message = await self._replace(request.path)
        response.success = not response.message
        response.model_id = self.info.model_id if self.info else ""
        return response

    async def _replace(self, name: str) -> str:
        """Replace the model; return what went wrong."""
        if self.info is None:
            return "the node is not configured"
        if self._loading:
            return "another model is being loaded"
        self._loading = True
        outcome: Future[Callable[[], PredictorPipeline]] = Future()
        generation = self._generation
        arguments = (name, generation, outcome)
        threading.Thread(target=self._load, args=arguments, daemon=True).start()
        try:
            result = await outcome
            assert result is not None  # rclpy: a future without a value gives None
            pipeline = result()
        except Exception as error:
            problem = _described(error)
            self._node.get_logger().error(f"load_model: {problem}; the old model stays")
            return problem
        finally:
            self._loading = False
        if generation != self._generation:
            return "the node was cleaned up meanwhile"
        self._announce(pipeline)
        return ""

    def _made(self, make: Callable[[], PredictorPipeline], generation: int) -> PredictorPipeline:
        if generation != self._generation:
            raise FptError("the node was cleaned up meanwhile")
        return make()

    def _load(
        self, name: str, generation: int, outcome: Future[Callable[[], PredictorPipeline]]
    ) -> None:
        """Read the file away from the worker, so that images go on being answered meanwhile."""
        installed: futures.Future[PredictorPipeline] = futures.Future()
        try:
            path = path_in_folder(self._surroundings.settings().model_dir, name)
            checkpoint = load_checkpoint(path)
            make = partial(PredictorPipeline, checkpoint, self._surroundings)
            installed = self._worker.install(partial(self._made, make, generation))
            with suppress(futures.CancelledError):
                installed.exception()  # waits
        except Exception as error:
            installed.set_exception(error)
        self._outbox.post(partial(outcome.set_result, installed.result))


def path_in_folder(folder: str, name: str) -> Path:
    """Return the real path of a file in a folder; no link and no `..` leads out of it.

    Raises:
        InvalidInputError: there is no folder, or the file is outside of it.
    """
    if not folder:
        raise InvalidInputError("the parameter `model_dir` is empty: no file may be loaded")
    root = Path(folder).expanduser().resolve()
    path = (root / name).resolve()
    if not path.is_relative_to(root) or path == root:
        raise InvalidInputError(f"{name!r} is not a file inside the folder of `model_dir`")
    return path


def _described(error: BaseException) -> str:
    return str(error) if isinstance(error, FptError) else f"{type(error).__name__}: {error}"

"""Loads models: the configured one, and others at run time through a service."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Mapping
from concurrent import futures
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.task import Future
from std_msgs.msg import Header

from fpt_ros.core.checkpoint import Checkpoint, load_checkpoint
from fpt_ros.core.engine import TorchEngine
from fpt_ros.core.errors import EngineError, FptError, InvalidInputError
from fpt_ros.core.memory import return_freed_memory
from fpt_ros.engines.cache import default_root
from fpt_ros.engines.choose import Service, Wish, load, ready, torch_engine
from fpt_ros.msg import ModelInfo
from fpt_ros.nodes.engine_build import EngineBuild, build_command
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
        self._build: EngineBuild | None = None
        self._newest: weakref.ref[PredictorPipeline] | None = None  # that the worker has made
        self._taking_over = False  # of an engine that has failed; on the worker thread only
        self.engine_state = ""  # what is under way, or why no better engine serves
        self.engine_problem = ""  # why the engine that was asked for does not serve
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
        self.engine_problem = ""
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
        self.stop_building()
        self.withdraw()
        self._generation += 1
        futures.wait([self._worker.install(lambda: None)], timeout_s)

    def withdraw(self) -> None:
        """Say that no model serves any more; what was said before would reach late subscribers."""
        if self.info is not None:
            self.info = None
            stamp = self._node.get_clock().now().to_msg()
            self._publisher.publish(ModelInfo(header=Header(stamp=stamp)))

    def describe(self) -> dict[str, str]:
        """What to say of the model in diagnostics."""
        info = self.info
        if info is None:
            return {}
        return {
            "model_id": info.model_id,
            "engine": info.engine,
            "engine key": info.engine_key,
            "engine differs from PyTorch by [unit square]": f"{info.parity_error:.2g}",
            "better engine": self.engine_state or "none",
            "device": info.device,
        }

    def build_command(self) -> list[str]:
        """The command that builds the engine that the parameters ask for."""
        wish = self._wish()
        return build_command(self._path(), wish.engine, wish)

    def _path(self) -> Path:
        name = self._surroundings.settings().checkpoint
        return Path(name).expanduser() if name else default_checkpoint()

    def _configured(self) -> PredictorPipeline:
        return self._pipeline(load_checkpoint(self._path()))

    def _pipeline(
        self, checkpoint: Checkpoint, failed: Mapping[str, str] | None = None
    ) -> PredictorPipeline:
        """Make one with the best engine that is ready and works; on the worker thread."""
        service = ready(checkpoint, self._wish(), failed)
        name = service.engine.name
        checkpoint = checkpoint.without_weights()  # the engine has what it needs of them
        try:
            return self._made(checkpoint, service)
        except EngineError as error:
            if name == TorchEngine.name:
                raise
            failed = {**service.failed, name: str(error)}
        del service  # its memory is for the next one
        return self._pipeline(checkpoint, failed)

    def _pipeline_with(self, built: str, checkpoint: Checkpoint) -> PredictorPipeline:
        """Make one with an engine that has just been built. Raises EngineError."""
        try:
            engine = load(checkpoint, built, self._wish())
            return self._made(checkpoint, Service(engine, (), {}, {}))
        except EngineError as error:
            raise EngineError(f"{built} was built and does not work: {error}") from error

    def _successor(self, checkpoint: Checkpoint, name: str, reason: str) -> PredictorPipeline:
        """Make one that takes over from an engine that has failed; at last PyTorch on the CPU."""
        checkpoint.check_file()  # else the engine stays, and may work the next time
        self._worker.release()
        gc.collect()  # tracebacks may hold what is on the GPU
        try:
            if name != TorchEngine.name:
                return self._pipeline(checkpoint, {name: reason})
        except (EngineError, InvalidInputError, RuntimeError) as error:
            if self._wish().torch_device().type == "cpu":
                raise
            reason = f"{reason}; {_described(error)}"
        cpu = replace(self._wish(), engine=TorchEngine.name, device="cpu", precision="fp32")
        failed = {name: reason}
        return self._made(checkpoint, Service(torch_engine(checkpoint, cpu), (), failed, failed))

    def _made(self, checkpoint: Checkpoint, service: Service) -> PredictorPipeline:
        arguments = (checkpoint, service, self._surroundings, self._on_failure)
        pipeline = PredictorPipeline(*arguments)
        self._newest = weakref.ref(pipeline)
        return pipeline

    def _wish(self) -> Wish:
        settings = self._surroundings.settings()
        root = Path(settings.engine_dir).expanduser() if settings.engine_dir else default_root()
        return Wish(
            settings.engine, settings.precision, settings.device, settings.num_threads, root
        )

    def _announce(self, pipeline: PredictorPipeline) -> None:
        self.info = pipeline.info(Header(stamp=self._node.get_clock().now().to_msg()))
        self._publisher.publish(self.info)
        return_freed_memory()  # of weights that were read, and of the engine before
        service, info = pipeline.service, self.info
        self._node.get_logger().info(
            f"model {info.model_id} from {info.checkpoint} on {info.device}, run by "
            f"{info.engine_key}"
        )
        for name, reason in service.refused.items():
            self._node.get_logger().info(f"engine {name} does not serve yet: {reason}")
        self.engine_state = "; ".join(f"{name}: {why}" for name, why in service.refused.items())
        if service.failed:
            reasons = "; ".join(f"{name}: {why}" for name, why in service.failed.items())
            self.engine_problem = f"{info.engine} serves on {info.device}: {reasons}"
        elif self._wish().engine in (info.engine, "auto") or service.to_build:
            self.engine_problem = ""
        else:
            self.engine_problem = f"{info.engine} serves instead of {self.engine_state}"
        self.stop_building()
        if service.to_build:
            self.engine_state = f"building {service.to_build[0]}: {self.engine_state}"
            on_built = partial(self._on_built, weakref.ref(pipeline), self._generation)
            self._build = EngineBuild(
                pipeline.checkpoint.path,
                service.to_build,
                self._wish(),
                lambda name, problem: self._outbox.post(partial(on_built, name, problem)),
            )

    def stop_building(self) -> None:
        """End a build that is under way."""
        if self._build is not None:
            self._build.stop()
            self._build = None

    def _on_built(
        self,
        served_by: weakref.ref[PredictorPipeline],
        generation: int,
        name: str,
        problem: str,
    ) -> None:
        """Serve with an engine that has just been built, if the same model still serves."""
        pipeline = served_by()
        if generation != self._generation or pipeline is None:
            return
        if problem:
            self.engine_problem = f"{pipeline.service.engine.name} serves: {problem}"
            self.engine_state = problem
            self._node.get_logger().warning(self.engine_problem)
            return
        self._node.get_logger().info(f"engine {name} is built")
        self._succeed(pipeline, partial(self._pipeline_with, name, pipeline.checkpoint))

    def _on_failure(self, failed: PredictorPipeline, error: EngineError) -> None:
        """Let another engine take over from one that has failed; on the worker thread.

        PyTorch stays where it can go on: on a CPU, and when a question was too large for the GPU.
        """
        engine = failed.service.engine
        recovers = engine.device.type == "cpu" or isinstance(
            error.__cause__, torch.OutOfMemoryError
        )
        if self._taking_over or (engine.name == TorchEngine.name and recovers):
            return
        self._taking_over = True
        self._succeed(
            failed,
            partial(self._successor, failed.checkpoint, engine.name, str(error)),
            f"{engine.name} failed: {error}; to serve again, call ~/load_model: ",
        )

    def _succeed(
        self, old: PredictorPipeline, make: Callable[[], PredictorPipeline], otherwise: str = ""
    ) -> None:
        """Put another pipeline for the same model into the worker, and say so.

        otherwise: what to say before the reason why that cannot be done.
        """
        generation, replaced = self._generation, weakref.ref(old)

        def successor() -> PredictorPipeline:
            self._taking_over = False
            if generation != self._generation or self._newest != replaced:
                raise futures.CancelledError  # another model serves by now
            return make()

        def announce(done: futures.Future[PredictorPipeline]) -> None:
            try:
                pipeline = done.result()
                if generation == self._generation:  # else the node was cleaned up meanwhile
                    self._announce(pipeline)
            except futures.CancelledError:
                pass
            except Exception as error:
                self.engine_problem = self.engine_state = f"{otherwise}{_described(error)}"
                self._node.get_logger().warning(f"no other engine serves: {self.engine_problem}")

        self._worker.install(successor).add_done_callback(
            lambda done: self._outbox.post(partial(announce, done))
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

    def _loaded(self, checkpoint: Checkpoint, generation: int) -> PredictorPipeline:
        if generation != self._generation:
            raise FptError("the node was cleaned up meanwhile")
        return self._pipeline(checkpoint)

    def _load(
        self, name: str, generation: int, outcome: Future[Callable[[], PredictorPipeline]]
    ) -> None:
        """Read the file away from the worker, so that images go on being answered meanwhile."""
        installed: futures.Future[PredictorPipeline] = futures.Future()
        try:
            path = path_in_folder(self._surroundings.settings().model_dir, name)
            checkpoint = load_checkpoint(path)
            installed = self._worker.install(partial(self._loaded, checkpoint, generation))
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

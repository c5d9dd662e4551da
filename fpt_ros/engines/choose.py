"""Which engine serves: what there is for a machine, in which order, and how each is come by.

openvino   CPU: built for the machine once, kept in the cache
tensorrt   NVIDIA GPU: likewise
cuda       NVIDIA GPU without TensorRT: PyTorch, replayed from CUDA graphs; not built
torch      any device: always there, and what serves while another engine is being built
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import torch

from ..core.checkpoint import Checkpoint
from ..core.config import ModelConfig
from ..core.engine import Engine, Precision, TorchEngine
from ..core.errors import EngineError, InvalidInputError
from ..core.model import FlowPokeModel
from . import cache, cuda, openvino, parity, tensorrt
from .cuda import CudaEngine

EngineName = Literal["auto", "openvino", "tensorrt", "cuda", "torch"]
PrecisionName = Literal["auto", "fp32", "bf16", "fp16", "int8"]


class Backend(Protocol):
    """A module that builds engines and loads them. All of it may raise EngineError."""

    NAME: str
    SHAPES: str
    PRECISIONS: tuple[Precision, ...]

    def runtime(self) -> str:
        """Name and version of what runs the engines."""

    def describe(self, device: torch.device) -> str:
        """What of the device an engine is built for."""

    def best_precision(self, device: torch.device) -> Precision:
        """What the device is fastest in without a loss that matters."""

    def build(
        self,
        model: FlowPokeModel,
        precision: Precision,
        folder: Path,
        on_stage: Callable[[str], object],
    ) -> None:
        """Write the files of an engine; tell the name of each stage before its turn."""

    def load(
        self,
        config: ModelConfig,
        folder: Path,
        precision: Precision,
        device: torch.device,
        num_threads: int = 0,
    ) -> Engine:
        """Load what `build` wrote."""


BACKENDS: dict[str, Backend] = {openvino.NAME: openvino, tensorrt.NAME: tensorrt}
# Best first, by kind of device; torch comes after them.
_ORDER = {"cpu": (openvino.NAME,), "cuda": (tensorrt.NAME, CudaEngine.name)}


@dataclass(frozen=True)
class Wish:
    """What the user has said about the engine; the parameters of the node with these names."""

    engine: str = "auto"
    precision: str = "auto"
    device: str = "auto"
    num_threads: int = 0
    root: Path = field(default_factory=cache.default_root)

    def torch_device(self) -> torch.device:
        """The device. Raises EngineError on a name that is none."""
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            return torch.device(self.device)
        except RuntimeError as error:
            raise EngineError(f"device {self.device!r} is none: {error}") from error

    def order(self) -> tuple[str, ...]:
        """Names of the engines to try, best first; the last is torch."""
        if self.engine == "auto":
            return (*_ORDER.get(self.torch_device().type, ()), TorchEngine.name)
        return tuple(dict.fromkeys((self.engine, TorchEngine.name)))


@dataclass(frozen=True)
class Service:
    """The best engine that is ready now."""

    engine: Engine
    to_build: tuple[str, ...]  # better ones, best first
    refused: dict[str, str]  # why better ones cannot be had, by name
    failed: dict[str, str]  # those of them that were loaded, and did not work


def ready(checkpoint: Checkpoint, wish: Wish, failed: Mapping[str, str] | None = None) -> Service:
    """Load the best engine that needs no building, and is none of those that failed.

    failed: why, by name. Raises EngineError or InvalidInputError if not even PyTorch can run, as
    on a device that is not there.
    """
    _limit_threads(wish)
    to_build: list[str] = []
    failed = dict(failed or {})
    refused = dict(failed)
    for name in wish.order()[:-1]:
        if name in failed:
            continue
        if name == CudaEngine.name:
            try:
                engine: Engine = cuda_engine(checkpoint, wish)
                return Service(engine, tuple(to_build), refused, failed)
            except EngineError as error:
                refused[name] = str(error)
                continue
        try:
            identity = identify(checkpoint, name, wish)
        except EngineError as error:
            refused[name] = str(error)
            continue
        try:
            engine = load(checkpoint, name, wish, identity)
            return Service(engine, tuple(to_build), refused, failed)
        except EngineError as error:
            to_build.append(name)
            refused[name] = str(error)
    return Service(torch_engine(checkpoint, wish), tuple(to_build), refused, failed)


def identify(checkpoint: Checkpoint, name: str, wish: Wish) -> cache.Identity:
    """What a built engine has to be. Raises EngineError if it cannot be had on this machine."""
    if name not in BACKENDS:
        raise EngineError(f"there is nothing to build for the engine {name!r}")
    backend, device = BACKENDS[name], wish.torch_device()
    runtime, described = backend.runtime(), backend.describe(device)
    precision = wish.precision
    if precision == "auto":
        precision = backend.best_precision(device)
    for possible in backend.PRECISIONS:
        if possible == precision:
            return cache.Identity(
                engine=name,
                precision=possible,
                weights_sha256=checkpoint.sha256,
                config=checkpoint.config.to_json(),
                shapes=backend.SHAPES,
                runtime=runtime,
                device=described,
            )
    raise EngineError(
        f"{name} runs in {' or '.join(backend.PRECISIONS)}, not in {precision}: set `precision`"
    )


def load(
    checkpoint: Checkpoint, name: str, wish: Wish, identity: cache.Identity | None = None
) -> Engine:
    """Load an engine from the cache. Raises EngineError that says why it cannot be."""
    _limit_threads(wish)
    identity = identity or identify(checkpoint, name, wish)
    entry = cache.find(wish.root, identity)
    engine = BACKENDS[name].load(
        checkpoint.config,
        entry.folder,
        identity.precision,
        wish.torch_device(),
        wish.num_threads,
    )
    engine.parity_error = entry.record["parity"]["mean_displacement"]
    return engine


def is_built(checkpoint: Checkpoint, name: str, wish: Wish) -> bool:
    """Whether an engine is in the cache, undamaged. Raises EngineError as `identify` does."""
    identity = identify(checkpoint, name, wish)
    try:
        cache.find(wish.root, identity)
    except EngineError:
        return False
    return True


def loads_here(entry: cache.Entry) -> bool:
    """Whether a runtime that is installed can load a built engine, on a device that is there."""
    identity = entry.record["identity"]
    backend = BACKENDS.get(identity.get("engine"))
    if backend is None:
        return False
    gpus = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    for device in (torch.device("cpu"), *gpus):
        try:
            needed = {
                "shapes": backend.SHAPES,
                "runtime": backend.runtime(),
                "device": backend.describe(device),
                "graphs": cache.GRAPHS,
            }
        except EngineError:
            continue
        if all(identity.get(name) == value for name, value in needed.items()):
            return True
    return False


def cuda_engine(checkpoint: Checkpoint, wish: Wish) -> CudaEngine:
    """PyTorch with CUDA graphs, held against PyTorch as it is. Raises EngineError."""
    device = wish.torch_device()
    precision = cuda.best_precision(device) if wish.precision == "auto" else wish.precision
    if precision not in ("bf16", "fp32"):
        raise EngineError(f"cuda runs in bf16 or fp32, not in {precision}: set `precision`")
    model = checkpoint.build_model().eval().requires_grad_(False)
    engine = CudaEngine(model, device, "bf16" if precision == "bf16" else "fp32")
    engine.parity_error = _parity(engine, model, device).mean_displacement
    return engine


def _parity(engine: Engine, model: FlowPokeModel, device: torch.device) -> parity.Parity:
    """Hold an engine against PyTorch as it is. Raises EngineError if it cannot be, or fails."""
    try:
        return parity.check(engine, TorchEngine(model, device))
    except (InvalidInputError, RuntimeError) as error:  # sizes not built for; memory for PyTorch
        reason = str(error).partition("\n")[0]
        raise EngineError(f"{engine.name} cannot be held against PyTorch: {reason}") from error


def torch_engine(checkpoint: Checkpoint, wish: Wish) -> TorchEngine:
    """The engine that is always there; in another precision than wished if it does not have it."""
    precision: Literal["fp32", "bf16"] = "bf16" if wish.precision == "bf16" else "fp32"
    return TorchEngine(checkpoint.build_model(), wish.torch_device(), precision)


def _limit_threads(wish: Wish) -> None:
    """Keep PyTorch, which has work beside every engine, to the threads that were asked for."""
    if wish.num_threads:
        torch.set_num_threads(wish.num_threads)


def build(
    checkpoint: Checkpoint,
    name: str,
    wish: Wish,
    on_stage: Callable[[str], object],
    rebuild: bool = False,
) -> cache.Entry:
    """Build an engine into the cache, unless it is there, and hold it against PyTorch in fp32.

    on_stage: told what is being done. Raises EngineError if it cannot be built or kept, or if its
    answers differ too much; nothing is left behind then.
    """
    identity = identify(checkpoint, name, wish)

    def make(folder: Path) -> dict[str, object]:
        start_s = time.perf_counter()
        model = checkpoint.build_model().eval().requires_grad_(False)
        backend, device = BACKENDS[name], wish.torch_device()
        if device.index is not None and device.type == "cuda":
            torch.cuda.set_device(device)  # builders ask for the current one
        backend.build(model, identity.precision, folder, on_stage)
        build_s = time.perf_counter() - start_s
        on_stage("parity with PyTorch")
        engine = backend.load(
            checkpoint.config, folder, identity.precision, device, wish.num_threads
        )
        return {
            "parity": asdict(_parity(engine, model, device)),
            "checkpoint": str(checkpoint.path),
            "build_s": round(build_s, 1),
        }

    return cache.store(
        wish.root,
        identity,
        make,
        rebuild,
        lambda: on_stage("waiting for another process that builds it"),
    )

"""TensorRT: the network on an NVIDIA GPU, from the graphs of `export`.

One adapter for two packages with the same Python API: `tensorrt` (data-centre GPUs, Jetson) and
`tensorrt_rtx` (GeForce and RTX), which also builds without a GPU. Networks are strongly typed:
matrix products in half precision; softmax, norms, rotary code, token embedding and head in float32.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from ..core.config import ModelConfig
from ..core.engine import Precision
from ..core.errors import EngineError, InvalidInputError
from ..core.model import FlowPokeModel
from .export import C, P, Q, R, Stage, StageGraph, stage_graphs
from .replay import Launch, Replayed
from .staged import StagedEngine

_PACKAGES = ("tensorrt", "tensorrt_rtx")
_HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}
NAME = "tensorrt"
PRECISIONS: tuple[Precision, ...] = ("bf16", "fp16", "fp32")

# Ranges that are optimised for: the size to be fastest at, and the largest. Few candidates with
# many points, many with few, and the long chains of pokes of joint samples: all that
# `MotionPredictor` asks of a candidate with at most 256 pokes, and of joint samples with at most
# 256 points per step. No tensor of FPT-Base may have 2^31 numbers at the largest sizes. Memory is
# taken for the sizes at hand.
_PROFILES: tuple[dict[str, tuple[int, int]], ...] = (
    {C: (1, 32), R: (1, 256), P: (1, 256), Q: (1024, 4096)},
    {C: (64, 512), R: (1, 256), P: (1, 128), Q: (64, 128)},
    {C: (1024, 4096), R: (1, 32), P: (1, 16), Q: (4, 16)},
    {C: (16, 64), R: (256, 4096), P: (1, 256), Q: (1, 256)},
)
SHAPES = "; ".join(
    ", ".join(f"{axis} to {most}" for axis, (_, most) in profile.items()) for profile in _PROFILES
)


def runtime() -> str:
    """Name and version. Raises EngineError if neither package is there."""
    return f"{_trt().__name__} {_trt().__version__}"


def describe(device: torch.device) -> str:
    """The GPU that engines are built for. Raises EngineError if there is none."""
    if device.type != "cuda" or not torch.cuda.is_available():
        raise EngineError("TensorRT needs an NVIDIA GPU, its driver and PyTorch with CUDA")
    try:
        major, minor = torch.cuda.get_device_capability(device)
        return f"{torch.cuda.get_device_name(device)} (compute capability {major}.{minor})"
    except (RuntimeError, AssertionError) as error:
        raise EngineError(f"device {str(device)!r} cannot be used: {error}") from error


def best_precision(device: torch.device) -> Precision:
    """Bfloat16 where the GPU has it, else half precision."""
    describe(device)
    return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp16"


def build(
    model: FlowPokeModel, precision: Precision, folder: Path, on_stage: Callable[[str], object]
) -> None:
    """Build the plans of a float32 network on the CPU, in evaluation mode, into files in a folder.

    For the GPU that is current. on_stage is told the name of each stage before it is built. Raises
    EngineError if a package, a GPU or memory is missing, or the builder failed, with its reason;
    OSError if a file cannot be written.
    """
    for graph in stage_graphs(model):
        on_stage(graph.stage)
        plan = build_plan(graph, onnx_bytes(graph, precision), exact=precision == "fp32")
        (folder / f"{graph.stage}.plan").write_bytes(plan)


def onnx_bytes(graph: StageGraph, precision: Precision) -> bytes:
    """The graph as ONNX in this precision. Raises EngineError without the packages for it."""
    try:
        import onnx_ir

        from .precision import halve_products

        exported = graph.onnx()
    except ImportError as error:
        raise EngineError(
            f"ONNX cannot be exported ({error}): pip install 'onnxscript>=0.7,<1'"
        ) from error
    half = {"bf16": onnx_ir.DataType.BFLOAT16, "fp16": onnx_ir.DataType.FLOAT16}.get(precision)
    if half is not None and graph.stage != "embed":
        halve_products(exported, half)
    return onnx_ir.to_proto(exported).SerializeToString()


def build_plan(
    graph: StageGraph, onnx: bytes, exact: bool = False, capabilities: Sequence[str] = ()
) -> Any:
    """A serialised plan, as a buffer; see `build`.

    Args:
        graph: the stage.
        onnx: what `onnx_bytes` makes of it.
        exact: do not round the factors of float32 products to TF32, which has as many digits as
            float16.
        capabilities: names like "SM89" of the GPUs to build for, which need not be there;
            `tensorrt_rtx` only.
    """
    trt, log = _trt(), _log()
    log.errors.clear()
    try:
        builder = trt.Builder(log)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, log)
        if not parser.parse(onnx):
            reasons = [parser.get_error(index).desc() for index in range(parser.num_errors)]
            raise EngineError(f"TensorRT cannot read the stage {graph.stage}: {'; '.join(reasons)}")
        config = builder.create_builder_config()
        if exact:
            config.clear_flag(trt.BuilderFlag.TF32)
        if capabilities:
            config.num_compute_capabilities = len(capabilities)
            for index, name in enumerate(capabilities):
                config.set_compute_capability(getattr(trt.ComputeCapability, name), index)
        for sizes in _profiles(graph):
            profile = builder.create_optimization_profile()
            for name, spec in graph.inputs.items():
                if all(isinstance(each, int) for each in spec.shape):
                    continue
                ranges = [
                    (each, each, each) if isinstance(each, int) else (1, *sizes[each])
                    for each in spec.shape
                ]
                profile.set_shape(name, *zip(*ranges, strict=True))
            config.add_optimization_profile(profile)
        plan = builder.build_serialized_network(network, config)
    except (RuntimeError, TypeError, AttributeError, MemoryError) as error:
        raise EngineError(f"TensorRT cannot build the stage {graph.stage}: {error}") from error
    if plan is None:
        raise EngineError(f"TensorRT cannot build the stage {graph.stage}: {log.last_error()}")
    return plan


def _profiles(graph: StageGraph) -> list[dict[str, tuple[int, int]]]:
    """Those that differ in the axes that this graph has."""
    axes = {each for spec in graph.inputs.values() for each in spec.shape if isinstance(each, str)}
    found: list[dict[str, tuple[int, int]]] = []
    for profile in _PROFILES:
        sizes = {axis: profile[axis] for axis in axes}
        if sizes and sizes not in found:
            found.append(sizes)
    return found


class TensorRtEngine(StagedEngine):
    """Built plans, loaded; float32 at the boundary."""

    name = NAME
    parity_error = float("nan")

    def __init__(
        self, config: ModelConfig, folder: Path, precision: Precision, device: torch.device
    ) -> None:
        """Load what `build` wrote for a network of this shape; that GPU becomes the current one.

        Raises EngineError: no GPU, no package, or a plan that is broken or of another version.
        """
        describe(device)
        if device.index is not None:
            torch.cuda.set_device(device)
        scratch = _Scratch()
        plans = {stage: _Plan(folder / f"{stage}.plan", scratch) for stage in get_args(Stage)}
        super().__init__(
            config,
            device,
            # `tensorrt_rtx` compiles kernels for the sizes it meets, and records them, by itself.
            {stage: Replayed(plan, record=not plan.is_rtx) for stage, plan in plans.items()},
            _HALVES.get(precision, torch.float32),
        )
        self.precision = precision
        self.key = folder.name


def load(
    config: ModelConfig,
    folder: Path,
    precision: Precision,
    device: torch.device,
    num_threads: int = 0,
) -> TensorRtEngine:
    """Load what `build` wrote; see `TensorRtEngine`. CPU threads have no say in it."""
    return TensorRtEngine(config, folder, precision, device)


class _Scratch:
    """Memory and a stream for whatever plan is running: they all run one after the other."""

    def __init__(self) -> None:
        self._memory = torch.empty(1, dtype=torch.uint8, device="cuda")
        self.stream = torch.cuda.Stream()

    def at_least(self, n_bytes: int) -> Tensor:
        if self._memory.numel() < n_bytes:
            self._memory = torch.empty(n_bytes, dtype=torch.uint8, device="cuda")
        return self._memory


class _Plan:
    """A loaded plan; makes the work of one size."""

    def __init__(self, file: Path, scratch: _Scratch) -> None:
        trt, log = _trt(), _log()
        log.errors.clear()
        try:
            self._runtime = trt.Runtime(log)
            self._engine = self._runtime.deserialize_cuda_engine(file.read_bytes())
        except (RuntimeError, TypeError, MemoryError, OSError) as error:
            raise EngineError(f"TensorRT cannot load {file}: {error}") from error
        if self._engine is None:
            raise EngineError(f"TensorRT cannot load {file}: {log.last_error()}")
        self._scratch = scratch
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        self._outputs = [name for name in names if self._mode(name) == trt.TensorIOMode.OUTPUT]
        self.is_rtx = trt.__name__ == "tensorrt_rtx"
        if self.is_rtx:
            self._config = self._engine.create_runtime_config()
            self._config.set_execution_context_allocation_strategy(
                trt.ExecutionContextAllocationStrategy.USER_MANAGED
            )
            self._config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            self._config.set_runtime_cache(self._config.create_runtime_cache())

    def __call__(self, buffers: Mapping[str, Tensor]) -> Launch:
        """Work on these inputs, with outputs and a context of its own."""
        log, stream = _log(), torch.cuda.current_stream()
        log.errors.clear()
        context = self._context()
        if context is None or not context.set_optimization_profile_async(
            self._profile(buffers), stream.cuda_stream
        ):
            raise EngineError(f"TensorRT cannot prepare a stage: {log.last_error()}")
        stream.synchronize()
        for name, each in buffers.items():
            if not context.set_input_shape(name, tuple(each.shape)):
                raise EngineError(f"TensorRT refuses {name} {list(each.shape)}: {log.last_error()}")
            context.set_tensor_address(name, each.data_ptr())
        outputs = {name: self._output(name, context) for name in self._outputs}
        for name, each in outputs.items():
            context.set_tensor_address(name, each.data_ptr())
        memory = self._scratch.at_least(context.update_device_memory_size_for_shapes())
        context.set_device_memory(memory.data_ptr(), memory.numel())

        def launch(used: Tensor = memory) -> Mapping[str, Tensor]:
            if not self._execute(context):
                raise EngineError(f"TensorRT failed: {log.last_error()}")
            return outputs

        return launch

    def _execute(self, context: Any) -> bool:
        """Enqueue the work, after what is on the current stream and before what will be.

        So all memory that it uses can be the current stream's, and be given back there.
        """
        current = torch.cuda.current_stream()
        if not self.is_rtx:
            return bool(context.execute_async_v3(current.cuda_stream))
        # What `tensorrt_rtx` records cannot be recorded on the default stream, where TensorRT also
        # waits for the whole GPU.
        own = self._scratch.stream
        own.wait_stream(current)
        done = context.execute_async_v3(own.cuda_stream)
        current.wait_stream(own)
        return bool(done)

    def _context(self) -> Any:
        if self.is_rtx:
            return self._engine.create_execution_context(self._config)
        return self._engine.create_execution_context(
            _trt().ExecutionContextAllocationStrategy.USER_MANAGED
        )

    def _mode(self, name: str) -> Any:
        return self._engine.get_tensor_mode(name)

    def _output(self, name: str, context: Any) -> Tensor:
        dtype = getattr(torch, _TORCH_NAMES[self._engine.get_tensor_dtype(name).name])
        return torch.empty(tuple(context.get_tensor_shape(name)), dtype=dtype, device="cuda")

    def _profile(self, buffers: Mapping[str, Tensor]) -> int:
        """Index of the first profile that allows these sizes.

        Raises InvalidInputError if none does: the question is at fault, not the engine.
        """
        for index in range(self._engine.num_optimization_profiles):
            largest = {
                name: tuple(self._engine.get_tensor_profile_shape(name, index)[2])
                for name in buffers
            }
            if all(
                size <= most
                for name, each in buffers.items()
                for size, most in zip(each.shape, largest[name], strict=True)
            ):
                return index
        sizes = ", ".join(f"{name} {list(each.shape)}" for name, each in buffers.items())
        raise InvalidInputError(
            "too many pokes, candidates or points at once: the engine is built for "
            f"{SHAPES}; asked for {sizes}; the engines cuda and torch have no such limits"
        )


_TORCH_NAMES = {"FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16"}


@cache
def _trt() -> Any:
    """The first package that works."""
    reasons = []
    for package in _PACKAGES:
        if importlib.util.find_spec(package) is None:
            continue
        try:
            return importlib.import_module(package)
        except (ImportError, OSError, RuntimeError) as error:
            reasons.append(f"{package} cannot be imported: {error}")
    missing = "TensorRT is not installed: pip install tensorrt, or tensorrt-rtx"
    raise EngineError("; ".join(reasons) or missing)


@cache
def _log() -> Any:
    """A logger that keeps the errors, which TensorRT reports in no other way."""
    trt = _trt()

    class Log(trt.ILogger):  # type: ignore[name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(message)

        def last_error(self) -> str:
            return self.errors[-1] if self.errors else "no reason given"

    return Log()

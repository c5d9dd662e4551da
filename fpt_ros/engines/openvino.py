"""OpenVINO: the network on a CPU, in bfloat16 where the CPU computes in it.

A built engine has one compiled graph in a file for each stage of `export`.
"""

from __future__ import annotations

import math
import mmap
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, get_args

import numpy as np
import torch
from torch import Tensor

from ..core.config import ModelConfig
from ..core.engine import Engine, Precision
from ..core.errors import EngineError
from ..core.model import FlowPokeModel, used_pokes
from ..core.transformer import PokeReference
from .export import TRACED, Stage, StageGraph, kv_names, stage_graphs
from .quantize import quantized, with_small_layers

if TYPE_CHECKING:
    import openvino as ov

    _Array: TypeAlias = ov.Tensor | Tensor

NAME = "openvino"
SHAPES = "any"  # sizes that change do so without limits
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "int8")


def runtime() -> str:
    """Name and version. Raises EngineError if OpenVINO is not there or does not load."""
    return f"openvino {_openvino().__version__}"


def describe(device: torch.device) -> str:
    """The CPU, as far as graphs are compiled for it. Raises EngineError for another device."""
    if device.type != "cpu":
        raise EngineError(f"OpenVINO runs on the CPU here, not on {device}")
    name = core().get_property("CPU", "FULL_DEVICE_NAME")
    return f"{name} ({' '.join(sorted(_capabilities()))})"


def best_precision(device: torch.device) -> Precision:
    """What the CPU is fastest in without a loss that matters."""
    return "bf16" if "BF16" in _capabilities() else "fp32"


def build(
    model: FlowPokeModel, precision: Precision, folder: Path, on_stage: Callable[[str], object]
) -> None:
    """Compile a float32 network on the CPU, in evaluation mode, into files in a folder.

    on_stage is told the name of each stage before it is compiled. Raises EngineError, or OSError
    if a file cannot be written.
    """
    for graph in stage_graphs(model):
        on_stage(graph.stage)
        numbers = _numbers(graph.stage, precision, model.config)
        with _blamed(f"cannot compile the stage {graph.stage}"):
            network = _converted(graph)
            if precision == "int8" and graph.stage == "encode":
                network = quantized(network, model.config.encoder.input_px)
            elif precision == "int8" and graph.stage != "embed" and "AMX" not in _capabilities():
                # With AMX, products in bfloat16 are faster than with weights of eight bits.
                network = with_small_layers(network)
            network = _with_small_keys(network, numbers["INFERENCE_PRECISION_HINT"])
            compiled = core().compile_model(network, "CPU", numbers)
            blob = compiled.export_model()
        (folder / f"{graph.stage}.blob").write_bytes(blob.getbuffer())


@dataclass(frozen=True)
class _Image:
    maps: dict[str, ov.Tensor]
    keys: dict[str, ov.Tensor]  # of all layers, as `advance` and `alone` take them


@dataclass(frozen=True)
class _Points:
    """Points as inputs of `advance` and `alone`."""

    image: weakref.ref[_Image]
    xy: Tensor  # [1, 1, Q, 2]
    tokens: dict[str, ov.Tensor]  # and rotary tables


@dataclass(frozen=True)
class _Pokes:
    """Pokes as inputs of `advance`. There is always one, if only padding."""

    camera_static: Tensor  # bool [1]
    none: bool  # nothing but padding
    present: Tensor  # bool [1, C, R]
    keys: dict[str, _Array]  # of all layers and, last, of the head's reference
    xy: Tensor  # [1, C, R, 2]
    flow: Tensor  # [1, C, R, 2], in the units of the head


class OpenVinoEngine(Engine):
    """A built engine, loaded. The tensors at its boundary are float32 on the CPU."""

    name = NAME

    def __init__(
        self,
        config: ModelConfig,
        folder: Path,
        precision: Precision,
        device: torch.device,
        num_threads: int = 0,
    ) -> None:
        """Load what `build` wrote for a network of this shape.

        num_threads: 0 means one per core. Raises EngineError.
        """
        super().__init__(config, device, torch.float32)
        self.precision = precision
        self.key = folder.name
        self.parity_error = math.nan
        self._stages = {
            stage: _Stage(folder / f"{stage}.blob", _numbers(stage, precision, config), num_threads)
            for stage in get_args(Stage)
        }
        # A grid is asked about without and with pokes: its points are embedded once.
        self._latest: _Points | None = None

    def encode(self, image: Tensor) -> _Image:
        """See `Engine.encode`."""
        outputs = self._stages["encode"]({"image": image})
        return _Image(
            {name: each for name, each in outputs.items() if name.startswith("map_")},
            {name: each for name, each in outputs.items() if name.startswith("image_")},
        )

    def condition(
        self,
        image: _Image,
        poke_xy: Tensor,
        poke_flow: Tensor,
        poke_counts: Tensor | None = None,
        camera_static: Tensor | None = None,
    ) -> _Pokes:
        """See `Engine.condition`."""
        candidates, n_pokes = poke_xy.shape[1:3]
        if camera_static is None:
            camera_static = torch.ones(1, dtype=torch.bool)
        padding = self._padding(candidates, camera_static)
        if n_pokes == 0:
            return padding
        present, poke_xy, poke_flow = used_pokes(poke_xy, poke_flow, poke_counts)
        nowhere = poke_xy.new_zeros(1, candidates, 1, 2)
        outputs = self._advance(image, padding, poke_xy, poke_flow, present, nowhere)
        return self._appended(padding, poke_xy, poke_flow, present, outputs)

    def query(self, image: _Image, pokes: _Pokes, points: Tensor) -> Tensor:
        """See `Engine.query`."""
        candidates, n_points = points.shape[1:3]
        nowhere = points.new_zeros(1, candidates, 1, 2)
        if n_points == 0:
            return points.new_empty(1, candidates, 0, 6 * self.config.head.n_components)
        if pokes.none:
            tokens = self._known(image, points) or _of_points(
                self._embed(image, nowhere, nowhere, points)
            )
            inputs = {"camera_static": pokes.camera_static, **image.keys, **tokens}
            return _to_torch(self._stages["alone"](inputs)["raw"])
        absent = torch.zeros(1, candidates, 1, dtype=torch.bool)
        return _to_torch(self._advance(image, pokes, nowhere, nowhere, absent, points)["raw"])

    def extend(
        self,
        image: _Image,
        pokes: _Pokes,
        poke_xy: Tensor,
        poke_flow: Tensor,
        points: Tensor | None = None,
    ) -> tuple[_Pokes, Tensor]:
        """See `Engine.extend`."""
        if points is None:
            points = poke_xy[:, :, :0]
        if poke_xy.shape[2] == 0:
            return pokes, self.query(image, pokes, points)
        present = torch.ones(poke_xy.shape[:3], dtype=torch.bool)
        n_points = points.shape[2]
        asked = points if n_points else poke_xy.new_zeros(1, poke_xy.shape[1], 1, 2)
        outputs = self._advance(image, pokes, poke_xy, poke_flow, present, asked)
        extended = self._appended(pokes, poke_xy, poke_flow, present, outputs)
        return extended, _to_torch(outputs["raw"])[:, :, :n_points]

    def _padding(self, candidates: int, camera_static: Tensor) -> _Pokes:
        """One poke that is not present."""
        transformer = self.config.transformer
        shape = (1, candidates, transformer.heads, 1, transformer.d_head)
        keys: dict[str, _Array] = {name: torch.zeros(shape) for name in kv_names(self.config)}
        if self.config.head.poke_relative:
            keys["reference"] = torch.zeros(1, candidates, 1, PokeReference.D_KEY)
        nowhere = torch.zeros(1, candidates, 1, 2)
        absent = torch.zeros(1, candidates, 1, dtype=torch.bool)
        return _Pokes(camera_static, True, absent, keys, nowhere, nowhere)

    def _known(self, image: _Image, points: Tensor) -> dict[str, ov.Tensor]:
        """Tokens and tables of points if they are the latest; else nothing."""
        latest = self._latest
        if latest is None or latest.image() is not image or not torch.equal(latest.xy, points):
            return {}
        return latest.tokens

    def _embed(
        self, image: _Image, poke_xy: Tensor, poke_flow: Tensor, points: Tensor
    ) -> dict[str, ov.Tensor]:
        """Tokens and tables of at least one poke and one point; the next call overwrites them."""
        known = self._known(image, points)
        asked = points.new_zeros(*points.shape[:2], 1, 2) if known else points
        inputs = {**image.maps, "poke_xy": poke_xy, "poke_flow": poke_flow, "points": asked}
        outputs = self._stages["embed"](inputs)
        candidates, n_points = asked.shape[1:3]
        if candidates == 1 and n_points > 1:
            tokens = {name: _copied(each) for name, each in _of_points(outputs).items()}
            self._latest = _Points(weakref.ref(image), points.clone(), tokens)
        return {**outputs, **known}

    def _advance(
        self,
        image: _Image,
        past: _Pokes,
        poke_xy: Tensor,
        poke_flow: Tensor,
        present: Tensor,
        points: Tensor,
    ) -> dict[str, ov.Tensor]:
        """Run at least one new poke and one point; returns views that the next call overwrites."""
        inputs: dict[str, _Array] = {
            "camera_static": past.camera_static,
            **image.keys,
            **self._embed(image, poke_xy, poke_flow, points),
            "poke_present": present,
            "earlier_present": past.present,
            **{f"earlier_{name}": each for name, each in past.keys.items()},
        }
        if self.config.head.poke_relative:
            inputs |= {
                "poke_xy": poke_xy,
                "poke_flow": poke_flow,
                "points": points,
                "earlier_xy": past.xy,
                "earlier_flow": past.flow,
            }
        return self._stages["advance"](inputs)

    def _appended(
        self,
        past: _Pokes,
        poke_xy: Tensor,
        poke_flow: Tensor,
        present: Tensor,
        outputs: Mapping[str, ov.Tensor],
    ) -> _Pokes:
        return _Pokes(
            past.camera_static,
            False,
            torch.cat([past.present, present], dim=2),
            {name: _copied(outputs[f"all_{name}"]) for name in past.keys},
            torch.cat([past.xy, poke_xy], dim=2),
            torch.cat([past.flow, poke_flow * self.config.head.flow_scale], dim=2),
        )


load = OpenVinoEngine


class _Stage:
    """A compiled graph. Outputs whose shape may change are overwritten by the next call."""

    def __init__(self, file: Path, numbers: Mapping[str, Any], num_threads: int) -> None:
        properties: dict[str, Any] = {
            **numbers,  # the file does not have them
            "INFERENCE_NUM_THREADS": num_threads,
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_CPU_PINNING": False,  # other processes want the cores, too
        }
        with _blamed(f"cannot load {file}"):
            with file.open("rb") as opened:
                # Shared, the constants are where they are. OpenVINO refuses what is read-only.
                self._file = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY)
            blob = _openvino().Tensor(np.frombuffer(self._file, np.uint8), shared_memory=True)
            self._compiled = core().import_model(blob, "CPU", properties)
            self._request = self._compiled.create_infer_request()
            # What is needed again is read again, at any time: the file must stay as it is.
            self._file.madvise(mmap.MADV_DONTNEED)
        self._name = file.stem
        self._outputs = [port.any_name for port in self._compiled.outputs]
        self._has_run = False

    def __call__(self, inputs: Mapping[str, _Array]) -> dict[str, ov.Tensor]:
        """Run on inputs by name. Raises EngineError."""
        with _blamed(f"the stage {self._name} failed"):
            # Kept until the end of the call: OpenVINO does not own the memory of arrays.
            arrays = {
                name: each.contiguous().numpy()
                for name, each in inputs.items()
                if isinstance(each, Tensor)
            }
            for name, each in inputs.items():
                if name in arrays:
                    each = _openvino().Tensor(arrays[name], shared_memory=True)
                self._request.set_tensor(name, each)
            for port in self._compiled.outputs:
                if port.partial_shape.is_static:
                    fresh = _openvino().Tensor(port.element_type, port.shape)
                    self._request.set_tensor(port.any_name, fresh)
            self._request.infer()
            if not self._has_run:
                self._has_run = True
                self._file.madvise(mmap.MADV_DONTNEED)  # the kernels have packed most of it
            return {name: self._request.get_tensor(name) for name in self._outputs}


def _converted(graph: StageGraph) -> ov.Model:
    """The graph as OpenVINO has it, its tensors named."""
    from openvino import PartialShape, Type
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    example = tuple(spec.zeros(TRACED) for spec in graph.inputs.values())
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that sizes are constants, where they are
        traced = torch.jit.trace(graph.module.eval(), example, check_trace=False)
        # What depends on no input is computed now: OpenVINO resizes by another bicubic filter.
        traced = torch.jit.freeze(traced)
    frontend = FrontEndManager().load_by_framework("pytorch")
    decoder = TorchScriptPythonDecoder(traced, example_input=example)  # to outlive `convert`
    converted = frontend.convert(frontend.load(decoder))
    for parameter, (name, spec), tensor in zip(
        converted.get_parameters(), graph.inputs.items(), example, strict=True
    ):
        parameter.output(0).get_tensor().set_names({name})
        parameter.set_element_type(Type(tensor.numpy().dtype))
        sizes = [size if isinstance(size, int) else -1 for size in spec.shape]
        parameter.set_partial_shape(PartialShape(sizes))
    for port, name in zip(converted.outputs, graph.outputs, strict=True):
        port.get_tensor().set_names({name})
    converted.validate_nodes_and_infer_types()
    _swap_halves_by_gathering(converted)
    return converted


def _swap_halves_by_gathering(network: ov.Model) -> None:
    """Replace `Roll`, which the rotary code uses for this only: its kernel is slow."""
    from openvino import opset8

    for roll in [each for each in network.get_ops() if each.get_type_name() == "Roll"]:
        halves = roll.input_value(0)
        half = halves.partial_shape[-1].get_length() // 2
        order = np.roll(np.arange(2 * half, dtype=np.int32), half)
        swapped = opset8.gather(halves, order, np.int32(-1))
        swapped.set_friendly_name(roll.get_friendly_name())
        roll.output(0).replace(swapped.output(0))


def _with_small_keys(network: ov.Model, hint: str) -> ov.Model:
    """The same, taking and giving the keys and values of the image in the precision of the body.

    Every question reads them: in float32 they would be a third of what a small one reads.
    """
    from openvino import Type
    from openvino.preprocess import PrePostProcessor

    if hint != "bf16":
        return network
    processor = PrePostProcessor(network)
    for ports, tensor in (
        (network.inputs, lambda name: processor.input(name).tensor()),
        (network.outputs, lambda name: processor.output(name).tensor()),
    ):
        for port in ports:
            if port.any_name.startswith("image_"):
                tensor(port.any_name).set_element_type(Type.bf16)
    return processor.build()


def _openvino() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise EngineError(f"OpenVINO cannot be imported ({error}): pip install openvino") from error
    return openvino


def _numbers(stage: Stage, precision: Precision, config: ModelConfig) -> dict[str, Any]:
    """Properties that say what OpenVINO is to compute in."""
    half = precision == "bf16" or "BF16" in _capabilities()
    # Sines and cosines of large angles do not survive bfloat16.
    wide = stage == "embed" or precision == "fp32" or not half
    return {
        "INFERENCE_PRECISION_HINT": "f32" if wide else "bf16",  # where a graph is not quantised
        # Where weights have eight bits, so many inputs of a token share a scale: all of them, but
        # for `ffn_down`, which has a multiple. Otherwise it is 32, and slower.
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": config.transformer.width,
    }


@cache
def core() -> ov.Core:
    """The one `Core` of this process.

    Each gives the thread a stack for its signal handlers and takes it back at its end. Of two that
    do not end in reverse order the second to end leaves a stack that is gone, and the next signal
    ends the process.
    """
    return _openvino().Core()


def _capabilities() -> list[str]:
    """Those of the CPU that OpenVINO names, and AMX, which it uses but does not name."""
    amx = ["AMX"] if torch.cpu._is_amx_tile_supported() else []
    return [*core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"), *amx]


@contextmanager
def _blamed(what: str) -> Iterator[None]:
    """Turn what OpenVINO and memory raise into EngineError."""
    try:
        yield
    except (RuntimeError, MemoryError, OSError) as error:
        raise EngineError(f"OpenVINO: {what}: {_last_line(error)}") from error


def _last_line(error: BaseException) -> str:
    """OpenVINO's errors begin with source files."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _to_torch(tensor: ov.Tensor) -> Tensor:
    return torch.from_numpy(tensor.data.copy())


def _of_points(embedded: dict[str, ov.Tensor]) -> dict[str, ov.Tensor]:
    return {name: each for name, each in embedded.items() if name.startswith("point_")}


def _copied(tensor: ov.Tensor) -> ov.Tensor:
    copy = _openvino().Tensor(tensor.element_type, tensor.shape)
    tensor.copy_to(copy)
    return copy

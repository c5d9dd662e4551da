"""PyTorch on an NVIDIA GPU, replayed from CUDA graphs; in bfloat16 where the GPU has it.

The fallback where TensorRT is missing. There is nothing to build; the first question of each size
is slow, while its graph is recorded.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from ..core.engine import exact_convolutions
from ..core.errors import EngineError
from ..core.model import FlowPokeModel
from .export import Stage, StageGraph, stage_graphs
from .replay import Launch, Replayed
from .staged import StagedEngine

# Parts whose numbers stay in float32: sines and cosines of large angles, and the answer itself.
_FULL = {"input_mlp", "out_mlp", "poke_reference"}


class CudaEngine(StagedEngine):
    """The stages in PyTorch, each size of input recorded at its first use."""

    name = "cuda"
    parity_error = float("nan")

    def __init__(
        self,
        model: FlowPokeModel,
        device: torch.device | str = "cuda",
        precision: Literal["fp32", "bf16"] = "bf16",
    ) -> None:
        """Copy a float32 network on the CPU, in evaluation mode, to a GPU, which becomes current.

        Raises EngineError if there is no such GPU, or too little memory on it.
        """
        device = torch.device(device)
        with _usable(device):
            run = stage_runners(model, device, precision)
        super().__init__(
            model.config, device, run, torch.float32 if precision == "fp32" else torch.bfloat16
        )
        self.precision = precision
        self.key = f"cuda {torch.__version__} {device} {precision}"


def best_precision(device: torch.device) -> Literal["fp32", "bf16"]:
    """Bfloat16 where the GPU multiplies in it. Raises EngineError if there is no such GPU."""
    with _usable(device):
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp32"


@contextmanager
def _usable(device: torch.device) -> Iterator[None]:
    """Blame the device for what goes wrong."""
    if device.type != "cuda":
        raise EngineError(f"CUDA graphs need an NVIDIA GPU, not the device {str(device)!r}")
    try:
        yield
    except (RuntimeError, AssertionError) as error:  # the latter: PyTorch without CUDA
        reason = str(error).partition("\n")[0]
        raise EngineError(f"device {str(device)!r} cannot be used: {reason}") from error


def stage_runners(
    model: FlowPokeModel, device: torch.device, precision: Literal["fp32", "bf16"]
) -> dict[Stage, Replayed]:
    """What runs each stage on a device; on a CPU, nothing is recorded."""
    ours = copy.deepcopy(model)
    graphs = stage_graphs(ours)
    if precision == "bf16":
        for name, module in nn.ModuleList(graph.module for graph in graphs).named_modules():
            is_full = bool(_FULL.intersection(name.split(".")))
            if isinstance(module, nn.Linear | nn.Conv2d) and not is_full:
                module.to(torch.bfloat16)
    record = device.type == "cuda"
    if device.index is not None and record:
        torch.cuda.set_device(device)
    pool = torch.cuda.graph_pool_handle() if record else None
    return {
        graph.stage: Replayed(_Prepare(graph, device, precision), record, pool) for graph in graphs
    }


class _Prepare:
    def __init__(self, graph: StageGraph, device: torch.device, precision: str) -> None:
        self._graph = graph
        self._module = graph.module.to(device)
        self._half = precision == "bf16" and graph.stage != "embed"

    def __call__(self, buffers: Mapping[str, Tensor]) -> Launch:
        inputs = [buffers[name] for name in self._graph.inputs]

        def launch() -> Mapping[str, Tensor]:
            with self._numbers(inputs[0].device):
                return dict(zip(self._graph.outputs, self._module(*inputs), strict=True))

        return launch

    def _numbers(self, device: torch.device) -> AbstractContextManager[object]:
        return torch.autocast(device.type, torch.bfloat16) if self._half else exact_convolutions()

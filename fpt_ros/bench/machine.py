"""What a benchmark runs on, and what that machine can do at most."""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fpt_ros.core.memory import return_freed_memory

# Of the many flags of a CPU, those that say how wide its arithmetic is.
_ISA = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16",
        "asimddp", "bf16", "i8mm", "sve")  # fmt: skip
_PACKAGES = ("torch", "openvino", "onnxruntime", "tensorrt", "tensorrt_rtx", "numpy")


class Load(NamedTuple):
    """Something to time that keeps one part of a machine busy."""

    run: Callable[[], Tensor]
    amount: float  # operations, or bytes that are read


def describe(device: torch.device) -> dict[str, Any]:
    """Name and versions of all that matters for speed."""
    cpuinfo = _read("/proc/cpuinfo")
    names = re.findall(r"model name\s*:\s*(.+)", cpuinfo)
    flags = set(re.findall(r"^(?:flags|Features)\s*:\s*(.+)", cpuinfo, re.M)[:1] or [""]).pop()
    return {
        "cpu": names[0] if names else platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "isa": [flag for flag in _ISA if flag in flags.split()],
        "load": round(os.getloadavg()[0], 1),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version for name in _PACKAGES if (version := _version(name))},
    }


def product(device: torch.device, dtype: torch.dtype) -> Load:
    """A product of matrices, large enough to take a millisecond or more."""
    side = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return Load(lambda: a @ b, 2.0 * side**3)


def traffic(device: torch.device) -> Load:
    """A pass over a buffer beyond every cache, which takes a millisecond or more."""
    size = 1 << 27
    if device.type == "cuda":
        size = min(1 << 33, torch.cuda.get_device_properties(device).total_memory // 4)
    buffer = torch.ones(size // 4, device=device)
    return Load(lambda: buffer.sum(), float(buffer.nbytes))


class AddedMemory:
    """How much more memory is in use, at most, than when this was made.

    Of the process; on a GPU what PyTorch allocates there, which is not what TensorRT needs.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._is_known = True
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self._before = torch.cuda.memory_allocated(device)
            return
        return_freed_memory()
        try:
            Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is in use
        except OSError:  # another system, or not allowed
            self._is_known = False
        self._before = _status("VmRSS")

    def peak_bytes(self) -> float:
        """NaN where the system does not tell."""
        if not self._is_known:
            return math.nan
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) - self._before
        return max(0, _status("VmHWM") - self._before)


def _status(field: str) -> int:
    found = re.search(rf"^{field}:\s*(\d+) kB", _read("/proc/self/status"), re.M)
    return 1024 * int(found[1]) if found else 0


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:  # another system
        return ""


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None

"""What runs a network: the stages of `FlowPokeModel` for one image at a time, on one device.

`MotionPredictor` uses a network only through an `Engine`. `TorchEngine` is the reference; faster
ones (`fpt_ros.engines`) are held against it before they are used.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

from .config import ModelConfig
from .errors import InvalidInputError
from .mixture import GaussianMixture, displacement_mixture
from .model import FlowPokeModel

Precision = Literal["fp32", "bf16", "fp16", "int8"]


class Engine(ABC):
    """Runs the stages of one network. Create it, use it and drop it on one thread.

    Contexts are opaque: hand them back to the engine that made them. Tensors that go in are on
    `device` in `dtype`, those that come out as well. C counts candidates, P pokes, Q query points;
    any of P, Q may be 0. Positions and flows are in the unit square, as in `FlowPokeModel`.

    Attributes:
        name: what runs the network, as in the parameter `engine`.
        key: names the built engine: weights, precision, runtime, device.
        precision: of the body; harmonics of flows and rotary code are float32 in all.
        parity_error: largest absolute difference from the reference in fp32 in mean displacements
            on fixed inputs, in the unit square; 0 for the reference, NaN if not measured.
    """

    name: str
    key: str
    precision: Precision
    parity_error: float

    def __init__(self, config: ModelConfig, device: torch.device, dtype: torch.dtype) -> None:
        self.config = config
        self.device = device
        self.dtype = dtype

    @abstractmethod
    def encode(self, image: Tensor) -> Any:
        """Take in an image uint8 [1, 3, input_px, input_px]: all that depends on it alone."""

    @abstractmethod
    def condition(
        self,
        image: Any,
        poke_xy: Tensor,
        poke_flow: Tensor,
        poke_counts: Tensor | None = None,
        camera_static: Tensor | None = None,
    ) -> Any:
        """Take in C candidate sets of pokes [1, C, P, 2], of which poke_counts [1, C] are used.

        camera_static: bool [1], by default true.
        """

    @abstractmethod
    def query(self, image: Any, pokes: Any, points: Tensor) -> Tensor:
        """Raw mixture parameters [1, C, Q, 6K] at points [1, C, Q, 2]; see `mixture`."""

    @abstractmethod
    def extend(
        self,
        image: Any,
        pokes: Any,
        poke_xy: Tensor,
        poke_flow: Tensor,
        points: Tensor | None = None,
    ) -> tuple[Any, Tensor]:
        """Append pokes [1, C, P, 2], used by all candidates, and query points in the same pass."""

    def reserve(self, pokes: Any, n: int) -> Any:
        """The same context, which is about to be extended by n pokes, each time the latest one.

        An engine may make room for them, so that they need not be copied each time.
        """
        return pokes

    def mixture(self, raw: Tensor, dtype: torch.dtype = torch.float64) -> GaussianMixture:
        """Distributions of the displacement, in units of the unit square, from raw [..., 6K]."""
        return displacement_mixture(raw, self.config.head, dtype)


class TorchEngine(Engine):
    """PyTorch as it is: the reference, and what serves while nothing faster is ready."""

    name = "torch"
    parity_error = 0.0

    def __init__(
        self,
        model: FlowPokeModel,
        device: torch.device | str = "cpu",
        precision: Literal["fp32", "bf16"] = "fp32",
    ) -> None:
        """Move a network to a device and switch it to evaluation.

        Args:
            model: in float32 or float64: positions and harmonics do not survive less.
            device: where to run it.
            precision: bf16 runs the network under autocast; fp32 is no TF32 in convolutions.

        Raises:
            InvalidInputError: the parameters have another dtype, or there is no such device.
        """
        dtype = next(model.parameters()).dtype
        if dtype not in (torch.float32, torch.float64):
            raise InvalidInputError(
                f"the network must be float32 or float64, got {dtype}; for bfloat16 use the "
                "precision bf16"
            )
        try:
            super().__init__(model.config, torch.device(device), dtype)
            self.model = model.to(self.device).eval()
        except (RuntimeError, AssertionError) as error:  # the latter: PyTorch without CUDA
            reason = str(error).partition("\n")[0]
            raise InvalidInputError(f"device {str(device)!r} cannot be used: {reason}") from error
        self.precision = precision
        self.key = f"torch {torch.__version__} {self.device} {precision}"

    def _numbers(self) -> AbstractContextManager[object]:
        if self.precision == "fp32":
            return exact_convolutions()
        return torch.autocast(self.device.type, torch.bfloat16)

    @torch.inference_mode()
    def encode(self, image: Tensor) -> Any:
        """See `FlowPokeModel.encode`."""
        with self._numbers():
            return self.model.encode(image.to(self.dtype) / 127.5 - 1)

    @torch.inference_mode()
    def condition(
        self,
        image: Any,
        poke_xy: Tensor,
        poke_flow: Tensor,
        poke_counts: Tensor | None = None,
        camera_static: Tensor | None = None,
    ) -> Any:
        """See `FlowPokeModel.condition`."""
        with self._numbers():
            return self.model.condition(image, poke_xy, poke_flow, poke_counts, camera_static)

    @torch.inference_mode()
    def query(self, image: Any, pokes: Any, points: Tensor) -> Tensor:
        """See `FlowPokeModel.query`."""
        with self._numbers():
            return self.model.query(image, pokes, points)

    @torch.inference_mode()
    def extend(
        self,
        image: Any,
        pokes: Any,
        poke_xy: Tensor,
        poke_flow: Tensor,
        points: Tensor | None = None,
    ) -> tuple[Any, Tensor]:
        """See `FlowPokeModel.extend`."""
        with self._numbers():
            return self.model.extend(image, pokes, poke_xy, poke_flow, points)

    @torch.inference_mode()
    def reserve(self, pokes: Any, n: int) -> Any:
        """See `FlowPokeModel.reserve`."""
        return self.model.reserve(pokes, n)


@contextmanager
def exact_convolutions() -> Iterator[None]:
    """Compute convolutions in float32 on a GPU, too: PyTorch lets cuDNN round to TF32 by default.

    Matrix products are in float32 by default. The setting is the process's, not the thread's: two
    threads that compute at once may leave each other the other setting, and while it holds,
    `torch.backends.cudnn.allow_tf32` cannot be read.
    """
    cudnn = torch.backends.cudnn
    # Before PyTorch 2.9 there is one switch for all of cuDNN, and afterwards it is deprecated.
    settings, name, exact = (
        (cudnn.conv, "fp32_precision", "ieee")
        if hasattr(cudnn, "conv")
        else (cudnn, "allow_tf32", False)
    )
    before = getattr(settings, name)
    setattr(settings, name, exact)
    try:
        yield
    finally:
        setattr(settings, name, before)

"""Eight bits for the image encoder under OpenVINO: post-training quantisation.

The encoder alone: with the default weights and this calibration it answers as closely in eight bits
as in bfloat16, while body and head in eight bits fail the gate by far.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

import torch

from ..core.errors import EngineError
from .parity import picture

if TYPE_CHECKING:
    import openvino as ov

_PICTURES = 32


def quantized(encoder: ov.Model, side_px: int) -> ov.Model:
    """The graph of the stage `encode`, calibrated on synthetic pictures.

    Raises EngineError if NNCF is not there.
    """
    nncf = _nncf()
    generator = torch.Generator().manual_seed(2)  # not those that the gate looks at
    pictures = [{"image": picture(side_px, generator).numpy()} for _ in range(_PICTURES)]
    return nncf.quantize(
        encoder,
        nncf.Dataset(pictures),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(pictures),
    )


def _nncf() -> Any:
    os.environ.setdefault("NNCF_CI", "1")  # else it reports its use to its makers
    try:
        import nncf
    except ImportError as error:
        raise EngineError(f"NNCF cannot be imported ({error}): pip install nncf") from error
    nncf.set_log_level(logging.ERROR)
    return nncf

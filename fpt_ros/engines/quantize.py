"""Eight bits under OpenVINO, for the image encoder and for the layers of the poke transformer.

The ranges of the encoder are found beforehand, on pictures. Layers with fixed ranges fail the gate
by far: what a token holds depends on its place and its poke. There the weights have eight bits, and
OpenVINO quantises the tokens as they come, each by its own largest number. Token embedding,
attention and head keep more bits.
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
_IN_A_LAYER = ".layers."  # as tracing names modules


def with_small_layers(body: ov.Model) -> ov.Model:
    """The graph of the stage `advance` or `alone`, the weights of its layers in eight bits.

    Each row has a scale of its own. Raises EngineError if NNCF is not there, or the graph does not
    name its layers.
    """
    nncf = _nncf()
    from openvino.passes import ConstantFolding, Manager

    folding = Manager()
    folding.register_pass(ConstantFolding())  # `alone` takes a slice of a matrix
    folding.run_passes(body)
    operations = [each for each in body.get_ops() if each.get_type_name() != "Constant"]
    names = [each.get_friendly_name() for each in operations]
    others = [name for name in names if _IN_A_LAYER not in name]
    if len(others) == len(names):  # NNCF would leave all as it is, and the engine be no faster
        raise EngineError(f"no operation of the graph has {_IN_A_LAYER!r} in its name")
    return nncf.compress_weights(
        body,
        mode=nncf.CompressWeightsMode.INT8_SYM,
        ignored_scope=nncf.IgnoredScope(names=others, validate=False),
    )


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
    # Not by its own function: it also silences handlers that others have put on that logger.
    logging.getLogger("nncf").setLevel(logging.ERROR)
    return nncf

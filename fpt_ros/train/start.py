"""What a training run starts from: weights, a device, and how to compute on it."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import torch

from fpt_ros.core.checkpoint import load_checkpoint
from fpt_ros.core.config import FPT_BASE, FPT_SMALL, ModelConfig, PyramidEncoderConfig
from fpt_ros.core.encoder import VitBlock, resize_positions
from fpt_ros.core.errors import InvalidInputError
from fpt_ros.core.model import FlowPokeModel
from fpt_ros.train.config import TrainConfig

_PRESETS = {"small": FPT_SMALL, "base": FPT_BASE}
# Of a pyramid encoder.
_POSITION = "image_embedder.position"  # one for each of its tokens
_BLOCKS = "image_embedder.blocks"


def initial_model(config: TrainConfig) -> tuple[FlowPokeModel, dict[str, Any] | None]:
    """The model, and if its weights are from a file, which one and how that was trained.

    Raises InvalidInputError or CheckpointError if there is no such network, or no such weights.
    """
    if config.model in _PRESETS:
        shape = _PRESETS[config.model]
    else:
        path = Path(config.model)
        if not path.is_file():
            raise InvalidInputError(
                f"--model {config.model} is neither one of {sorted(_PRESETS)} nor a JSON file"
            )
        shape = ModelConfig.from_json(path.read_text())
    if config.init is None:
        return FlowPokeModel(shape), None
    checkpoint = load_checkpoint(config.init)
    if not _grows_into(checkpoint.config, shape):
        raise InvalidInputError(
            f"{config.init} holds another network than --model {config.model}; "
            "to go on with its own, write that into a file and pass it as --model: python -c "
            '"from fpt_ros.core.checkpoint import load_checkpoint; '
            f"print(load_checkpoint('{config.init}').config.to_json())\" > model.json"
        )
    weights = dict(checkpoint.state_dict)
    encoder = shape.encoder
    if isinstance(encoder, PyramidEncoderConfig):
        weights[_POSITION] = resize_positions(weights[_POSITION], encoder.side)
        for index in range(checkpoint.config.encoder.depth, encoder.depth):
            block = VitBlock(encoder.width, encoder.heads, encoder.mlp_ratio)
            block.start_as_identity()
            weights |= block.state_dict(prefix=f"{_BLOCKS}.{index}.")
    model = dataclasses.replace(checkpoint, config=shape, state_dict=weights).build_model()
    return model, {"sha256": checkpoint.sha256, "training": checkpoint.training}


def _grows_into(saved: ModelConfig, shape: ModelConfig) -> bool:
    """Tell whether weights of one network are a start for another.

    What deviations are at least and how large pictures are may be another; a pyramid encoder may
    have more blocks.
    """
    encoder = dataclasses.replace(shape.encoder, input_px=saved.encoder.input_px)
    if isinstance(encoder, PyramidEncoderConfig):
        encoder = dataclasses.replace(encoder, depth=min(saved.encoder.depth, encoder.depth))
    head = dataclasses.replace(shape.head, min_std=saved.head.min_std)
    return saved == dataclasses.replace(shape, encoder=encoder, head=head)


def choose_device(name: str) -> torch.device:
    """The device of that name; `auto`: this process's GPU if there is one.

    Raises InvalidInputError if there is no such device.
    """
    if name == "auto":
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # the latter: PyTorch without CUDA
        reason = str(error).partition("\n")[0]
        raise InvalidInputError(f"device {name!r} cannot be used: {reason}") from error


def wants_bf16(precision: str, device: torch.device) -> bool:
    """Tell whether to compute in bf16; with `auto`, where it is fast."""
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()

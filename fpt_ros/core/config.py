"""Shapes of a network, as plain validated dataclasses with a JSON round trip, and the presets."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from .errors import InvalidInputError

# Larger values than these are mistakes or attacks, not networks; they bound what a checkpoint
# file can make us build. Every preset is far below.
_MAX_SIZE = 16384
_MAX_DEPTH = 256
_MAX_TOKENS = 128**2
_MAX_ACTIVATION = 2**27  # numbers in one map of the encoder

# The smallest deviation along a Cholesky axis that the published head can express, in its units.
MIN_HEAD_STD = 1e-4


def _check_sizes(config: object, **limits: int) -> None:
    """Raise InvalidInputError unless every named integer field lies in [1, limit]."""
    for name, limit in limits.items():
        value = getattr(config, name)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= limit:
            raise InvalidInputError(
                f"{type(config).__name__}.{name} must be an integer in [1, {limit}], got {value!r}"
            )


def _check_memory(input_px: int, channels_at_stride: dict[int, int]) -> None:
    """Raise InvalidInputError if one image would take an absurd amount of memory."""
    for stride, channels in channels_at_stride.items():
        cells = (input_px // stride) ** 2
        if cells * channels > _MAX_ACTIVATION:
            raise InvalidInputError(
                f"input_px {input_px} with {channels} channels at stride {stride} is too large: "
                f"{cells * channels} numbers in a map, at most {_MAX_ACTIVATION}"
            )
    tokens = (input_px // max(channels_at_stride)) ** 2
    if tokens > _MAX_TOKENS:
        raise InvalidInputError(f"input_px {input_px} makes {tokens} tokens, at most {_MAX_TOKENS}")


def _check_positive(config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise InvalidInputError(f"{type(config).__name__}.{name} must be a number")
        if not (math.isfinite(value) and value > 0):
            raise InvalidInputError(
                f"{type(config).__name__}.{name} must be finite and positive, got {value!r}"
            )


def _check_flags(config: object, *names: str) -> None:
    for name in names:
        if not isinstance(value := getattr(config, name), bool):
            raise InvalidInputError(
                f"{type(config).__name__}.{name} must be true or false, got {value!r}"
            )


@dataclass(frozen=True)
class DinoEncoderConfig:
    """A DINOv2 vision transformer with register tokens, the published encoder."""

    input_px: int = 448
    width: int = 768
    depth: int = 12
    heads: int = 12
    patch_px: int = 14
    registers: int = 4
    position_grid: int = 37  # side of the learned position embedding, resized to the patch grid

    def __post_init__(self) -> None:
        """Validate; raises InvalidInputError."""
        _check_sizes(
            self,
            input_px=_MAX_SIZE,
            width=_MAX_SIZE,
            depth=_MAX_DEPTH,
            heads=_MAX_SIZE,
            patch_px=_MAX_SIZE,
            registers=64,
            position_grid=256,
        )
        if self.input_px % self.patch_px:
            raise InvalidInputError(
                f"input_px {self.input_px} must be a multiple of patch_px {self.patch_px}"
            )
        if self.width % self.heads:
            raise InvalidInputError(f"width {self.width} must be a multiple of heads {self.heads}")
        _check_memory(self.input_px, {1: 3, self.patch_px: self.width})


@dataclass(frozen=True)
class PyramidEncoderConfig:
    """Convolutions down to stride 16, attention there, and back up to maps of stride 8 and 4."""

    input_px: int = 256
    width_at_2: int = 24  # channels at stride 2, and so on
    width_at_4: int = 48
    width_at_8: int = 96
    width: int = 192  # of the tokens at stride 16
    depth: int = 8
    heads: int = 3
    mlp_ratio: int = 3

    def __post_init__(self) -> None:
        """Validate; raises InvalidInputError."""
        _check_sizes(
            self,
            input_px=4096,
            width_at_2=_MAX_SIZE,
            width_at_4=_MAX_SIZE,
            width_at_8=_MAX_SIZE,
            width=_MAX_SIZE,
            depth=_MAX_DEPTH,
            heads=_MAX_SIZE,
            mlp_ratio=16,
        )
        if self.input_px % 16:
            raise InvalidInputError(f"input_px {self.input_px} must be a multiple of 16")
        if self.width % self.heads:
            raise InvalidInputError(f"width {self.width} must be a multiple of heads {self.heads}")
        channels = {2: self.width_at_2, 4: self.width_at_4, 8: self.width_at_8, 16: self.width}
        _check_memory(self.input_px, channels)

    @property
    def side(self) -> int:
        """Tokens per side of the picture."""
        return self.input_px // 16


@dataclass(frozen=True)
class TransformerConfig:
    """The poke transformer."""

    width: int = 768
    depth: int = 12
    d_head: int = 64
    ff_expand: int = 3
    project_cross: bool = False  # apply `cross_out`, which the published network only stores

    def __post_init__(self) -> None:
        """Validate; raises InvalidInputError."""
        _check_sizes(self, width=_MAX_SIZE, depth=_MAX_DEPTH, d_head=1024, ff_expand=16)
        _check_flags(self, "project_cross")
        if self.width % self.d_head:
            raise InvalidInputError(
                f"width {self.width} must be a multiple of d_head {self.d_head}"
            )
        if self.d_head % 4:
            raise InvalidInputError(f"d_head {self.d_head} must be a multiple of 4")

    @property
    def heads(self) -> int:
        """Number of attention heads."""
        return self.width // self.d_head


@dataclass(frozen=True)
class HeadConfig:
    """The mixture head and the units it works in."""

    n_components: int = 4
    flow_scale: float = 1.0  # flows are multiplied by this inside the network, to be about 1
    min_std: float = MIN_HEAD_STD  # about the least deviation on a Cholesky axis, unit square
    poke_relative: bool = False  # means are a turned and scaled copy of a poke's flow + an offset
    stays: bool = False  # the first component is pinned: mean 0, deviation about min_std

    def __post_init__(self) -> None:
        """Validate; raises InvalidInputError."""
        _check_sizes(self, n_components=64)
        _check_positive(self, "flow_scale", "min_std")
        least = self.min_std * self.flow_scale
        if least < MIN_HEAD_STD or (self.stays and least <= MIN_HEAD_STD):
            raise InvalidInputError(
                f"min_std {self.min_std} must be at least {MIN_HEAD_STD} / flow_scale"
                f"{', and more' * self.stays}"
            )
        _check_flags(self, "poke_relative", "stays")


@dataclass(frozen=True)
class ModelConfig:
    """Everything needed to build a network; the defaults are the published FPT-Base."""

    encoder: DinoEncoderConfig | PyramidEncoderConfig = field(default_factory=DinoEncoderConfig)
    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    head: HeadConfig = field(default_factory=HeadConfig)

    def to_json(self) -> str:
        """One line of JSON that `from_json` turns back into an equal config."""
        kind = _ENCODER_KINDS[type(self.encoder)]
        return json.dumps(
            {
                "encoder": {"kind": kind, **asdict(self.encoder)},
                "transformer": asdict(self.transformer),
                "head": asdict(self.head),
            }
        )

    @classmethod
    def from_json(cls, text: str) -> ModelConfig:
        """Parse `to_json` output. Raises InvalidInputError on anything else."""
        try:
            tree = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InvalidInputError(f"model config is not JSON: {error}") from error
        sections = _section(tree, "config", {"encoder", "transformer", "head"})
        encoder = dict(_section(sections.get("encoder"), "encoder", None))
        kind = encoder.pop("kind", None)
        for encoder_type, name in _ENCODER_KINDS.items():
            if kind == name:
                return cls(
                    _build(encoder_type, encoder, "encoder"),
                    _build(TransformerConfig, sections.get("transformer"), "transformer"),
                    _build(HeadConfig, sections.get("head"), "head"),
                )
        raise InvalidInputError(
            f"unknown encoder kind {kind!r}; known: {sorted(_ENCODER_KINDS.values())}"
        )


_ENCODER_KINDS: dict[type, str] = {
    DinoEncoderConfig: "dino",
    PyramidEncoderConfig: "pyramid",
}


def _section(value: Any, name: str, known: set[str] | None) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidInputError(f"model config: {name} must be an object, got {value!r:.80}")
    if known is not None and (unknown := sorted(set(value) - known)):
        raise InvalidInputError(f"model config: {name} has unknown fields {unknown[:5]}")
    return value


def _build(config_type: type, value: Any, name: str) -> Any:
    return config_type(**_section(value, name, {f.name for f in fields(config_type)}))


FPT_BASE = ModelConfig()
FPT_SMALL = ModelConfig(
    PyramidEncoderConfig(),
    TransformerConfig(width=160, depth=4, d_head=32, ff_expand=2, project_cross=True),
    HeadConfig(n_components=4, flow_scale=10.0, min_std=2e-3, poke_relative=True, stays=True),
)

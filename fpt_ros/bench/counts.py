"""How much arithmetic and memory traffic each stage takes at least, from the shapes alone.

Floating-point operations are those of matrix products, convolutions and attention; all else is
small. Numbers moved are weights and cached keys, each once: what no engine gets around. One image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fpt_ros.core.config import DinoEncoderConfig, ModelConfig, PyramidEncoderConfig
from fpt_ros.core.transformer import PokeReference


@dataclass
class Count:
    """What a stage takes; multiply `numbers` by the bytes of a number."""

    flops: int = 0
    numbers: int = 0

    def add(self, other: Count) -> None:
        """Take in what happens after it."""
        self.flops += other.flops
        self.numbers += other.numbers

    def linear(self, rows: int, inputs: int, outputs: int) -> None:
        """Multiply rows by a matrix; a convolution is that for each of its output pixels."""
        self.flops += 2 * rows * inputs * outputs
        self.numbers += inputs * outputs if rows else 0

    def attention(self, queries: int, keys: int, width: int) -> None:
        """Weigh keys and mix values; `numbers` counts them where they are cached."""
        self.flops += 4 * queries * keys * width


def image_tokens(config: ModelConfig) -> int:
    """Number S of tokens that queries attend to."""
    encoder = config.encoder
    stride = encoder.patch_px if isinstance(encoder, DinoEncoderConfig) else 16
    return (encoder.input_px // stride) ** 2


def encode(config: ModelConfig) -> Count:
    """`FlowPokeModel.encode` with its gains and keys, and the keys written out."""
    count = Count(numbers=3 * config.encoder.input_px**2)
    if isinstance(config.encoder, DinoEncoderConfig):
        _dino(count, config.encoder)
    else:
        _pyramid(count, config.encoder)
    body, tokens = config.transformer, image_tokens(config)
    for _ in range(body.depth):
        count.linear(tokens, config.encoder.width, 2 * body.width)
        for _ in range(3):  # norms, for a moving and for a static camera
            count.linear(2, body.width, body.width)
    count.numbers += 2 * body.depth * tokens * body.width
    return count


def _dino(count: Count, encoder: DinoEncoderConfig) -> None:
    patches = (encoder.input_px // encoder.patch_px) ** 2
    count.linear(patches, 3 * encoder.patch_px**2, encoder.width)
    for _ in range(encoder.depth):
        _vit_block(count, 1 + encoder.registers + patches, encoder.width, 4)


def _pyramid(count: Count, encoder: PyramidEncoderConfig) -> None:
    side = encoder.input_px

    def convolution(stride: int, taps: int, inputs: int, outputs: int) -> None:
        count.linear((side // stride) ** 2, taps * inputs, outputs)

    at_2, at_4, at_8 = encoder.width_at_2, encoder.width_at_4, encoder.width_at_8
    for stride, inputs, outputs in ((2, 3, at_2), (4, at_2, at_4), (8, at_4, at_8)):
        convolution(stride, 9, inputs, outputs)
    convolution(16, 9, at_8, encoder.width)
    for _ in range(encoder.depth):
        _vit_block(count, (side // 16) ** 2, encoder.width, encoder.mlp_ratio)
    for stride, inputs, outputs in ((8, encoder.width, at_8), (4, at_8, at_4)):
        convolution(2 * stride, 1, inputs, outputs)
        convolution(stride, 9, outputs, outputs)


def _vit_block(count: Count, tokens: int, width: int, mlp_ratio: int) -> None:
    count.linear(tokens, width, 3 * width)
    count.attention(tokens, tokens, width)
    count.linear(tokens, width, width)
    count.linear(tokens, width, mlp_ratio * width)
    count.linear(tokens, mlp_ratio * width, width)


def advance(config: ModelConfig, candidates: int, past: int, pokes: int, points: int) -> Count:
    """Append pokes to past ones and query points, in each candidate.

    This is `condition` without past and points, `query` without new pokes, and `extend`.
    """
    body, encoder, head = config.transformer, config.encoder, config.head
    width, tokens, seen = body.width, candidates * (pokes + points), past + pokes
    channels = (
        encoder.width
        if isinstance(encoder, DinoEncoderConfig)
        else encoder.width_at_8 + encoder.width_at_4
    )
    count = Count()
    count.linear(candidates * pokes + 1, 2 * width, width)  # what is known of flows, and of none
    count.linear(tokens, channels, width)
    for _ in range(4):  # two residual blocks
        count.linear(tokens, width, width)
    for _ in range(body.depth):
        count.linear(tokens, width, 3 * width if seen else width)
        count.attention(tokens, seen, width)
        count.linear(tokens, width, width)
        count.linear(tokens, width, width)
        count.attention(tokens, image_tokens(config), width)
        if body.project_cross:
            count.linear(tokens, width, width)
        count.linear(tokens, width, 2 * body.ff_expand * width)
        count.linear(tokens, body.ff_expand * width, width)
    answers = candidates * points
    outputs = (8 if head.poke_relative else 6) * head.n_components
    for size in (width, width, outputs):
        count.linear(answers, width, size)
    if head.poke_relative:
        count.linear(candidates * pokes, width, PokeReference.D_KEY)
        count.linear(answers, width, PokeReference.D_KEY)
        count.flops += 2 * answers * seen * (PokeReference.D_KEY + 2)
    of_image, of_pokes = image_tokens(config), candidates * seen
    count.numbers += 2 * body.depth * (of_image + of_pokes) * width + answers * outputs
    return count


def joint(config: ModelConfig, pokes: int, steps: Sequence[slice]) -> Count:
    """A joint sample of points that are drawn in these steps, given pokes."""
    count = advance(config, 1, 0, pokes, 0)
    drawn = 0  # and taken in as pokes
    for step in steps:
        count.add(advance(config, 1, pokes + drawn, step.start - drawn, step.stop - step.start))
        drawn = step.start
    return count

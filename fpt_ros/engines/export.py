"""The stages of a network as graphs that engines compile; four serve every question.

    encode   image                             -> maps, image keys and values of every layer
    embed    maps, new pokes, points           -> tokens and rotary tables of both
    advance  tokens, image keys, earlier pokes -> raw head, keys and values of all pokes
    alone    tokens of points, image keys      -> raw head where there is no poke at all

`advance` is the pass behind `condition`, `query` and `extend`. Compilers dislike empty tensors, so
every axis has at least one entry and what is not needed is padding: a poke that is not present
influences nothing, which also says "no earlier pokes" and "no new pokes". `alone` is what remains
of the pass without pokes: a token that attends only to itself needs no queries and keys, and one
matrix in place of those for values and outputs.
`embed` is apart from the rest because the sines and cosines in it, of large angles, need float32
where everything else may run in bfloat16.

All tensors belong to one image (B = 1). Flows are in units of the square, those of earlier pokes in
the units of the head. The gains of the norms are constants in the graphs: two per norm, for a
moving and for a static camera.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn

from ..core.config import ModelConfig
from ..core.encoder import DinoEncoder, resize_positions, sample_maps
from ..core.model import FlowPokeModel, PokeContext
from ..core.transformer import ImageKeys, Layer, PokeKeys, PokeReference, Rotation

if TYPE_CHECKING:
    import onnx_ir

Stage = Literal["encode", "embed", "advance", "alone"]

# Axes whose size changes from call to call: candidates, earlier pokes, new pokes, points; and the
# sizes to trace with, which differ so that no two axes are taken for one.
C, R, P, Q = "candidates", "earlier", "pokes", "points"
TRACED = {C: 2, R: 3, P: 4, Q: 5}

_KV = ("key", "value")
_OPSET = 20


class TensorSpec(NamedTuple):
    """An input of a graph; an axis that changes is named instead of numbered."""

    shape: tuple[int | str, ...]
    dtype: torch.dtype = torch.float32

    def zeros(self, sizes: dict[str, int]) -> Tensor:
        """A tensor of zeros, with these sizes of the axes that change."""
        shape = [size if isinstance(size, int) else sizes[size] for size in self.shape]
        return torch.zeros(shape, dtype=self.dtype)


@dataclass(frozen=True)
class StageGraph:
    """One stage as a module that takes the inputs by position and returns a tuple of outputs."""

    stage: Stage
    module: nn.Module
    inputs: dict[str, TensorSpec]
    outputs: tuple[str, ...]

    def program(self) -> torch.export.ExportedProgram:
        """Trace the module; what is named in the shapes stays dynamic."""
        example = tuple(spec.zeros(TRACED) for spec in self.inputs.values())
        axes = {axis: torch.export.Dim(axis) for axis in TRACED}
        dynamic = tuple(
            {index: axes[size] for index, size in enumerate(spec.shape) if isinstance(size, str)}
            for spec in self.inputs.values()
        )
        with torch.no_grad():
            return torch.export.export(self.module, example, dynamic_shapes=(dynamic,))

    def onnx(self) -> onnx_ir.Model:
        """The graph in ONNX, float32."""
        with (
            warnings.catch_warnings(),
            # With sizes that change, keeping this cache takes longer than what it saves.
            torch._dynamo.config.patch(fake_tensor_cache_enabled=False),
        ):
            warnings.simplefilter("ignore", FutureWarning)  # PyTorch about itself
            program = torch.onnx.export(
                self.program(),
                dynamo=True,
                opset_version=_OPSET,
                input_names=list(self.inputs),
                output_names=list(self.outputs),
                verbose=False,
            )
        return cast("torch.onnx.ONNXProgram", program).model


def kv_names(config: ModelConfig) -> list[str]:
    """What follows image_, earlier_ and all_ in the names of keys and values, by layer."""
    return [f"{kind}_{layer:02}" for layer in range(config.transformer.depth) for kind in _KV]


def stage_graphs(model: FlowPokeModel) -> list[StageGraph]:
    """The graphs of a float32 network on the CPU, in evaluation mode; in the order of use."""
    transformer = model.config.transformer
    width, heads, d_head = transformer.width, transformer.heads, transformer.d_head
    names = kv_names(model.config)
    side = model.image_embedder.input_px

    encode = _Encode(model)
    with torch.no_grad():
        features = encode(torch.zeros(1, 3, side, side, dtype=torch.uint8))
    maps = {
        f"map_{index}": TensorSpec(tuple(each.shape))
        for index, each in enumerate(features[: -len(names)])
    }
    image_keys = {f"image_{name}": TensorSpec(tuple(features[-1].shape)) for name in names}
    encode_graph = StageGraph(
        "encode",
        encode,
        {"image": TensorSpec((1, 3, side, side), torch.uint8)},
        (*maps, *image_keys),
    )

    def tokens(kind: str, n: str) -> dict[str, TensorSpec]:
        table = TensorSpec((1, C, n, heads, d_head // 2))
        return {
            f"{kind}_tokens": TensorSpec((1, C, n, width)),
            f"{kind}_cos": table,
            f"{kind}_sin": table,
        }

    poke_tokens, point_tokens = tokens("poke", P), tokens("point", Q)
    pokes = {"poke_xy": TensorSpec((1, C, P, 2)), "poke_flow": TensorSpec((1, C, P, 2))}
    points = {"points": TensorSpec((1, C, Q, 2))}
    embed_graph = StageGraph(
        "embed", _Embed(model), {**maps, **pokes, **points}, (*poke_tokens, *point_tokens)
    )

    camera = {"camera_static": TensorSpec((1,), torch.bool)}
    earlier_keys = {f"earlier_{name}": TensorSpec((1, C, heads, R, d_head)) for name in names}
    advance_inputs = {
        **camera,
        **image_keys,
        **poke_tokens,
        **point_tokens,
        "poke_present": TensorSpec((1, C, P), torch.bool),
        "earlier_present": TensorSpec((1, C, R), torch.bool),
        **earlier_keys,
    }
    advance_outputs = ["raw", *(f"all_{name}" for name in names)]
    if model.poke_reference is not None:
        advance_inputs |= {
            **pokes,
            **points,
            "earlier_xy": TensorSpec((1, C, R, 2)),
            "earlier_flow": TensorSpec((1, C, R, 2)),
            "earlier_reference": TensorSpec((1, C, R, PokeReference.D_KEY)),
        }
        advance_outputs.append("all_reference")
    advance_graph = StageGraph(
        "advance", _Advance(model, list(advance_inputs)), advance_inputs, tuple(advance_outputs)
    )
    alone_inputs = {**camera, **image_keys, **point_tokens}
    alone_graph = StageGraph("alone", _Alone(model, list(alone_inputs)), alone_inputs, ("raw",))
    return [encode_graph, embed_graph, advance_graph, alone_graph]


class _Encode(nn.Module):
    def __init__(self, model: FlowPokeModel) -> None:
        super().__init__()
        encoder = model.image_embedder
        self.encoder = _resized(encoder) if isinstance(encoder, DinoEncoder) else encoder
        self.transformer = model.transformer

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        features = self.encoder(inputs[0].float() / 127.5 - 1)
        keys = self.transformer.image_keys(features.tokens, features.token_xy)
        return (*features.maps, *(each for layer in keys for each in layer))


def _resized(encoder: DinoEncoder) -> DinoEncoder:
    """The same encoder, on the same weights, with its position embedding resized beforehand.

    TensorRT has no resizing with antialiasing, and it need not be done for every image.
    """
    network = copy.copy(encoder.model)
    with torch.no_grad():
        first, patches = network.pos_embed.split([1, network.pos_embed.shape[1] - 1], dim=1)
        positions = torch.cat([first, resize_positions(patches, network.grid)], dim=1)
    parameters = {"pos_embed": nn.Parameter(positions, requires_grad=False)}
    network._parameters = {**network._parameters, **parameters}
    return _with(encoder, model=network)


def _for_tokens_alone(layer: Layer) -> Layer:
    """The same layer, on the same weights, for tokens that attend to nothing but themselves.

    Two linear maps in a row are all that is left of their self attention: they are made one.
    """
    values, out = layer.self_qkv.weight.chunk(3)[-1], layer.self_out.weight
    both = nn.utils.skip_init(nn.Linear, *values.shape, bias=False)
    both.weight = nn.Parameter((out @ values).detach(), requires_grad=False)
    return _with(layer, self_qkv=both, self_out=nn.Identity())


_M = TypeVar("_M", bound=nn.Module)


def _with(module: _M, **parts: nn.Module) -> _M:
    """A copy with other parts; the rest is shared."""
    result = copy.copy(module)
    result._modules = {**module._modules, **parts}
    return result


class _Embed(nn.Module):
    def __init__(self, model: FlowPokeModel) -> None:
        super().__init__()
        self.align_corners = model.image_embedder.align_corners
        self.flow_scale = model.config.head.flow_scale
        self.input_mlp = model.input_mlp
        self.rotary = model.transformer.pos_emb

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        *maps, poke_xy, poke_flow, points = inputs
        xy = torch.cat([poke_xy, points], dim=2)
        samples = sample_maps(tuple(maps), xy, self.align_corners)
        tokens = self.input_mlp(samples, poke_flow * self.flow_scale)
        n_pokes = poke_xy.shape[2]
        return (
            tokens[:, :, :n_pokes],
            *self._tables(poke_xy),
            tokens[:, :, n_pokes:],
            *self._tables(points),
        )

    def _tables(self, xy: Tensor) -> Iterable[Tensor]:
        """Cosines and sines; the first halves of the tables repeat the second, but for a sign."""
        return (each.chunk(2, dim=-1)[1] for each in self.rotary(xy))


class _Body(nn.Module):
    """What `_Advance` and `_Alone` share: constants, and the names of the inputs."""

    gains: Tensor

    def __init__(self, model: FlowPokeModel, names: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.layers = model.transformer.layers
        self.names = names
        with torch.no_grad():
            gains = model.transformer.gains(model.cond_emb.weight).permute(2, 0, 1, 3)
        self.register_buffer("gains", gains.contiguous())  # [camera, depth, 3, width]

    def named(self, inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
        return dict(zip(self.names, inputs, strict=True))

    def raw(self, tokens: Tensor) -> Tensor:
        with torch.autocast(tokens.device.type, enabled=False):
            return self.model.out_mlp(tokens)

    def through_layers(
        self,
        get: dict[str, Tensor],
        kinds: tuple[str, ...],
        past: Sequence[PokeKeys],
        visible: Tensor,
    ) -> tuple[Tensor, list[PokeKeys]]:
        """Take the tokens of these kinds, pokes first, through all layers."""
        x, cos, sin = (
            torch.cat([get[f"{kind}_{part}"] for kind in kinds], dim=2)
            for part in ("tokens", "cos", "sin")
        )
        n_pokes = get["poke_tokens"].shape[2] if "poke" in kinds else 0
        rotation = Rotation(torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1))
        gains = self.gains.index_select(0, get["camera_static"].long())[0]
        keys = []
        for index, layer in enumerate(self.layers):
            image = ImageKeys(get[f"image_key_{index:02}"], get[f"image_value_{index:02}"])
            x, poke_keys = cast("Layer", layer)(
                x, n_pokes, past[index], visible, image, gains[index], rotation
            )
            keys.append(poke_keys)
        return x, keys


class _Advance(_Body):
    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        get = self.named(inputs)
        past = [
            PokeKeys(get[f"earlier_key_{index:02}"], get[f"earlier_value_{index:02}"])
            for index in range(len(self.layers))
        ]
        n_pokes, n_points = get["poke_tokens"].shape[2], get["point_tokens"].shape[2]
        present = torch.cat([get["earlier_present"], get["poke_present"]], dim=2)
        # Pokes see the pokes before them, points see all.
        index = torch.arange(present.shape[2], device=present.device)
        n_earlier = get["earlier_present"].shape[2]
        before = torch.cat([index[n_earlier:], index.new_full((n_points,), present.shape[2])])
        visible = present[:, :, None] & (index < before[:, None])
        x, keys = self.through_layers(get, ("poke", "point"), past, visible)
        raw, *reference = self._head(get, x[:, :, :n_pokes], x[:, :, n_pokes:], present)
        return (raw, *(each for layer in keys for each in layer), *reference)

    def _head(
        self, get: dict[str, Tensor], pokes: Tensor, points: Tensor, present: Tensor
    ) -> tuple[Tensor, ...]:
        """Raw head and, if it is relative to pokes, the reference keys of all pokes."""
        model = self.model
        if model.poke_reference is None:
            return (self.raw(points),)
        new_keys = model.poke_reference.keys_of(pokes)
        flow = get["poke_flow"] * model.config.head.flow_scale
        context = PokeContext(
            (),
            present,
            self.gains,
            torch.cat([get["earlier_xy"], get["poke_xy"]], dim=2),
            torch.cat([get["earlier_flow"], flow], dim=2),
            torch.cat([get["earlier_reference"], new_keys], dim=2),
        )
        raw = model.head(points, get["points"], context, present[:, :, None])
        return raw, context.reference_keys


class _Alone(_Body):
    def __init__(self, model: FlowPokeModel, names: Sequence[str]) -> None:
        super().__init__(model, names)
        self.layers = nn.ModuleList(
            _for_tokens_alone(cast("Layer", layer)) for layer in model.transformer.layers
        )

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        get = self.named(inputs)
        nothing = get["point_tokens"].new_empty(1, 1, 1, 0, 1)
        past = [PokeKeys(nothing, nothing)] * len(self.layers)
        x, _ = self.through_layers(get, ("point",), past, nothing)
        # Without pokes a head that is relative to them has nothing to add.
        return (self.raw(x)[..., : 6 * self.model.config.head.n_components],)

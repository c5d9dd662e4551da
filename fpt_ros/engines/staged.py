"""What engines on a GPU share: the stages of `Engine` in terms of the four graphs of `export`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..core.config import ModelConfig
from ..core.engine import Engine
from ..core.model import used_pokes
from ..core.transformer import PokeReference
from .export import Stage, kv_names

# Takes the inputs of a graph by name; the next call may overwrite what it returns.
RunStage = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]


@dataclass(frozen=True)
class _Image:
    maps: dict[str, Tensor]
    keys: dict[str, Tensor]  # as `advance` and `alone` take them


@dataclass
class _Pokes:
    """Pokes of C candidates, the keys of which are computed with the first question about them.

    A pass reads all weights whatever it is asked, so that pokes and points in one pass take little
    longer than either alone.
    """

    camera_static: Tensor  # bool [1]
    present: Tensor  # bool [1, C, N]
    xy: Tensor  # [1, C, N, 2]
    flow: Tensor  # [1, C, N, 2]
    keys: dict[str, Tensor] = field(default_factory=dict)  # of the first pokes, maybe of none
    n_known: int = 0


class StagedEngine(Engine):
    """Answers by running graphs, on sizes rounded up: each size is prepared once and kept.

    Not usable before its maker has set what `Engine` says of itself.
    """

    def __init__(
        self,
        config: ModelConfig,
        device: torch.device,
        run: Mapping[Stage, RunStage],
        key_dtype: torch.dtype = torch.float32,
    ) -> None:
        """Use functions that run the graphs; keys and values go in and out as key_dtype.

        Maps, image keys and image values always have the same addresses.
        """
        super().__init__(config, device, torch.float32)
        self._run = run
        self._names = kv_names(config)
        self._key_dtype = key_dtype
        self._resident = _Image({}, {})  # what graphs read, at addresses that never change
        self._shown: _Image | None = None  # what is in there

    @torch.inference_mode()
    def encode(self, image: Tensor) -> _Image:
        """See `Engine.encode`."""
        outputs = {
            name: each.clone() for name, each in self._run["encode"]({"image": image}).items()
        }
        maps = {name: each for name, each in outputs.items() if name.startswith("map_")}
        return _Image(maps, {name: outputs[name] for name in outputs if name not in maps})

    @torch.inference_mode()
    def condition(
        self,
        image: _Image,
        poke_xy: Tensor,
        poke_flow: Tensor,
        poke_counts: Tensor | None = None,
        camera_static: Tensor | None = None,
    ) -> _Pokes:
        """See `Engine.condition`; the work is done by the next question."""
        if camera_static is None:
            camera_static = torch.ones(1, dtype=torch.bool, device=self.device)
        return _Pokes(camera_static, *used_pokes(poke_xy, poke_flow, poke_counts))

    @torch.inference_mode()
    def query(self, image: _Image, pokes: _Pokes, points: Tensor) -> Tensor:
        """See `Engine.query`."""
        if points.shape[2] == 0:
            return points.new_empty(*points.shape[:3], 6 * self.config.head.n_components)
        image = self._show(image)
        if pokes.xy.shape[2] == 0:
            return self._alone(image, pokes.camera_static, points)
        return self._advance(image, pokes, points)

    @torch.inference_mode()
    def extend(
        self,
        image: _Image,
        pokes: _Pokes,
        poke_xy: Tensor,
        poke_flow: Tensor,
        points: Tensor | None = None,
    ) -> tuple[_Pokes, Tensor]:
        """See `Engine.extend`."""
        extended = _Pokes(
            pokes.camera_static,
            torch.cat([pokes.present, pokes.present.new_ones(poke_xy.shape[:3])], dim=2),
            torch.cat([pokes.xy, poke_xy], dim=2),
            torch.cat([pokes.flow, poke_flow], dim=2),
            pokes.keys,
            pokes.n_known,
        )
        points = poke_xy[:, :, :0] if points is None else points
        return extended, self.query(image, extended, points)

    def _show(self, image: _Image) -> _Image:
        """Copy an image to where the graphs expect it, unless it is there already."""
        if image is not self._shown:
            for each, target in (
                (image.maps, self._resident.maps),
                (image.keys, self._resident.keys),
            ):
                for name, tensor in each.items():
                    if name in target:
                        target[name].copy_(tensor)
                    else:
                        target[name] = tensor.clone()
            self._shown = image
        return self._resident

    def _embed(self, image: _Image, xy: Tensor, flow: Tensor, points: Tensor) -> dict[str, Tensor]:
        inputs = {**image.maps, "poke_xy": xy, "poke_flow": flow, "points": points}
        return dict(self._run["embed"](inputs))

    def _alone(self, image: _Image, camera_static: Tensor, points: Tensor) -> Tensor:
        candidates, n_points = points.shape[1:3]
        points = _padded(points, 1, bucket(candidates))
        points = _padded(points, 2, bucket(n_points))
        nowhere = points.new_zeros(1, points.shape[1], 1, 2)
        tokens = self._embed(image, nowhere, nowhere, points)
        tokens = {name: each for name, each in tokens.items() if name.startswith("point_")}
        inputs = {"camera_static": camera_static, **image.keys, **tokens}
        return self._run["alone"](inputs)["raw"][:, :candidates, :n_points].clone()

    def _advance(self, image: _Image, pokes: _Pokes, points: Tensor) -> Tensor:
        """Run the pokes that have no keys yet, and at least one point; keep their keys."""
        candidates, n_points = points.shape[1:3]
        n_known, n_new = pokes.n_known, pokes.xy.shape[2] - pokes.n_known
        # Powers of two: pokes that are not there cost little, more sizes cost memory.
        c, r, p, q = bucket(candidates), _power(n_known), _power(n_new), bucket(n_points)

        def rows(each: Tensor, low: int, high: int, size: int) -> Tensor:
            return _padded(_padded(each[:, :, low:high], 1, c), 2, size)

        earlier = {
            name: rows(getattr(pokes, name), 0, n_known, r) for name in ("present", "xy", "flow")
        }
        new = {
            name: rows(getattr(pokes, name), n_known, n_known + n_new, p)
            for name in ("present", "xy", "flow")
        }
        points = rows(points, 0, n_points, q)
        inputs = {
            "camera_static": pokes.camera_static,
            **image.keys,
            **self._embed(image, new["xy"], new["flow"], points),
            "poke_present": new["present"],
            "earlier_present": earlier["present"],
            **self._earlier_keys(pokes, c, r),
        }
        if self.config.head.poke_relative:
            inputs |= {
                "poke_xy": new["xy"],
                "poke_flow": new["flow"],
                "points": points,
                "earlier_xy": earlier["xy"],
                "earlier_flow": earlier["flow"] * self.config.head.flow_scale,
            }
        outputs = self._run["advance"](inputs)
        raw = outputs["raw"][:, :candidates, :n_points].clone()
        if n_new:
            pokes.keys = {
                name: torch.cat(
                    [
                        each[:, :candidates].narrow(-2, low, n)
                        for low, n in ((0, n_known), (r, n_new))
                    ],
                    dim=-2,
                )
                for name, each in outputs.items()
                if name.startswith("all_")
            }
            pokes.n_known = n_known + n_new
        return raw

    def _earlier_keys(self, pokes: _Pokes, c: int, r: int) -> dict[str, Tensor]:
        heads, d_head = self.config.transformer.heads, self.config.transformer.d_head
        shapes: dict[str, tuple[int, ...]] = dict.fromkeys(self._names, (1, c, heads, r, d_head))
        if self.config.head.poke_relative:
            shapes["reference"] = (1, c, r, PokeReference.D_KEY)
        earlier = {}
        for name, shape in shapes.items():
            dtype = torch.float32 if name == "reference" else self._key_dtype
            if pokes.n_known:
                known = pokes.keys[f"all_{name}"]
                earlier[f"earlier_{name}"] = _padded(_padded(known, 1, c), -2, r)
            else:
                earlier[f"earlier_{name}"] = torch.zeros(shape, dtype=dtype, device=self.device)
        return earlier


def bucket(n: int) -> int:
    """The size that n is rounded up to: less than a quarter more."""
    step = 1 << max(0, (n - 1).bit_length() - 3)
    return -(-n // step) * step


def _power(n: int) -> int:
    return 1 << max(0, n - 1).bit_length()


def _padded(x: Tensor, axis: int, size: int) -> Tensor:
    """Zeros (for bool: false) behind the entries along an axis."""
    missing = size - x.shape[axis]
    if missing == 0:
        return x
    shape = list(x.shape)
    shape[axis] = missing
    return torch.cat([x, x.new_zeros(shape)], dim=axis)

"""`MotionPredictor`: an image and pokes in, motion distributions out, all in source pixels.

The image is encoded once, by `set_image` or `encode_image`; every later question about it reuses
the result, and so does the unconditional answer on a grid, once it has been asked for.

    predictor = MotionPredictor.from_checkpoint("weights.safetensors")
    predictor.set_image(rgb)
    motion = predictor.predict([[320, 240, 40, 0]], [[320, 240], [400, 200]])
    motion.mixture.mean()  # [2, 2] px

Pixels: x right, y down, continuous, the centre of the first pixel is (0.5, 0.5). Displacements are
pixels over the model's horizon. The model sees the centre square of the image; a point outside of
it is flagged and its mixture is NaN, and so are all points of a candidate with a poke out there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from .checkpoint import load_checkpoint
from .checks import checked_image, checked_points, checked_pokes, well_formed_pokes
from .engine import Engine, TorchEngine
from .errors import InvalidInputError, NoImageError
from .geometry import CropTransform
from .joint import sample_jointly
from .mixture import GaussianMixture
from .motion import DenseMaps, Motion, MovingParts, PointFlag
from .parts import (
    DEFAULT_CRITERION,
    PartCriterion,
    influence,
    motion_probability,
    moving_part_mask,
    moving_part_of_grid,
)
from .pixels import Pixels
from .refine import refine

# Tokens (candidates x points) that go through the network at once: about 450 MB with FPT-Base.
# Larger batches are not faster on a CPU.
_TOKENS = 4096
# Attending to this many pokes takes about as much memory as the rest of a token.
_POKES_PER_TOKEN = 256
# Tokens whose keys and values are held at once in joint sampling: 74 kB each in FPT-Base.
_JOINT_TOKENS = 8192


@dataclass(frozen=True, eq=False)
class EncodedFrame:
    """An image after the encoder. Any number of questions may be asked about it, in any order."""

    transform: CropTransform
    context: Any  # of the engine that encoded it
    # Answers on grids, by pokes (as bytes), grid size and static camera: all unconditional ones,
    # which every score needs, and the latest other one, which all maps for the same pokes share.
    grids: dict[tuple[bytes, int, bool], Motion] = field(default_factory=dict)


class MotionPredictor:
    """Answers what moves where if something is poked.

    Not thread-safe: use one predictor per thread, or one thread for the predictor.
    """

    def __init__(
        self,
        engine: Engine,
        horizon_s: float = 0.0,
        model_id: str = "",
        between_chunks: Callable[[], object] = lambda: None,
    ) -> None:
        """Wrap a network.

        Args:
            engine: what runs it, and where.
            horizon_s: seconds that a displacement takes; 0 means unknown.
            model_id: name of the weights, for logs and messages.
            between_chunks: called before each piece of a long computation; raise from it to
                abandon the computation.
        """
        self.engine = engine
        self.horizon_s = horizon_s
        self.model_id = model_id
        self.between_chunks = between_chunks
        self._frame: EncodedFrame | None = None

    @classmethod
    def from_checkpoint(
        cls, path: str | Path, device: torch.device | str = "cpu"
    ) -> MotionPredictor:
        """Load weights in our format or the official one.

        Raises CheckpointError, or InvalidInputError for a device that is not there.
        """
        checkpoint = load_checkpoint(path)
        return cls(
            TorchEngine(checkpoint.build_model(), device),
            horizon_s=checkpoint.horizon_s,
            model_id=checkpoint.sha256[:12],
        )

    @torch.inference_mode()
    def encode_image(self, rgb: NDArray[np.uint8] | Pixels) -> EncodedFrame:
        """Encode an image of any size, of which the centre square is seen.

        Args:
            rgb: uint8 [H, W, 3] of any strides; or `Pixels`, which say what their bytes mean.

        Raises InvalidInputError on another dtype or shape.
        """
        image = checked_image(rgb)
        height_px, width_px = image.data.shape[:2]
        transform = CropTransform(width_px, height_px, self.engine.config.encoder.input_px)
        pixels = transform.crop_and_resize(image, self.engine.device)
        return EncodedFrame(transform, self.engine.encode(pixels[None]))

    def set_image(self, rgb: NDArray[np.uint8] | Pixels) -> None:
        """Encode an image as `encode_image` does; questions without a frame are about this one."""
        self._frame = self.encode_image(rgb)

    @torch.inference_mode()
    def predict(
        self,
        pokes: ArrayLike,
        queries: ArrayLike,
        camera_static: bool = True,
        frame: EncodedFrame | None = None,
    ) -> Motion:
        """Where the queried points go if all pokes happen together.

        Args:
            pokes: [P, 4] x, y, dx, dy in px, in the order in which they matter; empty asks what
                happens of itself. A poke must start where the model sees it.
            queries: [N, 2] px, N >= 1.
            camera_static: whether the camera stands still meanwhile.
            frame: the image; default: that of `set_image`.

        Returns:
            A Motion with batch [N].

        Raises:
            InvalidInputError: an argument is malformed; the text names it, and the index.
            NoImageError: there is no image yet.
        """
        frame = self._or_current(frame)
        poke_set = checked_pokes(pokes, frame.transform)
        points = checked_points(queries)
        mixture, flags = self._answer(frame, [poke_set], points, camera_static)
        return Motion(points, mixture[0], flags[0], frame.transform, self.horizon_s)

    @torch.inference_mode()
    def predict_candidates(
        self,
        candidates: Sequence[ArrayLike],
        queries: ArrayLike,
        camera_static: bool = True,
        frame: EncodedFrame | None = None,
    ) -> Motion:
        """What `predict` says to each of C alternative sets of pokes [P_i, 4], in one batch.

        Returns a Motion with batch [C, N]. Raises as `predict` does; but where there is a choice,
        candidates with a poke where the model does not see are flagged, and the others answered.
        """
        frame = self._or_current(frame)
        if len(candidates) == 0:
            raise InvalidInputError("candidates must hold at least one set of pokes")
        check = well_formed_pokes if len(candidates) > 1 else checked_pokes
        poke_sets = [
            check(pokes, frame.transform, f"candidates[{index}]")
            for index, pokes in enumerate(candidates)
        ]
        points = checked_points(queries)
        mixture, flags = self._answer(frame, poke_sets, points, camera_static)
        return Motion(points, mixture, flags, frame.transform, self.horizon_s)

    def predict_grid(
        self,
        pokes: ArrayLike,
        n: int,
        camera_static: bool = True,
        frame: EncodedFrame | None = None,
    ) -> Motion:
        """`predict` at the n x n cell centres of what the model sees, row by row: batch [n * n].

        The latest answer is kept with the frame, and so is that without pokes.
        """
        frame = self._or_current(frame)
        rows = checked_pokes(pokes, frame.transform)
        key = (rows.tobytes(), n, bool(camera_static))
        if key not in frame.grids:
            motion = self.predict(rows, frame.transform.grid(n), camera_static, frame)
            if len(rows):
                for old in [old for old in frame.grids if old[0]]:
                    del frame.grids[old]
            frame.grids[key] = motion
        return frame.grids[key]

    def unconditional_grid(
        self, n: int, camera_static: bool = True, frame: EncodedFrame | None = None
    ) -> Motion:
        """What happens of itself at the n x n grid; computed once per frame."""
        return self.predict_grid([], n, camera_static, frame)

    @torch.inference_mode()
    def sample_jointly(
        self,
        pokes: ArrayLike,
        queries: ArrayLike,
        n_samples: int,
        generator: torch.Generator | None = None,
        camera_static: bool = True,
        frame: EncodedFrame | None = None,
        points_per_step: int = 1,
    ) -> NDArray[np.float32]:
        """Displacements that fit together: [n_samples, N, 2] px, NaN for points not seen.

        `predict` tells of each point alone. Here the points are visited in random order, another
        one in each sample; each is sampled given the pokes and all points before it. With
        points_per_step above 1, up to so many points that are far apart are sampled at once:
        much faster, and nearly the same. Reproducible with a seeded CPU generator. Raises as
        `predict` does.
        """
        frame = self._or_current(frame)
        poke_set = checked_pokes(pokes, frame.transform)
        points = checked_points(queries)
        for name, value in (("n_samples", n_samples), ("points_per_step", points_per_step)):
            if not isinstance(value, int | np.integer) or value < 1:
                raise InvalidInputError(f"{name} must be an integer from 1 on, got {value!r}")
        seen = frame.transform.contains(points)
        unit = self._tensor(frame.transform.to_unit(points[seen]))
        poke_xy, poke_flow = self._poke_batch(frame, [poke_set])[:2]
        result = np.full((n_samples, len(points), 2), np.nan, np.float32)
        step = max(1, min(_TOKENS, _JOINT_TOKENS // max(1, len(poke_set) + len(unit))))
        for low in range(0, n_samples, step):
            flow = sample_jointly(
                self.engine,
                frame.context,
                poke_xy[0, 0],
                poke_flow[0, 0],
                unit,
                min(step, n_samples - low),
                self._flag(camera_static),
                generator,
                self.between_chunks,
                points_per_step,
            )
            flow_px = frame.transform.displacement_to_source(flow.float().cpu().numpy())
            result[low : low + step, seen] = flow_px
        return result

    def influence(
        self,
        pokes: ArrayLike,
        n: int,
        camera_static: bool = True,
        frame: EncodedFrame | None = None,
    ) -> NDArray[np.float32]:
        """How much the pokes change what is expected of each grid point: [n, n] nats.

        The KL divergence of the answer with all pokes from the one without. Raises as `predict`.
        """
        motion = self.predict_grid(pokes, n, camera_static, frame)
        without = self.unconditional_grid(n, camera_static, frame)
        return influence(motion.on_device, without.on_device).reshape(n, n)

    def moving_parts(
        self,
        pokes: ArrayLike,
        n: int,
        criterion: PartCriterion = DEFAULT_CRITERION,
        per_poke: bool = False,
        camera_static: bool = True,
        frame: EncodedFrame | None = None,
    ) -> MovingParts:
        """What moves with the pokes: what they influence, and what is likely to move.

        The n x n grids of influence and probability are enlarged to the image before they are held
        against the criterion. With per_poke, each poke is taken alone, and there is one mask and
        one score for each. Raises as `predict`.
        """
        frame = self._or_current(frame)
        rows = checked_pokes(pokes, frame.transform)
        transform = frame.transform
        if not per_poke:
            motion = self.predict_grid(rows, n, camera_static, frame)
        elif len(rows):
            each_alone = list(rows[:, None])
            points = transform.grid(n)
            motion = self.predict_candidates(each_alone, points, camera_static, frame)
        else:
            nothing = np.zeros((0, n, n), np.float32)
            mask = moving_part_mask(nothing, nothing, transform, criterion)
            return MovingParts(mask, transform.paste(nothing, fill=np.nan))
        without = self.unconditional_grid(n, camera_static, frame)
        score = influence(motion.on_device, without.on_device)
        score = score.reshape(*score.shape[:-1], n, n)
        return MovingParts(
            moving_part_of_grid(score, motion.on_device, transform, criterion),
            transform.paste(score, fill=np.nan),
        )

    def uncertainty(
        self,
        pokes: ArrayLike,
        n: int,
        camera_static: bool = True,
        frame: EncodedFrame | None = None,
    ) -> NDArray[np.float32]:
        """Standard deviation of the displacement, [H, W] px; NaN where the model does not see.

        The square root of the trace of the covariance of the whole mixture, on an n x n grid
        enlarged to the image. Raises as `predict`.
        """
        motion = self.predict_grid(pokes, n, camera_static, frame)
        return motion.transform.paste(motion.on_device.std().reshape(n, n), fill=np.nan)

    def dense_maps(
        self,
        pokes: ArrayLike,
        n: int,
        tolerance_px: float,
        criterion: PartCriterion = DEFAULT_CRITERION,
        camera_static: bool = True,
        frame: EncodedFrame | None = None,
    ) -> DenseMaps:
        """What `uncertainty` and `moving_parts` tell, from a grid that is refined where it matters.

        The spacing of the n x n grid is halved, down to one or two pixels of what the network
        sees, where interpolated displacements or deviations would be off by more than tolerance_px
        (about; 0 does not refine at all), where the border of the moving part runs, and around the
        pokes. Raises as `predict`, and InvalidInputError if the tolerance is negative or NaN.
        """
        if not tolerance_px >= 0:
            raise InvalidInputError(f"tolerance_px must not be negative, got {tolerance_px}")
        frame = self._or_current(frame)
        transform = frame.transform
        rows = checked_pokes(pokes, transform)

        def channels(motion: Motion, without: Motion) -> NDArray[np.float32]:
            mixture = motion.on_device
            moments = torch.stack([*mixture.mean().unbind(-1), mixture.std()])
            score = influence(mixture, without.on_device)
            probability = motion_probability(mixture, transform)
            return np.concatenate([moments.float().cpu().numpy(), [score, probability]])

        def answer(points_unit: NDArray[np.float32]) -> NDArray[np.float32]:
            points = transform.to_source(points_unit)
            poked = self.predict(rows, points, camera_static, frame)
            return channels(poked, self.predict([], points, camera_static, frame))

        on_grid = self.predict_grid(rows, n, camera_static, frame)
        coarse = channels(on_grid, self.unconditional_grid(n, camera_static, frame))
        doublings = int(math.log2(max(1, transform.input_px / n))) if tolerance_px else 0
        lattice = refine(
            coarse.reshape(-1, n, n),
            answer,
            np.array([tolerance_px] * 3 + [math.inf] * 2, np.float32),
            np.array([math.nan] * 3 + list(astuple(criterion)), np.float32),
            doublings,
            transform.to_unit(rows[:, :2]),
        )
        maps = lattice.resample(transform.roi[2])
        x, y, deviation, score, _ = transform.paste(maps, fill=np.nan)
        return DenseMaps(
            np.stack([x, y], axis=-1),
            deviation,
            MovingParts(moving_part_mask(maps[3], maps[4], transform, criterion), score),
            int(lattice.known.sum()),
        )

    # ---- from checked arguments to the network ------------------------------------------------

    def _or_current(self, frame: EncodedFrame | None) -> EncodedFrame:
        frame = frame or self._frame
        if frame is None:
            raise NoImageError(
                "there is no image to predict on: call set_image(rgb) first, or pass frame="
            )
        return frame

    def _tensor(self, values: NDArray[np.float32]) -> Tensor:
        return torch.from_numpy(values).to(self.engine.device, self.engine.dtype)

    def _flag(self, camera_static: bool) -> Tensor:
        return torch.tensor([bool(camera_static)], device=self.engine.device)

    def _poke_batch(
        self, frame: EncodedFrame, poke_sets: Sequence[NDArray[np.float32]]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Positions and flows [1, C, P, 2] in the unit square, padded, and counts [1, C]."""
        counts = [len(pokes) for pokes in poke_sets]
        padded = np.zeros((1, len(poke_sets), max(counts), 4), np.float32)
        for row, pokes in zip(padded[0], poke_sets, strict=True):
            row[: len(pokes), :2] = frame.transform.to_unit(pokes[:, :2])
            row[: len(pokes), 2:] = frame.transform.displacement_to_unit(pokes[:, 2:])
        both = self._tensor(padded)
        return both[..., :2], both[..., 2:], torch.tensor([counts], device=self.engine.device)

    def _answer(
        self,
        frame: EncodedFrame,
        poke_sets: Sequence[NDArray[np.float32]],
        points_px: NDArray[np.float32],
        camera_static: bool,
    ) -> tuple[GaussianMixture, NDArray[np.uint8]]:
        """Mixtures in px and flags, batch [C, N], in pieces that bound the memory."""
        transform = frame.transform
        valid = np.array([transform.contains(pokes[:, :2]).all() for pokes in poke_sets])
        seen = transform.contains(points_px)
        points = self._tensor(transform.to_unit(points_px[seen]))
        outputs = 6 * self.engine.config.head.n_components
        raw = points.new_full((len(poke_sets), len(points_px), outputs), torch.nan)
        columns = torch.from_numpy(np.flatnonzero(seen)).to(raw.device)
        rows = torch.from_numpy(np.flatnonzero(valid)).to(raw.device)[:, None]
        poke_sets = [pokes for pokes, is_valid in zip(poke_sets, valid, strict=True) if is_valid]
        for group in _groups(poke_sets):
            poke_xy, poke_flow, counts = self._poke_batch(frame, poke_sets[group])
            self.between_chunks()
            flag = self._flag(camera_static)
            n_candidates, n_pokes = poke_xy.shape[1:3]
            step = max(1, _TOKENS // _tokens(n_candidates, n_pokes))
            all_points = points.expand(1, n_candidates, -1, -1)
            same = all(len(pokes) == n_pokes for pokes in poke_sets[group])
            if same and len(points) <= step:
                # Pokes and points in one pass: a small question costs the reading of the weights.
                nothing = poke_xy[:, :, :0]
                none = self.engine.condition(frame.context, nothing, nothing, None, flag)
                answer = self.engine.extend(frame.context, none, poke_xy, poke_flow, all_points)[1]
                raw[rows[group], columns] = answer[0].to(raw)
                continue
            pokes = self.engine.condition(frame.context, poke_xy, poke_flow, counts, flag)
            for low in range(0, len(points), step):
                self.between_chunks()
                answer = self.engine.query(frame.context, pokes, all_points[:, :, low : low + step])
                raw[rows[group], columns[low : low + step]] = answer[0].to(raw)
        finite = raw.isfinite().all(-1)
        raw = raw.where(finite[..., None], torch.nan)
        asked = seen & valid[:, None]
        flags = np.where(asked & ~finite.cpu().numpy(), PointFlag.NONFINITE, 0)
        flags |= np.where(valid, 0, PointFlag.CONTACT_OUTSIDE_ROI)[:, None]
        flags |= np.where(seen, 0, PointFlag.OUTSIDE_ROI)
        flags |= np.where(transform.in_image(points_px), 0, PointFlag.OUTSIDE_IMAGE)
        scale = transform.displacement_to_source(torch.eye(2, dtype=torch.float64))
        return self.engine.mixture(raw).affine(scale), flags.astype(np.uint8)


def _groups(poke_sets: Sequence[NDArray[np.float32]]) -> Iterator[slice]:
    """Slices of candidates whose pokes go through the network at once."""
    longest = max((len(pokes) for pokes in poke_sets), default=0)
    step = max(1, _TOKENS // _tokens(max(1, longest), longest))
    for low in range(0, len(poke_sets), step):
        yield slice(low, low + step)


def _tokens(n: int, n_pokes: int) -> int:
    """The memory that n tokens take which attend to n_pokes pokes, in tokens that see none."""
    return n * (1 + n_pokes // _POKES_PER_TOKEN)

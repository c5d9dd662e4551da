"""Learned trackers, for those who have their code and weights; nothing is downloaded.

The packages (`cotracker` from facebookresearch/co-tracker, `tapnet` from google-deepmind/tapnet)
are installed by the user, and the weights are named by the user; mind their licences. The calls
follow the published interfaces. They are tested against stand-ins with these interfaces only, not
with the real networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fpt_ros.core.errors import InvalidInputError
from fpt_ros.data.tracks import Tracks

_POINTS_AT_ONCE = 1024
_TAPNEXT_SIDE_PX = 256


class CoTracker3:
    """CoTracker3 (offline) with weights such as `scaled_offline.pth`.

    Raises:
        InvalidInputError: the weights cannot be read without executing pickle, or do not fit.
    """

    name = "CoTracker3"

    def __init__(self, weights: Path, device: str = "cpu") -> None:
        from cotracker.predictor import CoTrackerPredictor

        self._device = torch.device(device)
        self._predictor: Any = CoTrackerPredictor(checkpoint=None, offline=True, window_len=60)
        try:
            state = torch.load(weights, map_location="cpu", weights_only=True)
            self._predictor.model.load_state_dict(state.get("model", state))
        except Exception as error:  # of many types, depending on what is wrong with the file
            raise InvalidInputError(f"{weights} is no checkpoint of CoTracker3: {error}") from error
        self._predictor = self._predictor.to(self._device).eval()

    @torch.no_grad()
    def track(
        self, video: NDArray[np.uint8], points_px: NDArray[np.float32], later: Sequence[int]
    ) -> Tracks:
        """See PointTracker."""
        clip = torch.from_numpy(video).to(self._device).permute(0, 3, 1, 2)[None].float()
        xy, visible = [], []
        for some in np.array_split(points_px, -(-len(points_px) // _POINTS_AT_ONCE)):
            # (frame, x, y) with the centre of the first pixel at (0, 0).
            query = np.column_stack([np.zeros(len(some)), some - 0.5]).astype(np.float32)
            tracks, seen = self._predictor(clip, queries=torch.from_numpy(query)[None].to(clip))
            xy.append(_frames(tracks, later) + np.float32(0.5))
            visible.append(_frames(seen, later).reshape(len(later), len(some)) > 0)
        return Tracks(np.concatenate(xy, axis=1), np.concatenate(visible, axis=1))


class TapNext:
    """TAPNext with weights such as `bootstapnext_ckpt.npz`; sees pictures of 256 px.

    Raises:
        InvalidInputError: the weights cannot be read, or do not fit.
    """

    name = "TAPNext"

    def __init__(self, weights: Path, device: str = "cpu") -> None:
        from tapnet.tapnext.tapnext_torch import TAPNext
        from tapnet.tapnext.tapnext_torch_utils import restore_model_from_jax_checkpoint

        model = TAPNext(image_size=(_TAPNEXT_SIDE_PX, _TAPNEXT_SIDE_PX))
        try:
            np.load(weights, allow_pickle=False).close()
            model = restore_model_from_jax_checkpoint(model, str(weights))
        except Exception as error:  # of many types, depending on what is wrong with the file
            raise InvalidInputError(f"{weights} is no checkpoint of TAPNext: {error}") from error
        self._device = torch.device(device)
        self._model: Any = model.to(self._device).eval()

    @torch.no_grad()
    def track(
        self, video: NDArray[np.uint8], points_px: NDArray[np.float32], later: Sequence[int]
    ) -> Tracks:
        """See PointTracker."""
        size = (_TAPNEXT_SIDE_PX, _TAPNEXT_SIDE_PX)
        scale = np.float32(_TAPNEXT_SIDE_PX / video.shape[1])
        small = np.stack([cv2.resize(f, size, interpolation=cv2.INTER_AREA) for f in video])
        clip = torch.from_numpy(small).to(self._device)[None].float() / 127.5 - 1
        xy, visible = [], []
        for some in np.array_split(points_px, -(-len(points_px) // _POINTS_AT_ONCE)):
            # (frame, y, x), continuous like ours; answers are (y, x).
            query = np.column_stack([np.zeros(len(some)), some[:, ::-1] * scale])
            queries = torch.from_numpy(query.astype(np.float32))[None].to(self._device)
            tracks, _, seen, _ = self._model(video=clip, query_points=queries)
            xy.append(_frames(tracks, later)[..., ::-1] / scale)
            visible.append(_frames(seen, later).reshape(len(later), len(some)) > 0)
        return Tracks(np.concatenate(xy, axis=1), np.concatenate(visible, axis=1))


def _frames(values: Tensor, later: Sequence[int]) -> NDArray[np.float32]:
    """The wanted frames of values [1, T, N, ...]."""
    return values[0, list(later)].float().cpu().numpy()

"""Tiny shards: a coloured square on noise that slides, turns, or stays; every number is known."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

GRID = 16


def members(rng: np.random.Generator, view: int, outcome: int, **changes) -> dict[str, bytes]:
    """One sample's files. `changes` replaces arrays of the npz or fields of the json."""
    scene = np.random.default_rng(view)
    image = scene.integers(60, 90, (64, 64, 3)).astype(np.uint8)
    row, column = scene.integers(2, 9, size=2)
    image[row * 4 : row * 4 + 20, column * 4 : column * 4 + 20] = (220, 60, 40)
    part = np.zeros((GRID, GRID), np.int16)
    part[row : row + 5, column : column + 5] = 1
    flow = np.zeros((2, GRID, GRID, 2), np.float16)
    flow[1][part > 0] = rng.uniform(-0.2, 0.2, 2)
    flow[0] = flow[1] / 2
    arrays = {"flow": flow, "part": part, "visible": np.ones((2, GRID, GRID), bool)}
    meta = {
        "family": "toy",
        "scene_seed": view,
        "view": 0,
        "outcome": outcome,
        "camera_static": True,
        "horizon_s": [0.5, 1.0],
    }
    meta.update({name: value for name, value in changes.items() if name in meta})
    arrays.update({name: changes[name] for name in changes if name in (*arrays, "valid")})
    npz = io.BytesIO()
    np.savez(npz, **arrays)
    _, jpg = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 98])
    return {"jpg": jpg.tobytes(), "npz": npz.getvalue(), "json": json.dumps(meta).encode()}


def write_shard(path: Path, samples: dict[str, dict[str, bytes]]) -> Path:
    """A tar of `{key: {extension: content}}`."""
    with tarfile.open(path, "w") as tar:
        for key, files in samples.items():
            for extension, content in files.items():
                info = tarfile.TarInfo(f"{key}.{extension}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


def write_world(folder: Path, n_views: int = 12, n_outcomes: int = 2, **changes) -> Path:
    """Train and val shards; `changes` as for `members`."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, first in (("train", 0), ("val", 1000)):
        rng = np.random.default_rng(first)
        views = range(first, first + n_views)
        samples = {
            f"{view:06d}_{outcome}": members(rng, view, outcome, **changes)
            for view in views
            for outcome in range(n_outcomes)
        }
        write_shard(folder / f"{split}-00000.tar", samples)
    return folder


@pytest.fixture(scope="session")
def toy() -> SimpleNamespace:
    return SimpleNamespace(
        GRID=GRID, members=members, write_shard=write_shard, write_world=write_world
    )


@pytest.fixture(scope="session")
def toy_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("toy") / "data")

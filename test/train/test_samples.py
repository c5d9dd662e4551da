"""Shards in, samples out; damaged ones are skipped and named."""

import io
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from fpt_ros.core.errors import InvalidInputError
from fpt_ros.data import samples
from fpt_ros.data.samples import (
    BadSampleError,
    Outcome,
    ShardIndex,
    ShardReader,
    cell_centres,
)
from fpt_ros.data.tarfiles import remove_stale


def test_reads_back_what_was_written(toy, tmp_path):
    files = toy.members(np.random.default_rng(1), view=3, outcome=0)
    toy.write_shard(tmp_path / "train-00000.tar", {"a.b": files})
    index = ShardIndex.scan(tmp_path, "train")
    assert index.horizon_s == 1.0
    assert not index.skipped
    (view,) = index.views
    motion = ShardReader().motion(view.outcomes[0], 0.005)
    truth = np.load(io.BytesIO(files["npz"]))
    np.testing.assert_array_equal(motion.flow, truth["flow"][-1].astype(np.float32))
    np.testing.assert_array_equal(motion.part, truth["part"])
    image = ShardReader().image(view.outcomes[0])
    assert image.shape == (64, 64, 3)
    row, column = np.argwhere(motion.part == 1)[0] * 4 + 8
    assert image[row, column, 0] > 180  # red first: RGB
    assert image[row, column, 2] < 90


def test_groups_outcomes_by_view(toy_data):
    index = ShardIndex.scan(toy_data, "train")
    assert len(index.views) == 12
    assert index.n_outcomes == 24
    assert all(len(view.outcomes) == 2 for view in index.views)
    assert len(index.take(5).views) == 5


def test_more_shards_than_files_that_may_be_open(toy, tmp_path):
    rng = np.random.default_rng(0)
    for number in range(90):
        files = {f"{number}": toy.members(rng, number, 0)}
        toy.write_shard(tmp_path / f"train-{number:05d}.tar", files)
    views = ShardIndex.scan(tmp_path, "train").views
    reader, fresh = ShardReader(), [ShardReader().image(view.outcomes[0]) for view in views]
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(2):
        for view, image in zip(views, fresh, strict=True):
            np.testing.assert_array_equal(reader.image(view.outcomes[0]), image)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 64


def test_truncated_shard_gives_what_is_whole(toy, tmp_path):
    rng = np.random.default_rng(0)
    samples = {f"{i}": toy.members(rng, i, 0) for i in range(6)}
    path = toy.write_shard(tmp_path / "train-00000.tar", samples)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    index = ShardIndex.scan(tmp_path, "train")
    assert 1 <= len(index.views) <= 3
    assert index.skipped["damaged shard"] == 1
    for view in index.views:
        ShardReader().motion(view.outcomes[0], 0.0)


def test_foreign_files_are_counted(toy, tmp_path):
    rng = np.random.default_rng(0)
    good = toy.members(rng, 0, 0)
    foreign = {**toy.members(rng, 1, 0), "json": b'{"caption": "a cat"}'}
    typed = {**toy.members(rng, 2, 0, horizon_s=[]), "jpg": b""}
    nested = {**toy.members(rng, 3, 0), "json": b"[" * 200_000}
    incomplete = {name: good[name] for name in ("jpg", "json")}
    toy.write_shard(
        tmp_path / "train-00000.tar",
        {"good": good, "foreign": foreign, "typed": typed, "deep": nested, "half": incomplete},
    )
    (tmp_path / "train-00001.tar").write_bytes(b"this is no tar" * 100)
    index = ShardIndex.scan(tmp_path, "train")
    assert len(index.views) == 1
    assert index.skipped["foreign or damaged json"] == 3
    assert index.skipped["incomplete sample"] == 1
    assert index.skipped["shard without samples"] == 1


def test_nothing_usable_says_what_to_do(tmp_path):
    with pytest.raises(InvalidInputError, match="fpt scenes"):
        ShardIndex.scan(tmp_path, "train")


def test_mixed_horizons_are_refused(toy, tmp_path):
    rng = np.random.default_rng(0)
    samples = {"a": toy.members(rng, 0, 0), "b": toy.members(rng, 1, 0, horizon_s=[0.5, 2.0])}
    toy.write_shard(tmp_path / "train-00000.tar", samples)
    with pytest.raises(InvalidInputError, match="mixes horizons"):
        ShardIndex.scan(tmp_path, "train")


@pytest.mark.parametrize(
    ("flow", "reason"),
    [
        (np.full((1, 16, 16, 2), np.nan, np.float16), "not finite"),
        (np.zeros((1, 16, 16, 2), np.float16), "nothing moves"),
        (np.ones((1, 8, 8, 2), np.float16), "do not fit"),
        (np.ones((16, 16), np.float16), "do not fit"),
    ],
)
def test_unusable_motion_is_named(toy, tmp_path, flow, reason):
    files = toy.members(np.random.default_rng(0), 0, 0, flow=flow)
    toy.write_shard(tmp_path / "train-00000.tar", {"odd": files})
    (view,) = ShardIndex.scan(tmp_path, "train").views
    with pytest.raises(BadSampleError, match=f"odd.*{reason}"):
        ShardReader().motion(view.outcomes[0], 0.005)


@pytest.mark.parametrize("jpg", [b"no picture", b""])
def test_damaged_members_are_named(toy, tmp_path, jpg):
    files = toy.members(np.random.default_rng(0), 0, 0)
    damaged = {**files, "npz": files["npz"][:100], "jpg": jpg}
    toy.write_shard(tmp_path / "train-00000.tar", {"odd": damaged})
    (view,) = ShardIndex.scan(tmp_path, "train").views
    with pytest.raises(BadSampleError, match="unreadable"):
        ShardReader().motion(view.outcomes[0], 0.005)
    with pytest.raises(BadSampleError, match=r"odd\.jpg: data is neither JPEG nor PNG"):
        ShardReader().image(view.outcomes[0])


def test_what_would_expand_to_too_much_is_a_bad_sample(toy, tmp_path, monkeypatch):
    """The arrays have 72 MiB together, the picture claims 65500 x 65500 px."""
    bomb = io.BytesIO()
    flow = np.zeros((1, 2048, 1024, 2), np.float32)
    np.savez_compressed(bomb, flow=flow, part=np.zeros((7, 1024, 1024)))
    files = toy.members(np.random.default_rng(0), 0, 0)
    size = files["jpg"].index(b"\xff\xc0") + 5
    huge = files["jpg"][:size] + struct.pack(">HH", 65500, 65500) + files["jpg"][size + 4 :]
    toy.write_shard(
        tmp_path / "train-0.tar", {"odd": {**files, "npz": bomb.getvalue(), "jpg": huge}}
    )
    assert (tmp_path / "train-0.tar").stat().st_size < 1 << 20
    (view,) = ShardIndex.scan(tmp_path, "train").views
    for forbidden in ("zipfile.ZipFile.open", "cv2.imdecode"):
        monkeypatch.setattr(forbidden, pytest.fail)
    with pytest.raises(BadSampleError, match=r"odd\.npz: .* claims 7\d{7} bytes"):
        ShardReader().motion(view.outcomes[0], 0.005)
    with pytest.raises(BadSampleError, match=r"odd\.jpg: data claims 65500 x 65500 px"):
        ShardReader().image(view.outcomes[0])


def test_pictures_that_are_not_square_are_a_bad_sample(toy, tmp_path):
    files = toy.members(np.random.default_rng(0), 0, 0)
    _, wide = cv2.imencode(".jpg", np.zeros((10, 20, 3), np.uint8))
    toy.write_shard(tmp_path / "train-0.tar", {"odd": {**files, "jpg": wide.tobytes()}})
    (view,) = ShardIndex.scan(tmp_path, "train").views
    with pytest.raises(BadSampleError, match=r"odd\.jpg: not a square image, but 20 x 10"):
        ShardReader().image(view.outcomes[0])


def test_any_damage_to_an_array_is_a_bad_sample(tmp_path):
    """One to three flipped bits anywhere, in arrays that are compressed and that are not."""
    rng = np.random.default_rng(0)
    shard, spans, content = tmp_path / "shard", [], b""
    arrays = {"flow": np.full((2, 16, 16, 2), 0.1), "part": np.eye(16, dtype=np.int16)}
    for case in range(400):
        file = io.BytesIO()
        (np.savez, np.savez_compressed)[case % 2](file, **arrays)
        damaged = bytearray(file.getvalue())
        for place in rng.integers(len(damaged), size=rng.integers(1, 4)):
            damaged[place] ^= 1 << rng.integers(8)
        spans.append((len(content), len(damaged)))
        content += damaged
    shard.write_bytes(content)
    reader = ShardReader()

    def fails(number, span):
        try:
            reader.motion(Outcome(shard, str(number), {"npz": span}, True), 0.005)
        except BadSampleError as error:
            return f"{shard}:{number}.npz" in str(error)
        return False

    assert sum(fails(*each) for each in enumerate(spans)) > 200


def test_arrays_without_cells_are_a_bad_sample(toy, tmp_path):
    nothing = {"flow": np.zeros((1, 0, 0, 2)), "part": np.zeros((0, 0), np.int16)}
    files = toy.members(np.random.default_rng(0), 0, 0, **nothing)
    toy.write_shard(tmp_path / "train-00000.tar", {"odd": files})
    (view,) = ShardIndex.scan(tmp_path, "train").views
    with pytest.raises(BadSampleError, match="do not fit"):
        ShardReader().motion(view.outcomes[0], 0.0)


def test_shards_that_cannot_be_opened_are_left_out(toy, tmp_path, caplog):
    files = toy.members(np.random.default_rng(0), 0, 0)
    gone = toy.write_shard(tmp_path / "train-00000.tar", {"good": files})
    (tmp_path / "train-00001.tar").mkdir()
    (tmp_path / "train-00002.tar").symlink_to(tmp_path / "nowhere")
    index = ShardIndex.scan(tmp_path, "train")
    assert index.skipped["unreadable shard"] == 2
    assert "train-00002.tar cannot be read" in caplog.text
    gone.unlink()
    outcome = index.views[0].outcomes[0]
    with pytest.raises(BadSampleError, match=r"good\.npz: unreadable"):
        ShardReader().motion(outcome, 0.0)
    with pytest.raises(BadSampleError, match=r"good\.jpg: unreadable"):
        ShardReader().image(outcome)


def test_only_what_a_killed_process_left_is_removed(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    stale = tmp_path / f".train-00000.tar.{ended.pid}"
    others = [
        tmp_path / f".{name}"
        for name in (
            "train-00000.tar.swp",
            f"train-00000.tar.{os.getpid()}",
            "train-00000.tar.20261121120000",
            f"val-00000.tar.{ended.pid}",
        )
    ]
    for path in (stale, *others):
        path.touch()
    remove_stale(tmp_path, "train")
    assert sorted(tmp_path.iterdir()) == sorted(others)


def test_motion_that_is_not_known_may_be_anything(toy, tmp_path):
    files = toy.members(np.random.default_rng(0), 0, 0)
    with np.load(io.BytesIO(files["npz"])) as arrays:
        flow = arrays["flow"]
    valid = np.ones((2, 16, 16), bool)
    valid[1, :8] = False
    unknown = np.where(valid[..., None], flow, np.float16(np.nan))
    files = toy.members(np.random.default_rng(0), 0, 0, flow=unknown, valid=valid)
    nothing = toy.members(np.random.default_rng(0), 1, 0, valid=np.zeros((2, 16, 16), bool))
    absent = toy.members(np.random.default_rng(0), 2, 0)
    samples = {"some": files, "none": nothing, "all": absent}
    toy.write_shard(tmp_path / "train-00000.tar", samples)
    some, none, all_ = (view.outcomes[0] for view in ShardIndex.scan(tmp_path, "train").views)
    motion = ShardReader().motion(some, 0.0)
    np.testing.assert_array_equal(motion.valid, valid[1])
    np.testing.assert_array_equal(motion.flow[8:], flow[1, 8:].astype(np.float32))
    assert not motion.flow[:8].any()
    assert ShardReader().motion(all_, 0.005).valid.all()
    with pytest.raises(BadSampleError, match="nothing moves"):
        ShardReader().motion(none, 0.005)


def test_cell_centres():
    np.testing.assert_allclose(
        cell_centres(2), [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]
    )


def test_data_knows_nothing_of_training_and_evaluation():
    files = list(Path(samples.__file__).parent.rglob("*.py"))
    assert len(files) > 20
    users = re.compile(r"^\s*(?:from|import) fpt_ros\.(?:train|evaluate)\b", re.MULTILINE)
    assert [file for file in files if users.search(file.read_text())] == []

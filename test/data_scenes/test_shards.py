"""Shards: same bytes per seed, resumable, splits apart, format as documented."""

import io
import json
import multiprocessing
import os
import re
import signal
import tarfile
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fpt_ros
from fpt_ros.cli.scenes import scenes
from fpt_ros.core.errors import InvalidInputError
from fpt_ros.data.scenes.families import FAMILIES, UNSEEN_FAMILIES
from fpt_ros.data.scenes.generate import SPLITS, SceneSettings, family_for, samples
from fpt_ros.data.shards import ShardPlan, scene_seed, write_shard, write_shards

TINY = SceneSettings(image_px=48, grid=16, views=2, outcomes=2)


def plan(folder, **changes):
    options = {"split": "train", "seed": 3, "samples_per_shard": 6, "settings": TINY}
    return ShardPlan(folder, **{**options, **changes})


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """Two shards written by one process without interruption."""
    folder = tmp_path_factory.mktemp("expected")
    assert sum(write_shards(plan(folder), 2)) == 12
    return contents(folder)


@pytest.mark.parametrize("family", [*FAMILIES, *UNSEEN_FAMILIES])
def test_every_family_gives_valid_samples(family):
    found = []
    for seed in range(20):
        found += list(samples(family, seed, TINY))
        if found:
            break
    sample = found[0]
    assert sample.image.shape == (48, 48, 3)
    assert sample.image.dtype == np.uint8
    assert 25 < sample.image.mean() < 240
    assert sample.flow.shape == (2, 16, 16, 2)
    assert np.isfinite(sample.flow).all()
    assert sample.visible.shape == (2, 16, 16)
    assert sample.part.shape == sample.depth.shape == (16, 16)
    assert sample.depth.min() > 0
    assert sample.about["moving_parts"]
    assert 0.004 < sample.about["moving_share"] < 0.6
    if sample.about["camera_static"]:
        assert np.abs(sample.flow[:, sample.part == 0]).max(initial=0) < 1e-6


def test_a_seed_still_gives_what_it_gave():
    """Where it does not, for a reason, raise shards.WORLD and write what it gives now."""
    found = list(samples("chest", 2, TINY))
    largest = [sample.about["largest_flow"] for sample in found]
    assert largest == pytest.approx([0.0917, 0.0522, 0.0952, 0.0939], abs=2e-3)
    assert found[0].image.mean() == pytest.approx(124.3, abs=2)
    assert found[0].depth.mean() == pytest.approx(1.644, abs=0.02)


def test_members_of_a_sample(expected):
    with tarfile.open(fileobj=io.BytesIO(expected["train-00000.tar"])) as tar:
        files = {m.name: tar.extractfile(m).read() for m in tar}
    assert list(files)[:3] == [f"train-00000-00000.{end}" for end in ("jpg", "json", "npz")]
    assert len(files) == 18
    image = cv2.imdecode(np.frombuffer(files["train-00000-00000.jpg"], np.uint8), 1)
    assert image.shape == (48, 48, 3)
    arrays = np.load(io.BytesIO(files["train-00000-00000.npz"]), allow_pickle=False)
    kinds = {name: (arrays[name].shape, arrays[name].dtype) for name in arrays}
    assert kinds == {
        "flow": ((2, 16, 16, 2), np.float16),
        "visible": ((2, 16, 16), np.bool_),
        "part": ((16, 16), np.int16),
        "depth": ((16, 16), np.float16),
    }
    about = json.loads(files["train-00000-00000.json"])
    assert about["horizon_s"] == [0.5, 1.0]
    assert about["family"] in FAMILIES
    assert about["scene_seed"] % 3 == 0


def test_bytes_do_not_depend_on_the_number_of_workers(expected, tmp_path):
    assert sum(write_shards(plan(tmp_path), 2, workers=2)) == 12
    assert contents(tmp_path) == expected


def test_killed_and_resumed_gives_the_same_bytes(expected, tmp_path):
    options = {"image_px": 48, "grid": 16, "views": 2, "outcomes": 2}
    process = multiprocessing.get_context("spawn").Process(
        target=scenes,
        args=(tmp_path, "train", 12, 3, 1, 6),
        kwargs=options,
    )
    process.start()
    for _ in range(1000):
        if any(path.stat().st_size for path in tmp_path.glob(".train-*")):
            break
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not list(tmp_path.glob("train-*.tar"))
    assert list(tmp_path.glob(".train-*"))
    scenes(tmp_path, "train", 12, 3, 1, 6, **options)
    (tmp_path / "train.jpg").unlink()  # the contact sheet
    assert contents(tmp_path) == expected
    assert list(write_shards(plan(tmp_path), 2)) == []


def test_a_failing_disk_leaves_no_half_shard(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fpt_ros.data.shards.add_file", full)
    with pytest.raises(OSError, match="No space"):
        list(write_shard(plan(tmp_path), 0))
    assert not list(tmp_path.iterdir())


def test_other_settings_are_not_mixed_in(expected, tmp_path):
    (tmp_path / "train.json").write_bytes(expected["train.json"])
    with pytest.raises(InvalidInputError, match="seed"):
        next(write_shards(plan(tmp_path, seed=4), 1))


def facts_with(expected, **changes):
    """The facts of a folder, changed; those set to None are left out."""
    facts = {**json.loads(expected["train.json"]), **changes}
    return json.dumps({name: value for name, value in facts.items() if value is not None})


def test_mujoco_is_imported_once_its_platform_is_chosen():
    """`fpt_ros.data.scenes` chooses it: an import of mujoco from elsewhere would come before."""
    package = Path(fpt_ros.__file__).parent
    outside = [path for path in package.rglob("*.py") if "scenes" not in path.parts]
    importing = [p.name for p in outside if re.search(r"^\s*import mujoco", p.read_text(), re.M)]
    assert importing == []


@pytest.mark.parametrize("name", ["world", "mujoco"])
def test_shards_of_another_world_or_physics_are_not_added(expected, tmp_path, name):
    (tmp_path / "train.json").write_text(facts_with(expected, **{name: 0}))
    with pytest.raises(InvalidInputError, match=f"made with {name} 0"):
        next(write_shards(plan(tmp_path), 1))
    (tmp_path / "train-00000.tar").touch()
    assert list(write_shards(plan(tmp_path), 1)) == []  # nothing to add


def test_folders_that_do_not_tell_are_continued_with_a_warning(expected, tmp_path, caplog):
    unknown = dict.fromkeys(("world", "mujoco", "opencv", "gl_renderer", "families"))
    (tmp_path / "train.json").write_text(facts_with(expected, **unknown))
    assert next(write_shards(plan(tmp_path), 1)) == 1
    assert ["with which world" in caplog.text, "with which mujoco" in caplog.text] == [True, True]
    with pytest.raises(InvalidInputError, match="families"):  # there were all of them in it
        next(write_shards(plan(tmp_path, families=("tool",)), 2))
    (tmp_path / "train.json").write_text("[")
    with pytest.raises(InvalidInputError, match="damaged"):
        next(write_shards(plan(tmp_path), 1))


def test_a_small_count_is_exact_and_in_several_shards(tmp_path, monkeypatch):
    plans = []

    def written(plan, shards, workers):
        plans.append((plan.samples_per_shard, shards))
        return iter(())

    monkeypatch.setattr("fpt_ros.data.shards.write_shards", written)
    monkeypatch.setattr("fpt_ros.data.contact_sheet.save", lambda *_: None)
    scenes(tmp_path, count=128)
    scenes(tmp_path, count=20_000)
    scenes(tmp_path, count=128, samples_per_shard=512)
    (tmp_path / "train.json").write_text('{"samples_per_shard": 256}')
    scenes(tmp_path, count=128)
    assert plans == [(16, 8), (512, 40), (512, 1), (256, 1)]


@given(st.sampled_from(SPLITS), st.integers(0, 99), st.integers(0, 9999), st.integers(0, 9999))
def test_splits_never_share_a_scene(split, seed, shard, scene):
    assert scene_seed(split, seed, shard, scene) % 3 == SPLITS.index(split)


def test_unseen_families_are_in_the_test_split_only():
    drawn = {
        split: {family_for(split, np.random.default_rng(n)) for n in range(2000)}
        for split in SPLITS
    }
    assert drawn["train"] == drawn["val"] == set(FAMILIES)
    assert drawn["test"] == {*FAMILIES, *UNSEEN_FAMILIES}
    assert not set(FAMILIES) & set(UNSEEN_FAMILIES)


def test_chosen_families_alone(tmp_path):
    """Whatever the order they are named in; a folder goes on with the same ones only."""
    chosen = ("tool", "assembly")
    draws = [
        [family_for("train", np.random.default_rng(n), names) for n in range(20)]
        for names in (chosen, chosen[::-1])
    ]
    assert set(draws[0]) == set(chosen)
    assert draws[0] == draws[1]
    made = plan(tmp_path, samples_per_shard=2, families=chosen)
    list(write_shards(made, 1))
    with tarfile.open(made.path(0)) as tar:
        abouts = [json.load(tar.extractfile(each)) for each in tar if each.name.endswith(".json")]
    assert {about["family"] for about in abouts} <= set(chosen)
    list(write_shards(replace(made, families=chosen[::-1]), 1))
    for others in ((), ("tool",)):
        with pytest.raises(InvalidInputError, match="families"):
            list(write_shards(replace(made, families=others), 2))


@pytest.mark.parametrize(
    "make",
    [
        lambda path: plan(path, split="dev"),
        lambda path: plan(path, samples_per_shard=0),
        lambda path: plan(path, seed=-1),
        lambda path: plan(path, families=("spaceship",)),
        lambda path: plan(path, split="train", families=("laptop",)),
        lambda path: SceneSettings(image_px=4),
        lambda path: SceneSettings(grid=1000),
        lambda path: SceneSettings(horizons_s=(1.0, 0.5)),
        lambda path: SceneSettings(views=0),
        lambda path: next(samples("spaceship", 0, TINY)),
    ],
)
def test_bad_input_is_refused(make, tmp_path):
    with pytest.raises(InvalidInputError):
        make(tmp_path)

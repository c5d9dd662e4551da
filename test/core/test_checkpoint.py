"""Weights on disk: round trips, and refusal of everything damaged, foreign or hostile."""

import contextlib
import json
import os
import pickle
import struct
import zipfile
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from fpt_ros.core.checkpoint import load_checkpoint, save_checkpoint
from fpt_ros.core.config import (
    DinoEncoderConfig,
    HeadConfig,
    ModelConfig,
    PyramidEncoderConfig,
    TransformerConfig,
)
from fpt_ros.core.errors import CheckpointError, InvalidInputError
from fpt_ros.core.model import FlowPokeModel

TINY = ModelConfig(
    PyramidEncoderConfig(
        input_px=32, width_at_2=4, width_at_4=4, width_at_8=4, width=8, depth=1, heads=1
    ),
    TransformerConfig(width=8, depth=1, d_head=8, ff_expand=1),
    HeadConfig(n_components=2),
)
TINY_DINO = replace(TINY, encoder=DinoEncoderConfig(28, 8, 1, 1, position_grid=3))
FIRST = "cond_emb.weight"


@pytest.fixture
def model():
    torch.manual_seed(0)
    return FlowPokeModel(TINY)


@pytest.fixture
def saved(model, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_checkpoint(path, model, horizon_s=0.8, licence="Apache-2.0", training={"steps": 3})
    return path


def metadata_of(path):
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    return json.loads(raw[8 : 8 + length])["__metadata__"]


def rewrite(path, metadata=None, **tensors):
    """The file again with other metadata or tensors; None removes one."""
    state = {**load_file(path), **tensors}
    state = {name: value for name, value in state.items() if value is not None}
    metadata = {**metadata_of(path), **(metadata or {})}
    save_file(state, path, {key: value for key, value in metadata.items() if value is not None})


def test_round_trip(saved, model):
    checkpoint = load_checkpoint(saved)
    assert checkpoint.config == TINY
    assert checkpoint.horizon_s == 0.8
    assert checkpoint.licence == "Apache-2.0"
    assert checkpoint.training == {"steps": 3}
    assert len(checkpoint.sha256) == 64
    rebuilt = checkpoint.build_model()
    assert not rebuilt.training
    for (name, expected), (other, actual) in zip(
        model.state_dict().items(), rebuilt.state_dict().items(), strict=True
    ):
        assert name == other
        assert torch.equal(expected, actual)
    trainable = {name for name, each in model.named_parameters() if each.requires_grad}
    assert {name for name, each in rebuilt.named_parameters() if each.requires_grad} == trainable


@pytest.mark.parametrize("as_zip", [True, False])
def test_overwriting_the_file_does_not_change_a_loaded_model(tmp_path, as_zip):
    path, model = tmp_path / "weights", FlowPokeModel(TINY_DINO)
    if as_zip:
        torch.save({"model": model.state_dict()}, path)
    else:
        save_checkpoint(path, model)
    loaded = load_checkpoint(path, TINY_DINO).build_model()
    with path.open("r+b") as file:
        file.write(b"\xff" * path.stat().st_size)
        file.truncate(10)
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, model.state_dict()[name])


def replace_by_another(path):
    save_checkpoint(path, FlowPokeModel(TINY))


def switch_link(path):
    other = path.with_name("other.safetensors")
    replace_by_another(other)
    os.replace(path, path.with_name("kept.safetensors"))
    path.symlink_to(other)


@pytest.mark.parametrize("change", [replace_by_another, os.unlink, switch_link])
def test_weights_are_read_again_whatever_becomes_of_the_path(saved, model, change):
    light = load_checkpoint(saved).without_weights()
    assert not light.state_dict
    change(saved)
    light.check_file()
    for name, value in light.build_model().state_dict().items():
        assert torch.equal(value, model.state_dict()[name])


def test_published_weights_are_read_again(tmp_path):
    path, model = tmp_path / "fpt.pt", FlowPokeModel(TINY_DINO)
    torch.save({"model": model.state_dict()}, path)
    light = load_checkpoint(path, TINY_DINO).without_weights()
    path.unlink()
    for name, value in light.build_model().state_dict().items():
        assert torch.equal(value, model.state_dict()[name])


def test_weights_of_a_file_that_was_overwritten_are_refused(saved, tmp_path):
    light = load_checkpoint(saved).without_weights()
    save_checkpoint(tmp_path / "other", FlowPokeModel(TINY))
    saved.write_bytes((tmp_path / "other").read_bytes())
    for read in (light.check_file, light.build_model):
        with pytest.raises(CheckpointError, match=r"weights\.safetensors: was overwritten"):
            read()


def test_file_is_closed_with_the_last_checkpoint_that_reads_it(saved):
    def n_open():
        real = [os.path.realpath(each.path) for each in os.scandir("/proc/self/fd")]
        return real.count(os.path.realpath(saved))

    checkpoint = load_checkpoint(saved)
    light = checkpoint.without_weights()
    light.build_model()
    del checkpoint
    assert n_open() == 1
    del light
    assert n_open() == 0
    for refused in ({"config": "{"}, {"format": None}):
        rewrite(saved, refused)
        with pytest.raises(CheckpointError):
            load_checkpoint(saved)
    assert n_open() == 0


def test_published_layout(tmp_path):
    model = FlowPokeModel(TINY_DINO)
    path = tmp_path / "fpt.pt"
    state = model.state_dict()
    torch.save({"model": state, "optimizer": {"state": {}}, "step": 7}, path)
    checkpoint = load_checkpoint(path, TINY_DINO)
    assert checkpoint.horizon_s == 0
    assert "CC BY-NC" in checkpoint.licence
    for name, value in checkpoint.build_model().state_dict().items():
        assert torch.equal(value, state[name])
    with pytest.raises(CheckpointError, match=r"missing: .* more; wrong: .*cls_token is F32"):
        load_checkpoint(path)  # taken for FPT-Base


@pytest.mark.parametrize("tree", [{"weights": {}}, [1], {"model": [1]}, {"model": {"a": 1}}])
def test_pytorch_file_without_weights(tmp_path, tree):
    path = tmp_path / "fpt.pt"
    torch.save(tree, path)
    with pytest.raises(CheckpointError, match='"model"'):
        load_checkpoint(path, TINY_DINO)


class Attack:
    """Touches a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("as_zip", [True, False])
def test_code_in_a_pickle_is_not_run(tmp_path, as_zip):
    path, touched = tmp_path / "fpt.pt", tmp_path / "touched"
    attack = {"model": {FIRST: Attack(touched)}}
    if as_zip:
        torch.save(attack, path)
    else:
        path.write_bytes(pickle.dumps(attack))
    with pytest.raises(CheckpointError):
        load_checkpoint(path, TINY_DINO)
    assert not touched.exists()
    pickle.loads(pickle.dumps(attack))  # the attack is real
    assert touched.exists()


class Bomb:
    """Asks for much memory when unpickled."""

    def __reduce__(self):
        return bytearray, (1 << 60,)


def test_a_small_file_cannot_take_much_memory(tmp_path):
    path, packed = tmp_path / "fpt.pt", tmp_path / "packed.pt"
    torch.save({"model": {FIRST: Bomb()}}, path)
    with pytest.raises(CheckpointError, match="bytearray"):
        load_checkpoint(path, TINY_DINO)
    torch.save({"model": FlowPokeModel(TINY_DINO).state_dict()}, path)
    with (
        zipfile.ZipFile(path) as plain,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for name in plain.namelist():
            archive.writestr(name, plain.read(name))
    with pytest.raises(CheckpointError, match="compressed"):
        load_checkpoint(packed, TINY_DINO)


def test_a_refusal_does_not_recommend_to_drop_the_guard(tmp_path):
    path = tmp_path / "fpt.pt"
    torch.save({"model": {FIRST: Attack(tmp_path / "touched")}}, path)
    with pytest.raises(CheckpointError, match=r"posix\.mkdir") as refusal:
        load_checkpoint(path, TINY_DINO)
    assert "weights_only" not in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(tmp_path / ("x" * 300))
    with pytest.raises(CheckpointError, match="no such file"):
        load_checkpoint(tmp_path / "none.safetensors")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(CheckpointError, match="not a file"):
            load_checkpoint(path)


def test_symbolic_link(saved, tmp_path):
    link = tmp_path / "latest"
    link.symlink_to(saved)
    assert load_checkpoint(link).sha256 == load_checkpoint(saved).sha256


@settings(max_examples=25)
@given(data=st.data())
def test_truncated_or_damaged_files_are_refused_or_read(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("damaged")
    path = folder / "weights"
    if data.draw(st.booleans(), "safetensors"):
        save_checkpoint(path, FlowPokeModel(TINY))
    else:
        torch.save({"model": FlowPokeModel(TINY_DINO).state_dict()}, path)
    raw = bytearray(path.read_bytes())
    if data.draw(st.booleans(), "truncate"):
        path.write_bytes(raw[: data.draw(st.integers(0, len(raw) - 1))])
    else:
        position = data.draw(st.integers(0, min(len(raw), 4000) - 1))
        raw[position] ^= data.draw(st.integers(1, 255))
        path.write_bytes(raw)
    with contextlib.suppress(CheckpointError):
        load_checkpoint(path, TINY_DINO if raw[:2] == b"PK" else TINY).build_model()


def test_empty_and_foreign_files(tmp_path):
    path = tmp_path / "weights"
    for content in (b"", b"hello", b"\x00" * 4096, b"\xff" * 64):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="neither"):
            load_checkpoint(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({FIRST: None}, f"missing: {FIRST}$"),
        ({"surprise": torch.zeros(1)}, "unexpected: surprise$"),
        ({FIRST: torch.zeros(3, 8)}, r"F32 \[3, 8\] and should be F32 \[2, 8\]"),
        ({FIRST: torch.zeros(2, 8, dtype=torch.float16)}, r"F16 \[2, 8\] and should be F32"),
        ({FIRST: torch.full((2, 8), torch.nan)}, f"NaN or infinity in {FIRST}"),
        ({FIRST: torch.full((2, 8), torch.inf)}, f"NaN or infinity in {FIRST}"),
    ],
)
def test_wrong_tensors_are_named(saved, tensors, message):
    rewrite(saved, **tensors)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(saved)


def test_sparse_tensors_are_refused(tmp_path):
    path = tmp_path / "fpt.pt"
    state = FlowPokeModel(TINY_DINO).state_dict()
    torch.save({"model": {**state, FIRST: state[FIRST].to_sparse()}}, path)
    with pytest.raises(CheckpointError, match=FIRST):
        load_checkpoint(path, TINY_DINO)


def with_config(**changes):
    tree = json.loads(TINY.to_json())
    for name, value in changes.items():
        tree[name] = {**tree[name], **value}
    return json.dumps(tree)


@pytest.mark.parametrize(
    "metadata",
    [
        {"format": None},
        {"format": "fpt_ros 999"},
        {"config": None},
        {"config": "{"},
        {"config": "[" * 5000},
        {"config": with_config(transformer={"width": 10**9})},
        {"config": with_config(transformer={"width": 16384, "depth": 256})},
        {"config": with_config(encoder={"width": 16384, "depth": 256})},
        {"config": with_config(encoder={"kind": "mystery"})},
        {"horizon_s": "nan"},
        {"horizon_s": "-1"},
        {"horizon_s": "1e300"},
        {"horizon_s": "soon"},
        {"training": "[1]"},
        {"training": "{"},
        {"training": json.dumps({"a": "x" * 2_000_000})},
    ],
)
def test_bad_metadata_is_refused(saved, metadata):
    rewrite(saved, metadata)
    with pytest.raises(CheckpointError, match=r"weights\.safetensors: "):
        load_checkpoint(saved)


def test_a_given_config_replaces_missing_metadata(saved):
    rewrite(saved, dict.fromkeys(metadata_of(saved)))
    assert load_checkpoint(saved, TINY).config == TINY


def test_saving_is_refused_before_it_can_harm(saved, model, tmp_path):
    before = saved.read_bytes()
    with torch.no_grad():
        model.cond_emb.weight[0, 0] = torch.nan
    with pytest.raises(CheckpointError, match="NaN"):
        save_checkpoint(saved, model)
    with pytest.raises(CheckpointError, match="wrong"):
        save_checkpoint(saved, FlowPokeModel(TINY).double())
    with pytest.raises(InvalidInputError, match="horizon_s"):
        save_checkpoint(saved, FlowPokeModel(TINY), horizon_s=float("nan"))
    with pytest.raises(CheckpointError, match="cannot be written"):
        save_checkpoint(tmp_path / "none" / "weights", FlowPokeModel(TINY))
    with pytest.raises(CheckpointError, match="cannot be written"):
        save_checkpoint(tmp_path, FlowPokeModel(TINY))
    with pytest.raises(CheckpointError, match="cannot be written"):
        save_checkpoint(saved / "inside", FlowPokeModel(TINY))
    assert saved.read_bytes() == before
    assert sorted(tmp_path.iterdir()) == [saved]

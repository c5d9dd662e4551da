"""Where built engines are kept: keys, damage, races, full disks; and the order of engines."""

import copy
import dataclasses
import json
import multiprocessing
import threading
from types import SimpleNamespace

import pytest
import torch

from fpt_ros import cli
from fpt_ros.core.checkpoint import load_checkpoint, save_checkpoint
from fpt_ros.core.errors import EngineError, InvalidInputError
from fpt_ros.engines import cache, choose, openvino, tensorrt
from fpt_ros.engines.choose import Wish

IDENTITY = cache.Identity(
    engine="openvino",
    precision="bf16",
    weights_sha256="ab" * 32,
    config="{}",
    shapes="any",
    runtime="openvino 1",
    device="a CPU",
)
PARITY = {"parity": {"mean_displacement": 0.25}}


def write_blob(folder):
    (folder / "encode.blob").write_bytes(b"compiled")
    return PARITY


def names(root):
    """All there is but locks."""
    return sorted(path.name for path in root.iterdir() if path.suffix != ".lock")


def test_engine_is_stored_once_with_a_record_to_read(tmp_path):
    root = tmp_path / "not" / "there" / "yet"
    entry = cache.store(root, IDENTITY, write_blob)
    record = json.loads((entry.folder / "engine.json").read_text())
    assert record == entry.record == cache.find(root, IDENTITY).record
    assert record["identity"] == dataclasses.asdict(IDENTITY)
    assert record["parity"] == PARITY["parity"]
    assert record["files"]["encode.blob"]["bytes"] == 8
    assert {path.stat().st_mode & 0o777 for path in entry.folder.iterdir()} == {0o444}
    again = cache.store(root, IDENTITY, lambda _: pytest.fail("it is there"))
    assert again.folder == entry.folder
    assert names(root) == [IDENTITY.key]
    assert [each.folder for each in cache.entries(root)] == [entry.folder]


def test_the_list_breaks_no_words(tmp_path, capsys):
    cache.store(tmp_path, IDENTITY, write_blob)
    assert cli.main(["engine", "list", "--folder", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == IDENTITY.key
    assert "  differs from PyTorch by mean_displacement 0.25" in lines
    assert lines[-1] == f"1 engine in {tmp_path}"


@pytest.mark.parametrize("field", [each.name for each in dataclasses.fields(cache.Identity)])
def test_whatever_differs_makes_another_engine_and_is_named(tmp_path, field):
    cache.store(tmp_path, IDENTITY, write_blob)
    value = 7 if field == "graphs" else "fp32" if field == "precision" else "other"
    other = dataclasses.replace(IDENTITY, **{field: value})
    assert other.key != IDENTITY.key
    reason = "no .* engine has been built for these weights"
    if field not in ("engine", "weights_sha256"):
        reason = f"built for something else: {field} is {value}, not "
    with pytest.raises(EngineError, match=reason):
        cache.find(tmp_path, other)


def rewrite(path, data):
    path.unlink()  # it is read-only
    path.write_bytes(data)


def flip_a_bit(folder):
    data = bytearray((folder / "encode.blob").read_bytes())
    data[3] ^= 1
    rewrite(folder / "encode.blob", data)


def cut_the_record(folder):
    data = (folder / "engine.json").read_bytes()
    rewrite(folder / "engine.json", data[: len(data) // 2])


def pretend(folder):
    record = json.loads((folder / "engine.json").read_text())
    record["identity"]["device"] = "another CPU"
    rewrite(folder / "engine.json", json.dumps(record).encode())


def list_no_files(folder):
    record = json.loads((folder / "engine.json").read_text())
    rewrite(folder / "engine.json", json.dumps({**record, "files": {}}).encode())


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (flip_a_bit, r"encode\.blob is damaged"),
        (lambda folder: (folder / "encode.blob").unlink(), "damaged"),
        (lambda folder: (folder / "engine.json").unlink(), "damaged"),
        (lambda folder: rewrite(folder / "engine.json", b"[]"), "damaged"),
        (cut_the_record, "damaged"),
        (pretend, "holds another engine"),
        (list_no_files, "does not hold the files"),
        (lambda folder: (folder / "more.blob").write_bytes(b"x"), "does not hold the files"),
    ],
)
def test_damaged_and_foreign_files_are_refused_and_built_anew(tmp_path, damage, reason):
    folder = cache.store(tmp_path, IDENTITY, write_blob).folder
    damage(folder)
    with pytest.raises(EngineError, match=reason):
        cache.find(tmp_path, IDENTITY)
    cache.store(tmp_path, IDENTITY, write_blob)
    assert (folder / "encode.blob").read_bytes() == b"compiled"
    assert names(tmp_path) == [IDENTITY.key]


def test_failed_build_leaves_nothing_and_the_old_engine_alone(tmp_path):
    def fail(error):
        def build(folder):
            write_blob(folder)
            raise error

        return build

    with pytest.raises(EngineError, match=r"kept in .*No space left"):
        cache.store(tmp_path, IDENTITY, fail(OSError(28, "No space left on device")))
    assert names(tmp_path) == []
    cache.store(tmp_path, IDENTITY, write_blob)
    with pytest.raises(EngineError, match="too different"):
        cache.store(tmp_path, IDENTITY, fail(EngineError("too different")), rebuild=True)
    assert cache.find(tmp_path, IDENTITY)
    cache.store(tmp_path, IDENTITY, write_blob, rebuild=True)
    assert names(tmp_path) == [IDENTITY.key]


def build_slowly(root, started, go, identity=IDENTITY):
    def build(folder):
        (folder / "encode.blob").write_bytes(b"half")
        started.set()
        go.wait()
        return write_blob(folder)

    cache.store(root, identity, build)


def test_second_process_waits_for_the_first_and_one_that_was_killed_is_cleaned_up(tmp_path):
    context = multiprocessing.get_context("fork")
    started, go = context.Event(), context.Event()
    first = context.Process(target=build_slowly, args=(tmp_path, started, go))
    first.start()
    assert started.wait(30)
    entries, waiting = [], threading.Event()

    def second():
        entries.append(cache.store(tmp_path, IDENTITY, write_blob, on_wait=waiting.set))

    thread = threading.Thread(target=second)
    thread.start()
    assert waiting.wait(30)
    assert thread.is_alive()
    assert len(names(tmp_path)) == 1  # the first one's unfinished folder
    first.kill()
    thread.join(30)
    assert [entry.folder.name for entry in entries] == [IDENTITY.key]
    assert names(tmp_path) == [IDENTITY.key]
    first.join()


def test_what_killed_builds_of_other_engines_left_is_removed_but_not_what_is_being_built(tmp_path):
    context = multiprocessing.get_context("fork")
    builders = []
    for _ in range(2):  # of engines that nobody asks for again
        started, go = context.Event(), context.Event()
        other = dataclasses.replace(IDENTITY, runtime=f"openvino {len(builders) + 2}")
        process = context.Process(target=build_slowly, args=(tmp_path, started, go, other))
        process.start()
        assert started.wait(30)
        builders.append((process, go, other))
    (killed, _, _), (working, go, kept) = builders
    killed.kill()
    killed.join()
    for mine in (".config.d", ".openvino-bf16-0123456789ab.notes", ".a.abcdefgh"):
        (tmp_path / mine).mkdir()
    cache.store(tmp_path, IDENTITY, write_blob)
    left = [name for name in names(tmp_path) if name.startswith(".openvino")]
    assert [name.rpartition(".")[0] for name in left] == [
        ".openvino-bf16-0123456789ab",
        f".{kept.key}",
    ]
    go.set()
    working.join(30)
    assert cache.find(tmp_path, kept)
    assert {".config.d", ".a.abcdefgh"} < set(names(tmp_path))


def test_engine_that_is_there_is_served_where_nothing_can_be_written(tmp_path, monkeypatch):
    entry = cache.store(tmp_path, IDENTITY, write_blob)

    def refuse(*_, **__):
        raise PermissionError("a read-only file system")

    monkeypatch.setattr(cache, "_locked", refuse)
    assert cache.store(tmp_path, IDENTITY, write_blob) == entry


def test_folder_follows_xdg(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.default_root() == tmp_path / "fpt_ros" / "engines"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/invalid")
    assert cache.default_root().parts[-3:] == (".cache", "fpt_ros", "engines")


# ---- which engine -------------------------------------------------------------------------------


@pytest.fixture
def checkpoint(model, tmp_path):
    save_checkpoint(tmp_path / "model.safetensors", model)
    return load_checkpoint(tmp_path / "model.safetensors")


def test_prune_removes_what_nothing_here_can_load(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(openvino, "runtime", lambda: "openvino 1")
    monkeypatch.setattr(openvino, "describe", lambda device: f"a {device.type.upper()}")
    monkeypatch.setattr(tensorrt, "_PACKAGES", ())
    tensorrt._trt.cache_clear()
    here = dataclasses.replace(IDENTITY, shapes=openvino.SHAPES)
    fits = (here, dataclasses.replace(here, precision="fp32", weights_sha256="cd" * 32))
    changes = {"runtime": "openvino 0", "device": "b CPU", "shapes": "old", "graphs": 0}
    changes["engine"] = "tensorrt"
    others = [dataclasses.replace(here, **{name: value}) for name, value in changes.items()]
    others.append(dataclasses.replace(here, engine="forgotten"))
    for identity in (*fits, *others):
        cache.store(tmp_path, identity, write_blob)
    leftover = tmp_path / f".{here.key}.abcd_123"
    (leftover / "removed").mkdir(parents=True)
    (leftover / "removed" / "half.blob").write_bytes(bytes(3_000_000))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "engine.json").write_text('{"identity": {}}')
    assert cli.main(["engine", "prune", "--folder", str(tmp_path)]) == 0
    assert names(tmp_path) == sorted(["mine", *(each.key for each in fits)])
    lines = capsys.readouterr().out.splitlines()
    removed = sorted(each.key for each in others)
    assert lines[:-2] == [f"removed {name}, 0 MB" for name in removed]
    assert lines[-2:] == [f"removed {leftover.name}, 3 MB", f"3 MB freed in {tmp_path}"]
    assert cli.main(["engine", "prune", "--folder", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"0 MB freed in {tmp_path}\n"


def test_engine_that_is_being_built_is_not_pruned(tmp_path):
    cache.store(tmp_path, IDENTITY, write_blob)
    with cache._locked(tmp_path / f".{IDENTITY.key}.lock", lambda: None):
        assert list(cache.prune(tmp_path, lambda _: False)) == []
    assert [name for name, _ in cache.prune(tmp_path, lambda _: False)] == [IDENTITY.key]
    assert names(tmp_path) == []


def test_order_ends_with_pytorch():
    assert Wish(device="cpu").order() == ("openvino", "torch")
    assert Wish(device="cpu", engine="torch").order() == ("torch",)
    assert Wish(device="cpu", engine="tensorrt").order() == ("tensorrt", "torch")
    with pytest.raises(EngineError, match="device 'gpu!'"):
        Wish(device="gpu!").order()


@pytest.mark.parametrize("model", ["small"], indirect=True)
def test_pytorch_serves_until_another_engine_is_built(checkpoint, tmp_path):
    pytest.importorskip("openvino")
    wish = Wish(device="cpu", precision="fp32", num_threads=1, root=tmp_path)
    service = choose.ready(checkpoint, wish)
    assert (service.engine.name, service.to_build) == ("torch", ("openvino",))
    assert "no openvino engine has been built" in service.refused["openvino"]
    entry = choose.build(checkpoint, "openvino", wish, lambda _: None)
    service = choose.ready(checkpoint, wish)
    assert (service.engine.name, service.engine.key) == ("openvino", entry.folder.name)
    assert service.engine.parity_error == entry.record["parity"]["mean_displacement"] < 1e-4
    assert service.to_build == () == tuple(service.refused)
    flip_a_bit(entry.folder)
    service = choose.ready(checkpoint, wish)
    assert (service.engine.name, service.to_build) == ("torch", ("openvino",))
    assert "is damaged" in service.refused["openvino"]


@pytest.mark.parametrize("model", ["small"], indirect=True)
def test_threads_of_pytorch_are_limited_whatever_serves(checkpoint, tmp_path, monkeypatch):
    limits = []
    monkeypatch.setattr(torch, "set_num_threads", limits.append)
    monkeypatch.setattr(openvino, "load", lambda *_: SimpleNamespace(name="openvino"))
    monkeypatch.setattr(openvino, "runtime", lambda: "openvino 1")
    monkeypatch.setattr(openvino, "describe", str)
    monkeypatch.setattr(cache, "find", lambda *_: SimpleNamespace(folder=tmp_path, record=PARITY))
    wish = Wish(device="cpu", precision="fp32", num_threads=3)
    assert choose.load(checkpoint, "openvino", wish).name == "openvino"
    assert set(limits) == {3}
    limits.clear()
    assert choose.ready(checkpoint, wish).engine.name == "openvino"
    assert set(limits) == {3}
    limits.clear()
    wish = dataclasses.replace(wish, engine="torch")
    assert choose.ready(checkpoint, wish).engine.name == "torch"
    assert set(limits) == {3}


@pytest.mark.parametrize("model", ["small"], indirect=True)
def test_engines_that_cannot_be_had_are_not_built(checkpoint, tmp_path, monkeypatch):
    pytest.importorskip("openvino")
    for wish, reason in (
        (Wish(engine="openvino", precision="fp16", device="cpu", root=tmp_path), "not in fp16"),
        (Wish(engine="tensorrt", device="cpu", root=tmp_path), ""),
    ):
        service = choose.ready(checkpoint, wish)
        assert (service.engine.name, service.to_build) == ("torch", ())
        assert reason in service.refused[wish.engine]

    def missing():
        raise EngineError("OpenVINO cannot be imported")

    monkeypatch.setattr(openvino, "runtime", missing)
    service = choose.ready(checkpoint, Wish(device="cpu", root=tmp_path))
    assert (service.engine.name, service.to_build) == ("torch", ())
    assert service.refused == {"openvino": "OpenVINO cannot be imported"}


@pytest.mark.parametrize("model", ["small"], indirect=True)
@pytest.mark.parametrize(
    ("wished", "capability", "chosen"),
    [
        ("auto", (8, 0), "bf16"),
        ("auto", (7, 5), "fp32"),
        ("bf16", (7, 5), "bf16"),
        ("fp32", (9, 0), "fp32"),
        ("fp16", (9, 0), None),
        ("int8", (9, 0), None),
    ],
)
def test_cuda_graphs_are_in_a_precision_that_was_asked_for_or_suits_the_gpu(
    checkpoint, monkeypatch, wished, capability, chosen
):
    class Made(Exception):
        pass

    def make(model, device, precision):
        raise Made(precision)

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(choose, "CudaEngine", make)
    wish = Wish(device="cuda", precision=wished)
    with pytest.raises(Made if chosen else EngineError, match=chosen or f"not in {wished}"):
        choose.cuda_engine(checkpoint, wish)


@pytest.mark.parametrize("model", ["small"], indirect=True)
def test_engine_is_built_on_the_gpu_that_was_named(checkpoint, tmp_path, monkeypatch):
    current = []

    def build(*_):
        assert current == [torch.device("cuda:1")]
        raise EngineError("seen")

    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.setattr(tensorrt, "runtime", lambda: "tensorrt 1")
    monkeypatch.setattr(tensorrt, "describe", str)
    monkeypatch.setattr(tensorrt, "build", build)
    wish = Wish(device="cuda:1", precision="bf16", root=tmp_path)
    with pytest.raises(EngineError, match="seen"):
        choose.build(checkpoint, "tensorrt", wish, lambda _: None)


@pytest.mark.parametrize("model", ["small"], indirect=True)
def test_engine_that_answers_otherwise_is_not_kept(checkpoint, tmp_path, monkeypatch):
    pytest.importorskip("openvino")
    torch.manual_seed(3)
    other = copy.deepcopy(checkpoint.build_model().eval().requires_grad_(False))
    for parameter in other.out_mlp.parameters():
        parameter += 0.1 * torch.randn_like(parameter)
    build = openvino.build
    monkeypatch.setattr(openvino, "build", lambda model, *rest: build(other, *rest))
    wish = Wish(device="cpu", precision="fp32", num_threads=1, root=tmp_path / "engines")
    with pytest.raises(EngineError, match="does not answer as PyTorch does"):
        choose.build(checkpoint, "openvino", wish, lambda _: None)
    assert names(wish.root) == []


@pytest.mark.parametrize("model", ["small"], indirect=True)
@pytest.mark.parametrize(
    "trouble",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore"),
        InvalidInputError("too many pokes\nmore"),
    ],
)
def test_engine_that_cannot_be_compared_is_not_kept(checkpoint, tmp_path, monkeypatch, trouble):
    def check(engine, reference):
        raise trouble

    engine = SimpleNamespace(name="fake")
    monkeypatch.setattr(choose.parity, "check", check)
    monkeypatch.setattr(openvino, "runtime", lambda: "openvino 1")
    monkeypatch.setattr(openvino, "describe", str)
    monkeypatch.setattr(openvino, "build", lambda model, precision, folder, _: write_blob(folder))
    monkeypatch.setattr(openvino, "load", lambda *_: engine)
    monkeypatch.setattr(choose, "CudaEngine", lambda *_: engine)
    wish = Wish(device="cpu", precision="fp32", root=tmp_path / "engines")
    reason = f"fake cannot be held against PyTorch: {str(trouble).partition(chr(10))[0]}$"
    with pytest.raises(EngineError, match=reason):
        choose.build(checkpoint, "openvino", wish, lambda _: None)
    assert names(wish.root) == []
    with pytest.raises(EngineError, match=reason):
        choose.cuda_engine(checkpoint, wish)

"""Built engines on disk: a folder for each, with an engine.json that says what it is.

The name of a folder holds the hash of all that the engine depends on, so that nothing is used that
was built for other weights, another runtime or another device. A folder appears complete or not at
all; what is in it is checked against the hashes in the JSON before it is loaded. That finds damage,
not forgery: who may write into the cache decides what is run.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..core.engine import Precision
from ..core.errors import EngineError

RECORD = "engine.json"
# Raised when graphs change in a way that weights and configuration do not tell.
_GRAPHS = 3


@dataclass(frozen=True)
class Identity:
    """All that a built engine depends on."""

    engine: str
    precision: Precision
    weights_sha256: str
    config: str  # ModelConfig as JSON: the shapes of the stages
    shapes: str  # ranges of the sizes that may change, where a runtime wants to know them
    runtime: str  # name and version
    device: str
    graphs: int = _GRAPHS

    @property
    def key(self) -> str:
        """Name of the engine and of its folder."""
        text = json.dumps(asdict(self), sort_keys=True)
        return f"{self.engine}-{self.precision}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


@dataclass(frozen=True)
class Entry:
    """An engine in the cache."""

    folder: Path
    record: dict[str, Any]  # the content of engine.json


def default_root() -> Path:
    """Where engines are kept unless another folder is named."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(cache) if os.path.isabs(cache) else Path.home() / ".cache"
    return base / "fpt_ros" / "engines"


def entries(root: Path) -> Iterator[Entry]:
    """All engines whose JSON can be read, in order of their names."""
    for record in sorted(root.glob(f"*/{RECORD}")):
        try:
            content = json.loads(record.read_text())
        except (OSError, ValueError):
            continue
        if isinstance(content, dict) and isinstance(content.get("identity"), dict):
            yield Entry(record.parent, content)


def find(root: Path, identity: Identity) -> Entry:
    """The engine with this identity, its files checked.

    Raises EngineError that says why there is none: never built, built for something else, broken.
    """
    folder = root / identity.key
    if not folder.is_dir():
        raise EngineError(_why_missing(root, identity))
    try:
        record = json.loads((folder / RECORD).read_text())
        if record["identity"] != asdict(identity):
            raise EngineError(f"{folder} holds another engine than its name says")
        present = {path.name for path in folder.iterdir()} - {RECORD}
        if present != set(record["files"]) or not present:
            raise EngineError(f"{folder} is damaged: it does not hold the files it should")
        for name, expected in record["files"].items():
            found = _describe(folder / name)
            if found != expected:
                raise EngineError(f"{folder / name} is damaged")
        parity_error = record["parity"]["mean_displacement"]
        if not isinstance(parity_error, float):
            raise TypeError(parity_error)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EngineError(f"{folder / RECORD} is damaged: {error!r}") from error
    return Entry(folder, record)


def store(
    root: Path,
    identity: Identity,
    build: Callable[[Path], dict[str, Any]],
    rebuild: bool = False,
    on_wait: Callable[[], object] = lambda: None,
) -> Entry:
    """The engine with this identity; it is built if it is not there, or on demand.

    Args:
        root: folder of the cache, made if it is missing.
        identity: of the engine.
        build: writes the files into the folder it is given, and returns what else to put on
            record, with a "parity"; raises EngineError if that is not good enough.
        rebuild: build it even if it is there.
        on_wait: called before waiting for another process that builds it.

    Raises:
        EngineError: it cannot be built or written. Nothing is left behind then.
    """
    try:
        if not rebuild:
            with suppress(EngineError):
                return find(root, identity)  # even where nothing can be written
        root.mkdir(parents=True, exist_ok=True)
        with _locked(root / f".{identity.key}.lock", on_wait):
            if not rebuild:
                with suppress(EngineError):
                    return find(root, identity)  # another process may have been first
            _write(root, identity, build)
    except OSError as error:
        raise EngineError(f"the engine cannot be kept in {root}: {error}") from error
    return find(root, identity)


def _write(root: Path, identity: Identity, build: Callable[[Path], dict[str, Any]]) -> None:
    prefix = f".{identity.key}."
    for leftover in root.glob(f"{prefix}*/"):  # of processes that were killed: we hold the lock
        shutil.rmtree(leftover, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=root))
    try:
        more = build(folder)
        files = {path.name: _describe(path) for path in sorted(folder.iterdir())}
        record = {"identity": asdict(identity), **more, "files": files}
        (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n")
        for path in folder.iterdir():
            path.chmod(0o444)  # one that is cut while it is mapped ends the process (SIGBUS)
            with path.open("rb") as file:
                os.fsync(file.fileno())
        folder.chmod(0o755)
        final = root / identity.key
        if final.exists():  # loaded by somebody, perhaps; an open file outlives its name
            replaced = Path(tempfile.mkdtemp(prefix=prefix, dir=root))
            final.rename(replaced / "replaced")
            shutil.rmtree(replaced)
        folder.rename(final)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _why_missing(root: Path, identity: Identity) -> str:
    """What is different about the engines that are there for the same weights."""
    wanted = asdict(identity)
    for entry in entries(root):
        found = entry.record["identity"]
        if any(found.get(name) != wanted[name] for name in ("engine", "weights_sha256")):
            continue
        changes = [
            f"{name} is {value}, not {found.get(name)}"
            for name, value in wanted.items()
            if found.get(name) != value
        ]
        return f"{entry.folder.name} was built for something else: {'; '.join(changes)}"
    return f"no {identity.engine} engine has been built for these weights"


def _describe(path: Path) -> dict[str, Any]:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}


@contextmanager
def _locked(path: Path, on_wait: Callable[[], object]) -> Iterator[None]:
    """Hold a lock that the system releases when the process ends, whatever way."""
    import fcntl

    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield

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
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from ..core.engine import Precision
from ..core.errors import EngineError

RECORD = "engine.json"
# Raised when graphs change in a way that weights and configuration do not tell.
GRAPHS = 4
_KEY = r"\w+-\w+-[0-9a-f]{12}"
_UNFINISHED = re.compile(rf"\.({_KEY})\.\w{{8}}")  # as mkdtemp names them here


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
    graphs: int = GRAPHS

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
    _remove_leftovers(root, identity.key)
    folder = _unfinished(root, identity.key)
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
        if final.exists():
            _remove(final)
        folder.rename(final)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def prune(root: Path, keep: Callable[[Entry], bool]) -> Iterator[tuple[str, int]]:
    """Remove the engines that are not to be kept, and what killed builds have left behind.

    Yields their names and the bytes that were freed. What is being built stays. Raises EngineError
    if an engine cannot be removed.
    """
    try:
        for entry in list(entries(root)):
            name = entry.folder.name
            if not re.fullmatch(_KEY, name) or keep(entry):
                continue
            with (root / f".{name}.lock").open("w") as lock:
                if _is_free(lock):
                    n_bytes = size_bytes(entry.folder)
                    _remove(entry.folder)
                    yield name, n_bytes
        yield from _remove_leftovers(root)
    except OSError as error:
        raise EngineError(f"cannot remove what is in {root}: {error}") from error


def size_bytes(folder: Path) -> int:
    """What the files in a folder take."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _unfinished(root: Path, key: str) -> Path:
    """A new folder that is no engine; for who holds the lock of the key."""
    return Path(tempfile.mkdtemp(prefix=f".{key}.", dir=root))


def _remove(engine: Path) -> None:
    """Remove an engine: it is there or not at all. Who has opened its files keeps them."""
    removed = _unfinished(engine.parent, engine.name)
    engine.rename(removed / "removed")
    shutil.rmtree(removed)


def _remove_leftovers(root: Path, held: str = "") -> list[tuple[str, int]]:
    """Remove unfinished folders whose lock is free, or held by the caller; names and bytes.

    Locks themselves are never removed, so that there is but one of a name.
    """
    removed = []
    for folder in sorted(root.glob(".*.*/")):
        match = _UNFINISHED.fullmatch(folder.name)
        if match is None:
            continue
        with suppress(OSError), (root / f".{match[1]}.lock").open("a") as lock:
            if match[1] == held or _is_free(lock):
                n_bytes = size_bytes(folder)
                shutil.rmtree(folder)
                removed.append((folder.name, n_bytes))
    return removed


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
        if not _is_free(file):
            on_wait()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _is_free(lock: IO[str]) -> bool:
    """Whether nobody else holds the lock; it is held then until the file is closed."""
    import fcntl

    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

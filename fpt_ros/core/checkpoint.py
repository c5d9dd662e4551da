"""Network weights on disk: our safetensors files and the published PyTorch checkpoints.

Files may come from anywhere, so nothing in them is executed, and the tensors they announce are
compared with the network they claim to be before any memory is spent on them.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickletools
import stat
import uuid
import weakref
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .config import FPT_BASE, ModelConfig
from .errors import CheckpointError, InvalidInputError
from .model import FlowPokeModel

_FORMAT = "fpt_ros 1"
_ZIP_MAGIC = b"PK\x03\x04"
_ALLOCATING = ("builtins bytearray", "__builtin__ bytearray")  # as pickletools spells a name
_LISTED = 3  # names in an error message
_MAX_METADATA = 1 << 20  # characters
_MAX_HORIZON_S = 3600.0  # longer ones are mistakes, and overflow ROS durations in the end
_PUBLISHED_LICENCE = "not stated in the file; the published FPT weights are CC BY-NC 4.0"


class _OpenFile:
    """A file that can be read as long as this lives, whatever becomes of the path to it."""

    def __init__(self, path: Path) -> None:
        """Raises CheckpointError if it cannot be opened or is no file."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would be waited for
        except OSError as error:
            absent = isinstance(error, FileNotFoundError)
            reason = "no such file" if absent else f"cannot be read: {error}"
            raise CheckpointError(f"{path}: {reason}") from error
        weakref.finalize(self, os.close, descriptor)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise CheckpointError(f"{path}: not a file")
        self.path = Path(f"/proc/self/fd/{descriptor}")  # for libraries that want one

    def sha256(self) -> str:
        digest = hashlib.sha256()
        with self.path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        return digest.hexdigest()


@dataclass(frozen=True)
class Checkpoint:
    """Weights with what is needed to build and to describe their network."""

    path: Path
    config: ModelConfig
    state_dict: dict[str, Tensor]  # empty: see `without_weights`
    horizon_s: float  # what the predicted displacements span; 0 means unknown
    licence: str
    training: dict[str, Any]  # how the weights were made, for the reader
    sha256: str = ""  # of the file
    file: _OpenFile | None = None  # where the weights were read

    def build_model(self) -> FlowPokeModel:
        """Build the network in eval mode. It shares its memory with `state_dict`.

        After `without_weights` they are read again. Raises CheckpointError if that cannot be done,
        or the file was overwritten; it may have been replaced or deleted.
        """
        state = self.state_dict or self._read_again()
        model = _empty_model(self.config)
        model.load_state_dict(state, strict=True, assign=True)
        return model.eval()

    def without_weights(self) -> Checkpoint:
        """The same without the memory of the weights: built engines have their own."""
        return replace(self, state_dict={})

    def check_file(self) -> None:
        """Raise CheckpointError if the weights cannot be read again."""
        assert self.file is not None, "made by hand"
        try:
            self._require_same(self.file.sha256())
        except OSError as error:
            raise CheckpointError(f"{self.path}: cannot be read: {error}") from error

    def _read_again(self) -> dict[str, Tensor]:
        assert self.file is not None, "made by hand"
        again = _load(self.path, self.file, self.config)
        self._require_same(again.sha256)
        return again.state_dict

    def _require_same(self, sha256: str) -> None:
        if sha256 != self.sha256:
            raise CheckpointError(f"{self.path}: was overwritten after it was loaded; load it anew")


def load_checkpoint(path: str | Path, config: ModelConfig | None = None) -> Checkpoint:
    """Read a file written by `save_checkpoint` or a published PyTorch checkpoint.

    `config` overrides what the file says of its network; a PyTorch checkpoint says nothing and is
    taken for FPT-Base by default.
    Raises CheckpointError when the file is missing, damaged, holds NaN or does not fit its config.
    """
    path = Path(path)
    return _load(path, _OpenFile(path), config)


def _load(path: Path, file: _OpenFile, config: ModelConfig | None) -> Checkpoint:
    try:
        with file.path.open("rb") as opened:
            is_zip = opened.read(len(_ZIP_MAGIC)) == _ZIP_MAGIC
        checkpoint = (_read_pytorch if is_zip else _read_safetensors)(path, file, config)
        # The tensors are mapped from the file. A running network must not change, or crash, when
        # somebody copies another file over it.
        state = {name: each.clone() for name, each in checkpoint.state_dict.items()}
        sha256 = file.sha256()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    _check_finite(path, state)
    return replace(checkpoint, state_dict=state, sha256=sha256, file=file)


def save_checkpoint(
    path: str | Path,
    model: FlowPokeModel,
    *,
    horizon_s: float = 0.0,
    licence: str = "",
    training: Mapping[str, Any] | None = None,
) -> None:
    """Write a safetensors file that appears complete or not at all.

    Raises CheckpointError when the weights hold NaN or infinity, are not float32, or the file
    cannot be written, InvalidInputError for a horizon that is negative or not finite.
    """
    path = Path(path)
    if not 0 <= horizon_s <= _MAX_HORIZON_S:
        raise InvalidInputError(f"horizon_s must be in [0, {_MAX_HORIZON_S:g}], got {horizon_s}")
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    _check_tensors(path, model.config, _announced(state))
    _check_finite(path, state)
    metadata = {
        "format": _FORMAT,
        "config": model.config.to_json(),
        "horizon_s": repr(float(horizon_s)),
        "licence": licence,
        "training": json.dumps(dict(training or {})),
    }
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        try:
            save_file(state, temporary, metadata)
            _flush(temporary)
            os.replace(temporary, path)
            _flush(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be written: {error}") from error


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _empty_model(config: ModelConfig) -> FlowPokeModel:
    """Build a network without memory for its weights."""
    with torch.device("meta"), _WithoutNumbers():
        return FlowPokeModel(config)


class _WithoutNumbers(TorchFunctionMode):
    """Keeps PyTorch from importing its compiler for numbers that nobody sees.

    It computes random numbers and ranges on the device "meta" in Python, and imports the compiler
    first: a second, ten times as long as to load small weights.
    """

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if function is nn.init.normal_:
            return args[0] if args else (kwargs or {})["tensor"]
        if function in (torch.arange, torch.linspace):
            return function(*args, **{**(kwargs or {}), "device": "cpu"})
        return function(*args, **(kwargs or {}))


def _read_safetensors(path: Path, file: _OpenFile, config: ModelConfig | None) -> Checkpoint:
    try:
        with safe_open(file.path, framework="pt") as opened:
            checkpoint = _described(path, opened.metadata() or {}, config)
            names = opened.keys()
            headers = {name: opened.get_slice(name) for name in names}
            _check_tensors(
                path,
                checkpoint.config,
                {name: (each.get_dtype(), each.get_shape()) for name, each in headers.items()},
            )
            checkpoint.state_dict.update((name, opened.get_tensor(name)) for name in names)
    except SafetensorError as error:
        raise CheckpointError(
            f"{path}: neither a safetensors file nor a PyTorch checkpoint, or damaged: {error}"
        ) from error
    return checkpoint


def _described(path: Path, metadata: dict[str, str], config: ModelConfig | None) -> Checkpoint:
    """A checkpoint without tensors from the metadata of a safetensors file."""
    if sum(map(len, metadata.values())) > _MAX_METADATA:
        raise CheckpointError(f"{path}: its metadata is too long to be ours")
    if config is None and metadata.get("format") != _FORMAT:
        raise CheckpointError(
            f"{path}: its format is {metadata.get('format')!r}, this version reads {_FORMAT!r}"
        )
    try:
        config = config or ModelConfig.from_json(metadata["config"])
        horizon_s = float(metadata.get("horizon_s", 0))
        training = json.loads(metadata.get("training", "{}"))
    except (KeyError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: bad metadata: {error!r}") from error
    if not (0 <= horizon_s <= _MAX_HORIZON_S and isinstance(training, dict)):
        raise CheckpointError(f"{path}: bad metadata: horizon_s {horizon_s} or training")
    return Checkpoint(path, config, {}, horizon_s, metadata.get("licence", ""), training)


def _read_pytorch(path: Path, file: _OpenFile, config: ModelConfig | None) -> Checkpoint:
    try:
        _check_archive(path, file)
        tree = torch.load(file.path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, CheckpointError):
        raise
    except Exception as error:  # the unpickler fails in many ways on hostile or damaged files
        raise CheckpointError(
            f"{path}: damaged, or holds more than tensors, which is refused: {_reason(error)}"
        ) from error
    state = tree.get("model") if isinstance(tree, dict) else None
    if not isinstance(state, dict) or not all(isinstance(each, Tensor) for each in state.values()):
        raise CheckpointError(f'{path}: no weights under the key "model"')
    config = config or FPT_BASE
    _check_tensors(path, config, _announced(state))
    return Checkpoint(path, config, dict(state), 0.0, _PUBLISHED_LICENCE, {})


def _reason(error: Exception) -> str:
    """The one line that matters of what PyTorch says; the rest is how to load without guard."""
    text = str(error)
    text = text.partition("WeightsUnpickler error:")[2] or text
    lines = (line.strip() for line in text.splitlines() if "weights_only" not in line)
    return next(filter(None, lines), type(error).__name__).partition(" Please use")[0]


def _check_archive(path: Path, file: _OpenFile) -> None:
    """Raise CheckpointError if reading a PyTorch file could take more memory than its size.

    `weights_only` keeps a pickle from running code, not from asking for a bytearray of any length.
    """
    with zipfile.ZipFile(file.path) as archive:
        for entry in archive.infolist():
            if entry.compress_type != zipfile.ZIP_STORED:
                raise CheckpointError(f"{path}: {entry.filename} is compressed, which is refused")
            if entry.filename.endswith(".pkl"):
                for _, argument, _ in pickletools.genops(archive.read(entry)):
                    if argument in _ALLOCATING:
                        raise CheckpointError(f"{path}: holds a bytearray, which is refused")


def _announced(state: Mapping[str, Tensor]) -> dict[str, tuple[str, list[int]]]:
    """Data type, as safetensors spells it, and shape of every tensor."""
    return {
        name: (
            "F32" if each.dtype == torch.float32 and each.layout == torch.strided else "other",
            list(each.shape),
        )
        for name, each in state.items()
    }


def _check_tensors(
    path: Path, config: ModelConfig, found: Mapping[str, tuple[str, list[int]]]
) -> None:
    """Raise CheckpointError unless the tensors are exactly those of the network, in float32."""
    expected = _announced(_empty_model(config).state_dict())
    wrong = [
        f"{name} is {found[name][0]} {found[name][1]} and should be F32 {expected[name][1]}"
        for name in expected
        if name in found and found[name] != expected[name]
    ]
    complaints = [
        f"{kind}: {_some(names)}"
        for kind, names in (
            ("missing", [name for name in expected if name not in found]),
            ("unexpected", [name for name in found if name not in expected]),
            ("wrong", wrong),
        )
        if names
    ]
    if complaints:
        raise CheckpointError(f"{path}: does not fit its network: {'; '.join(complaints)}")


def _check_finite(path: Path, state: Mapping[str, Tensor]) -> None:
    broken = [name for name, each in state.items() if not each.isfinite().all()]
    if broken:
        raise CheckpointError(f"{path}: NaN or infinity in {_some(broken)}")


def _some(names: Sequence[Any]) -> str:
    rest = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(map(str, names[:_LISTED])) + rest

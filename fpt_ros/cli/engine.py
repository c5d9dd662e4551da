"""`fpt engine`: build the engine that runs the network fast here, list and prune what is built."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fpt_ros.engines.choose import EngineName, PrecisionName, Wish


def engine(
    action: tyro.conf.Positional[Literal["build", "list", "prune"]],
    checkpoint: Path | None = None,
    engine: EngineName = "auto",
    precision: PrecisionName = "auto",
    device: str = "auto",
    threads: int = 0,
    folder: Annotated[Path | None, tyro.conf.arg(aliases=["--engine-dir"])] = None,
    rebuild: bool = False,
    end_with_stdin: bool = False,
) -> int:
    """Build the engine that runs the network fast on this machine; list or prune what is built.

    An engine is compiled for these weights, this precision, this runtime and this device, compared
    with PyTorch, and refused if its answers differ. The node does the same by itself, and serves
    with PyTorch meanwhile; to build beforehand saves that time. To prune removes engines that no
    version installed here can load, or no device, and what interrupted builds have left.

    Examples:
      fpt engine build --checkpoint my.safetensors
      fpt engine list
      fpt engine prune

    Args:
        action: what to do
        checkpoint: file with the weights; default: those that come with the package
        engine: auto: the best for this machine
        precision: auto: the fastest that loses nothing that matters
        device: auto, cpu, cuda or cuda:N
        threads: CPU threads; 0: one per core
        folder: where engines are kept; default: ~/.cache/fpt_ros/engines
        rebuild: build it even if it is there
        end_with_stdin: end when the standard input does, as it does with who started this
    """
    from fpt_ros.engines import cache

    if end_with_stdin:
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    wish = Wish(engine, precision, device, threads, folder or cache.default_root())
    if action == "list":
        return _list(wish.root)
    if action == "prune":
        return _prune(wish.root)
    return _build(checkpoint, wish, rebuild)


def _build(path: Path | None, wish: Wish, rebuild: bool) -> int:
    from rich.console import Console

    from fpt_ros.core.checkpoint import load_checkpoint
    from fpt_ros.core.errors import EngineError
    from fpt_ros.engines import choose
    from fpt_ros.weights import default_checkpoint

    checkpoint = load_checkpoint(path or default_checkpoint())
    console = Console(stderr=True)
    problems = []
    for name in wish.order():
        if name not in choose.BACKENDS:
            continue
        try:
            try:
                choose.load(checkpoint, name, wish)
                broken = False
            except EngineError as error:
                console.print(f"building {name}: {error}", highlight=False, soft_wrap=True)
                broken = choose.is_built(checkpoint, name, wish)
            with console.status(f"building {name}") as status:
                entry = choose.build(
                    checkpoint,
                    name,
                    wish,
                    lambda stage: status.update(f"building {name}: {stage}"),  # noqa: B023
                    rebuild or broken,
                )
        except EngineError as error:
            problems.append(f"{name}: {error}")
            continue
        print(f"{entry.folder}\n{_errors(entry.record)}")
        return 0
    if problems:
        raise EngineError("; ".join(problems))
    print("nothing to build: PyTorch runs the network here")
    return 0


def _end_with_stdin() -> None:
    while os.read(0, 4096):
        pass
    os._exit(1)  # what it has written is cleaned up by the next build


def _list(root: Path) -> int:
    from fpt_ros.engines import cache

    entries = list(cache.entries(root))
    for entry in entries:
        identity = entry.record["identity"]
        size = cache.size_bytes(entry.folder)
        print(entry.folder.name)
        print(f"  {identity.get('runtime')} on {identity.get('device')}, {size / 1e6:.0f} MB")
        print(f"  weights {str(identity.get('weights_sha256'))[:12]}")
        print(f"  differs from PyTorch by {_errors(entry.record)}")
    print(f"{len(entries)} {'engine' if len(entries) == 1 else 'engines'} in {root}")
    return 0


def _prune(root: Path) -> int:
    from fpt_ros.engines import cache, choose

    freed = 0
    for name, n_bytes in cache.prune(root, choose.loads_here):
        print(f"removed {name}, {n_bytes / 1e6:.0f} MB")
        freed += n_bytes
    print(f"{freed / 1e6:.0f} MB freed in {root}")
    return 0


def _errors(record: dict[str, object]) -> str:
    parity = record.get("parity")
    if not isinstance(parity, dict):
        return "unknown"
    return ", ".join(f"{name} {value:.2g}" for name, value in parity.items())


if __name__ == "__main__":
    from fpt_ros.cli import main

    sys.exit(main(["engine", *sys.argv[1:]]))

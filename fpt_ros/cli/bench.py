"""`fpt bench`: how fast the network runs, against its plain implementation and the machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from fpt_ros.engines.choose import EngineName, PrecisionName, Wish

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fpt_ros.core.checkpoint import Checkpoint
    from fpt_ros.core.engine import Engine
    from fpt_ros.evaluate.runner import TestSample

_SEED = 0


def bench(
    what: tyro.conf.Positional[Literal["speed", "refine", "joint"]] = "speed",
    checkpoint: Path | None = None,
    base: bool = False,
    engine: EngineName = "auto",
    precision: PrecisionName = "auto",
    device: str = "auto",
    threads: int = 0,
    turns: int = 10,
    only: tuple[str, ...] = (),
    quick: bool = False,
    data: Path | None = None,
    views: int = 24,
    out: Path = Path("runs/bench"),
) -> None:
    """Measure speed: each stage and from image to moving part, beside the plain implementation.

    The two run in turns, so that ratios hold on a machine that does other work too. Plain is
    PyTorch in float32 with the keys of the image computed in every call, a dense mask and one
    call per candidate. Prints a table; writes bench.json, bench.md and bench.png into --out.

    `refine` measures how many queries refined maps save, and their error; `joint` what joint
    samples lose with several points per step. Both need test scenes (--data) and write to --out.

    Examples:
      fpt bench --base --engine openvino --only encode "1 query"
      fpt bench refine --data data/scenes

    Args:
        what: speed, refine or joint
        checkpoint: weights; default: those that come with the package
        base: FPT-Base at 448 px with random weights instead
        engine: what runs the network; auto: the best for this machine; built if need be
        precision: auto: the fastest that loses nothing that matters
        device: auto, cpu, cuda or cuda:N
        threads: CPU threads; 0: one per core
        turns: how often everything is measured
        only: only cases with one of these in their name
        quick: small sizes, to see that everything runs
        data: folder with the shards of test scenes, for refine and joint
        views: at most this many views of them, one outcome of each
        out: folder for the results
    """
    import torch

    from fpt_ros.core.errors import InvalidInputError
    from fpt_ros.engines.choose import torch_engine

    if turns < 1 or views < 1 or threads < 0:
        raise InvalidInputError("turns and views must be at least 1, threads at least 0")
    if threads:
        torch.set_num_threads(threads)
    loaded, name = _checkpoint(checkpoint, base)
    # The same for both that are compared, whatever either would choose.
    wish = Wish(engine, precision, device, threads or torch.get_num_threads())
    if what == "joint":  # its measures look into the network, and are not of speed
        wish = replace(wish, engine="torch", precision="fp32", device="cpu")
    running = _engine(loaded, wish)
    facts = {"model": name, "engine": f"{running.name}, {running.precision} ({running.key})"}
    if what == "speed":
        _speed(loaded, running, facts, turns, only, quick, out)
        return
    if data is None:
        raise InvalidInputError(f"{what} needs test scenes: --data FOLDER (made by `fpt scenes`)")
    from fpt_ros.bench import fidelity, refinement
    from fpt_ros.core.predictor import MotionPredictor

    samples = _samples(data, views)
    facts["data"] = f"{data}, split test, up to {views} views"
    if what == "refine":
        _lines("refine", refinement.compare(MotionPredictor(running), samples), facts, out)
    else:
        _lines("joint", fidelity.compare(torch_engine(loaded, wish), samples), facts, out)


def _checkpoint(path: Path | None, base: bool) -> tuple[Checkpoint, str]:
    """Weights and what to call them."""
    import hashlib

    import torch

    from fpt_ros.core.checkpoint import Checkpoint, load_checkpoint
    from fpt_ros.core.config import FPT_BASE
    from fpt_ros.core.errors import InvalidInputError
    from fpt_ros.core.model import FlowPokeModel
    from fpt_ros.weights import default_checkpoint

    if not base:
        path = path or default_checkpoint()
        loaded = load_checkpoint(path)
        return loaded, f"{path.name} ({loaded.sha256[:12]})"
    if path is not None:
        raise InvalidInputError("--base has random weights: leave out --checkpoint")
    name = f"FPT-Base at 448 px, random weights of seed {_SEED}"
    digest = hashlib.sha256(f"{name}, torch {torch.__version__}".encode()).hexdigest()
    torch.manual_seed(_SEED)
    state = FlowPokeModel(FPT_BASE).state_dict()
    return Checkpoint(Path(name), FPT_BASE, state, 0.0, "", {}, digest), name


def _engine(checkpoint: Checkpoint, wish: Wish) -> Engine:
    """The best engine that can be had, built first if need be. Raises EngineError."""
    from rich.console import Console

    from fpt_ros.core.errors import EngineError
    from fpt_ros.engines import choose

    service = choose.ready(checkpoint, wish)
    for name in service.to_build[:1]:
        with Console(stderr=True).status(f"building {name}"):
            choose.build(checkpoint, name, wish, lambda stage: None)
        service = choose.ready(checkpoint, wish)
    if wish.engine not in ("auto", service.engine.name):
        raise EngineError(service.refused[wish.engine])
    return service.engine


def _speed(
    checkpoint: Checkpoint,
    engine: Engine,
    facts: dict[str, Any],
    turns: int,
    only: tuple[str, ...],
    quick: bool,
    out: Path,
) -> None:
    from rich.progress import Progress

    from fpt_ros.bench import machine, report
    from fpt_ros.bench.speed import Plan, run
    from fpt_ros.bench.timing import by_cpu_time

    where = machine.describe(engine.device)
    with Progress(auto_refresh=False) as progress:  # its thread would count as the process's time
        task = progress.add_task("measuring", total=turns)
        plan = Plan(turns, 2 if quick else 5, only, quick)
        rows, peaks = run(
            checkpoint.build_model(),
            engine,
            plan,
            lambda done: progress.update(task, completed=done, refresh=True),
        )
    facts |= {
        "machine": "{gpu} {cpu}, {cores} cores ({isa}), {threads} threads".format_map(
            {**where, "gpu": where["gpu"] or "", "isa": " ".join(where["isa"])}
        ).strip(),
        "alone and ratio": "by the time for which the one thread had the CPU"
        if by_cpu_time(engine.device)
        else "by the clock",
        "load before": where["load"],
        "versions": ", ".join(f"{name} {v}" for name, v in where["versions"].items()),
        "measured peaks": f"{peaks.flops / 1e9:.0f} GFLOP/s in "
        f"{'bf16' if engine.precision == 'int8' else engine.precision}, "
        f"{peaks.fp32_flops / 1e9:.0f} in fp32, {peaks.bytes / 1e9:.1f} GB/s read",
        "command": _command(),
    }
    report.save(out, rows, {**facts, "details": where}, peaks)
    print(report.markdown(rows, facts))
    print(f"written: {out}/bench.json, bench.md, bench.png")


def _lines(
    name: str, measured: Iterable[list[dict[str, Any]]], facts: dict[str, Any], out: Path
) -> None:
    """Print and save the last of the tables, which grow with every sample."""
    import json

    from rich.progress import track

    from fpt_ros.bench.report import table
    from fpt_ros.core.errors import InvalidInputError
    from fpt_ros.evaluate.report import defined

    out.mkdir(parents=True, exist_ok=True)
    facts["command"] = _command()
    lines: list[dict[str, Any]] = []
    for so_far in track(measured, description=name):
        lines = so_far
        rows = [{key: defined(value) for key, value in line.items()} for line in lines]
        document = {"facts": facts, "lines": rows}
        (out / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n")
    if not lines:
        raise InvalidInputError("in none of the samples does anything move before a still camera")
    print("\n".join(f"* {key}: {value}" for key, value in facts.items()), end="\n\n")
    print(table(lines))
    print(f"written: {out}/{name}.json")


def _samples(data: Path, views: int) -> Iterable[TestSample]:
    """One outcome each of views that are spread evenly over the test scenes."""
    from fpt_ros.data.samples import ShardIndex
    from fpt_ros.evaluate.runner import load_samples

    index = ShardIndex.scan(data, "test").take(views)
    first = [replace(view, outcomes=view.outcomes[:1]) for view in index.views]
    return load_samples(replace(index, views=first))


def _command() -> str:
    import shlex
    import sys

    return shlex.join(["fpt", *sys.argv[1:]])

"""`fpt evaluate`: the paper's measures and the baselines, in one table."""

from __future__ import annotations

import shlex
import sys
import tempfile
from pathlib import Path


def evaluate(
    data: Path,
    checkpoint: Path | None = None,
    split: str = "test",
    families: tuple[str, ...] = (),
    views: int | None = None,
    outcomes: int | None = None,
    poke_counts: tuple[int, ...] = (0, 1, 2, 5, 10, 100),
    threshold_nats: float | None = None,
    out: Path = Path("runs/evaluation"),
    device: str = "auto",
) -> int:
    """Measure a checkpoint and the baselines on shards; print a table, save report and plots.

    Writes report.md, report.json (every record), report.png, and pictures of what was answered best
    and worst, best.jpg and worst.jpg, into --out. Ctrl-C ends it early with a report of the
    samples so far.

    Example: fpt evaluate --data data/scenes --split test --families laptop --views 100

    Args:
        data: folder with the shards that `fpt scenes` wrote
        checkpoint: weights to measure; default: the weights that come with the package
        split: which shards: train, val or test
        families: only these families of scenes; default: all in the split
        views: at most this many views, spread evenly; default: all
        outcomes: at most this many outcomes of each view; default: all
        poke_counts: numbers of pokes to condition on
        threshold_nats: of masks by the moving-part score (KL) alone; default: 1
        out: folder for the report
        device: auto (a GPU if there is one), cpu, cuda or cuda:N
    """
    from dataclasses import replace

    from rich.console import Console
    from rich.markdown import Markdown
    from rich.progress import track

    from fpt_ros.core.errors import InvalidInputError
    from fpt_ros.core.predictor import MotionPredictor
    from fpt_ros.data.samples import ShardIndex, describe
    from fpt_ros.engines.choose import Wish
    from fpt_ros.evaluate import cases, report
    from fpt_ros.evaluate.runner import EvaluationSettings, load_samples, numbers_only
    from fpt_ros.evaluate.runner import evaluate as run
    from fpt_ros.weights import default_checkpoint

    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=out):
        pass  # better now than after an hour
    checkpoint = checkpoint or default_checkpoint()
    predictor = MotionPredictor.from_checkpoint(checkpoint, Wish(device=device).torch_device())
    settings = EvaluationSettings(poke_counts=poke_counts)
    if threshold_nats is not None:
        settings = replace(settings, threshold_nats=threshold_nats)
    index = ShardIndex.scan(data, split)
    if families:
        known = {view.family for view in index.views}
        if unknown := sorted(set(families) - known):
            raise InvalidInputError(
                f"{data} has no {', '.join(unknown)} in split {split}; it has "
                f"{', '.join(sorted(known))}"
            )
        index = replace(index, views=[view for view in index.views if view.family in families])
    if views is not None:
        if views < 1:
            raise InvalidInputError(f"views must be at least 1, got {views}")
        index = index.take(views)
    if outcomes is not None:
        if outcomes < 1:
            raise InvalidInputError(f"outcomes must be at least 1, got {outcomes}")
        fewer = [replace(view, outcomes=view.outcomes[:outcomes]) for view in index.views]
        index = replace(index, views=fewer)
    progress = track(load_samples(index), total=index.n_outcomes, description="evaluating")
    records = []
    stopped = False
    try:
        for record in numbers_only(run(predictor, progress, settings)):
            records.append(record)  # noqa: PERF402  what there is stays when it is stopped
    except KeyboardInterrupt:
        # The last one may not be complete.
        records = [record for record in records if record["key"] != records[-1]["key"]]
        if not records:
            raise
        stopped = True
    facts = {
        "checkpoint": f"{checkpoint.name} ({predictor.model_id})",
        "data": f"{data}, split {split}, families {', '.join(families) or 'all'}",
        "settings": settings,
        "skipped": describe(index.skipped) or "nothing",
        "command": shlex.join(["fpt", *sys.argv[1:]]),
    }
    if stopped:
        n = len({record["key"] for record in records})
        facts["stopped early"] = (
            f"{n} of about {index.n_outcomes} samples were measured, family after family: these "
            "are not the numbers of all"
        )
    text = report.save(out, f"Evaluation on {split}", records, facts)
    Console().print(Markdown(text))
    best, worst = cases.best_and_worst(records)
    again = load_samples(index)
    pictures = cases.save(out, predictor, again, best, worst)
    names = ["report.md", "report.json", "report.png", *(each.name for each in pictures)]
    print(f"written into {out}: {', '.join(names)}")
    return 130 if stopped else 0

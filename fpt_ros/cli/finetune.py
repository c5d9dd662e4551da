"""`fpt finetune`: adapt a model to recordings, and say whether it got better."""

from __future__ import annotations

import logging
import math
import sys
from typing import Annotated

import tyro

from fpt_ros.cli.logs import log_to_stderr
from fpt_ros.train.finetune_config import FineTuneConfig

log = logging.getLogger(__name__)


def finetune(config: Annotated[FineTuneConfig, tyro.conf.arg(name="")]) -> int:
    """Fine-tune a model on recordings, and say whether it got better.

    The recordings are split in time, so that nothing of what is measured on was trained on. The
    result is promoted only if it is better there and has forgotten little of the synthetic world.
    Exit code: 0 promoted, 1 not. An interrupted run (130) goes on with --resume.

    Example: fpt finetune --bag recording/ --out runs/kitchen --minutes 10
    """
    from rich.console import Console
    from rich.markdown import Markdown
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    from fpt_ros.train.finetune import FineTuning, Stopped
    from fpt_ros.train.progress import TRAINING, Progress

    log_to_stderr()
    console = Console(stderr=True, highlight=False)
    bar = Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:.1f} % of all"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
        console=console,
        transient=True,
        disable=not console.is_interactive,
    )
    task = bar.add_task("beginning", total=1.0, left="")
    phases: list[str] = []

    def tell(progress: Progress) -> None:
        left_min = progress.time_left_s / 60
        left = "" if math.isnan(left_min) else f"about {left_min:.0f} min left"
        if progress.phase not in phases:
            phases.append(progress.phase)
            done = f"{100 * progress.fraction:.0f} % of all done"
            log.info("%s (%s)", progress.phase, ", ".join(filter(None, (done, left))))
        bar.update(task, completed=progress.fraction, description=progress.phase, left=left)
        if progress.phase == TRAINING:  # which has a bar of its own
            bar.stop()
        else:
            bar.start()

    try:
        with bar:
            outcome = FineTuning(config, tell).run()
    except Stopped as stop:
        print(f"fpt finetune: {stop}", file=sys.stderr)
        return 130
    Console().print(Markdown(outcome.text))
    print(f"{outcome.verdict.sentence()}\n{outcome.checkpoint}\n{outcome.report}")
    return 0 if outcome.verdict.promoted else 1

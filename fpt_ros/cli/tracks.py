"""`fpt tracks`: turn recordings into samples of motion to learn from."""

from __future__ import annotations

from pathlib import Path

import tyro


def tracks(
    sources: tyro.conf.Positional[tuple[Path, ...]],
    out: Path,
    topics: tuple[str, ...] = (),
    horizon_s: float | None = None,
    base: Path | None = None,
    stride_s: float = 0.2,
    test: bool = False,
    image_px: int = 320,
    grid: int = 64,
    image_rate_hz: float = 10.0,
    tracker: str = "classical",
    tracker_weights: Path | None = None,
    device: str = "cpu",
) -> int:
    """Track what moves in bags, videos or folders of images, and write shards for training.

    The recordings are split by blocks of time with gaps, so that nothing of validation is seen in
    training; bags that overlap in time count as one recording. An interrupted run continues when it
    is called again, with the recordings that it began with. tracks.md and tracks.png in the folder
    say what was kept and what was left out. Exit code 1: there was nothing to learn from.

    Examples:
      fpt tracks monday.mcap tuesday/ --topics /camera/image_raw --out data/robot
      fpt tracks videos/ --horizon-s 0.5 --out data/videos

    Args:
        sources: rosbag2 folders or files, videos, folders of them, folders of images
        out: folder of the shards
        topics: image topics of the bags; default: every camera's
        horizon_s: time over which motion is measured; default: that of the base checkpoint
        base: checkpoint that will be fine-tuned; default: the weights that come with the package
        stride_s: time between the first images of samples
        test: hold out a test split besides validation
        image_px: side of the stored pictures
        grid: points per side that are tracked
        image_rate_hz: of folders of images
        tracker: classical (no weights needed), cotracker3 or tapnext
        tracker_weights: file with the weights of a learned tracker
        device: of a learned tracker: cpu, cuda or cuda:N
    """
    from rich.console import Console
    from rich.markdown import Markdown
    from rich.progress import Progress

    from fpt_ros.core.errors import InvalidInputError
    from fpt_ros.data.clips import make_shards
    from fpt_ros.data.clips_report import save_report
    from fpt_ros.data.tracks.choice import choose_tracker
    from fpt_ros.data.windows import ClipSettings

    if not sources:
        raise InvalidInputError("name bags, videos, or folders of them or of images")
    settings = ClipSettings(
        _horizon_of(base) if horizon_s is None else horizon_s, stride_s, image_px, grid, test
    )
    chosen = choose_tracker(tracker, tracker_weights, device)
    console = Console(stderr=True, highlight=False)
    with Progress(console=console) as bar:
        task = bar.add_task("opening", total=1.0)
        report = make_shards(
            sources,
            topics,
            out,
            settings,
            chosen,
            image_rate_hz,
            lambda fraction, doing: bar.update(task, completed=fraction, description=doing),
        )
    Console().print(Markdown(save_report(out, report)))
    print(f"written: {out}/tracks.md, {out}/*.tar")
    return 0 if report.samples["train"] else 1


def _horizon_of(base: Path | None) -> float:
    """The time over which a checkpoint predicts, s."""
    from fpt_ros.core.checkpoint import load_checkpoint
    from fpt_ros.core.errors import InvalidInputError
    from fpt_ros.weights import default_checkpoint

    path = base or default_checkpoint()
    horizon_s = load_checkpoint(path).horizon_s
    if not horizon_s:
        raise InvalidInputError(f"{path} does not say its horizon; give --horizon-s")
    return horizon_s

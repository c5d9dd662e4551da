"""Fine-tune the default weights and show before and after; started by `make demo-finetune`.

    python -m demo.finetune                         # on the bundled recording
    python -m demo.finetune --footage FOLDER        # on bags of box.mp4, umi_cup.gif, vtest.avi
    python -m demo.finetune --unseen laptop         # on places with things never trained on

What else is given goes to `fpt finetune`, for example `--steps 300 --threads 1`. The second and the
third are the experiments of the model card: the clips are split in time; of the rendered places
other views than those of training are held out, and their motion is known exactly.
"""

import argparse
import shutil
import sys
from contextlib import ExitStack
from pathlib import Path

from demo.make_bag import START_NS, Clip, make_bag
from fpt_ros.cli import main as fpt
from fpt_ros.core.errors import InvalidInputError

BAG = Path(__file__).parent / "bag"
CLIPS = (  # whole, at the rate they were taken with
    Clip("box.mp4", first=0, stop=455, step=1, rate_hz=29.97, jpeg_quality=90),
    Clip("umi_cup.gif", first=0, stop=110, step=1, rate_hz=10.0, jpeg_quality=90),
    Clip("vtest.avi", first=0, stop=795, step=1, rate_hz=10.0, jpeg_quality=90),
)
PLACES = 40
VIEWS_OF_SPLIT = {"train": range(6), "val": range(6, 7), "test": range(7, 8)}
MADE = ("bags", "places", "run")  # folders in --out
MARKER = ".fpt_demo_finetune"  # says that these are the demonstration's
_SEED = 7000


def main() -> int:
    """Prepare the data, run `fpt finetune`; return 0 when there is a report, whatever it says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], prog="demo.finetune")
    parser.add_argument("--out", type=Path, default=Path("demo_output/finetune"), help="folder")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--footage", type=Path, help="folder with the clips, in any subfolder")
    source.add_argument("--unseen", help="a family of things: laptop, tap or swing_window")
    arguments, rest = parser.parse_known_args()
    out: Path = arguments.out
    if not {"--minutes", "--steps"}.intersection(rest):
        rest += ["--minutes", "10" if arguments.footage or arguments.unseen else "5"]
    try:
        if "--resume" not in rest:
            make_room(out)
        if arguments.footage:
            data = ["--bag", *map(str, make_bags(arguments.footage, out / "bags"))]
        elif arguments.unseen:
            data = ["--data", str(render_places(arguments.unseen, out / "places"))]
        else:
            data = ["--bag", str(BAG)]
    except (InvalidInputError, OSError) as error:
        print(f"demo.finetune: {error}", file=sys.stderr)
        return 2
    code = fpt(["finetune", *data, "--out", str(out / "run"), *rest])
    return 0 if code == 1 else code


def make_room(out: Path) -> None:
    """Remove what an earlier demonstration made, and nothing else."""
    made = [out / name for name in MADE if (out / name).exists()]
    if made and not (out / MARKER).exists():
        raise InvalidInputError(f"{made[0]} is not of this demonstration: choose another --out")
    for folder in made:
        shutil.rmtree(folder)
    out.mkdir(parents=True, exist_ok=True)
    (out / MARKER).touch()


def make_bags(footage: Path, out: Path) -> list[Path]:
    """One bag for each clip that is there, an hour apart: what overlaps counts as one recording."""
    bags = []
    for hour, clip in enumerate(CLIPS):
        found = sorted(footage.rglob(clip.file))
        if not found:
            continue
        bags.append(out / Path(clip.file).stem)
        if not bags[-1].exists():
            out.mkdir(parents=True, exist_ok=True)
            make_bag(found[0].parent, bags[-1], (clip,), START_NS + hour * 3_600_000_000_000)
    if not bags:
        names = ", ".join(clip.file for clip in CLIPS)
        raise InvalidInputError(f"{footage} holds none of {names}")
    return bags


def render_places(family: str, out: Path) -> Path:
    """Shards of places with such things: some views are for training, others are held out."""
    from rich.progress import track

    from fpt_ros.data.scenes.generate import SceneSettings, samples
    from fpt_ros.data.shards import add_sample
    from fpt_ros.data.tarfiles import new_shard

    settings = SceneSettings(views=8, outcomes=4, moving_camera=0.0)
    paths = {split: out / f"{split}-00000.tar" for split in VIEWS_OF_SPLIT}
    if all(path.exists() for path in paths.values()):
        return out
    out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        tars = {split: stack.enter_context(new_shard(path)) for split, path in paths.items()}
        for place in track(range(PLACES), description=f"rendering places with a {family}"):
            # Seeds of the test split: no default weights were trained on them.
            for number, sample in enumerate(samples(family, 3 * (_SEED + place) + 2, settings)):
                for split, views in VIEWS_OF_SPLIT.items():
                    if sample.about["view"] in views:
                        add_sample(tars[split], f"{split}-{place:05d}-{number:05d}", sample)
    return out


if __name__ == "__main__":
    sys.exit(main())

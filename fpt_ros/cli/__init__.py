"""The `fpt` command: one module per subcommand, imported only when it is asked for."""

from __future__ import annotations

import difflib
import inspect
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from fpt_ros.cli.pip import install_command
from fpt_ros.core.errors import FptError

# Each names a module of this package and the function in it that is the subcommand.
COMMANDS = {
    "predict": "what moves if an image is poked: picture and numbers, no ROS needed",
    "doctor": "what works on this machine, what is missing, and the command that mends it",
    "engine": "build the engine that runs the network fast on this machine, list what is built",
    "play": "publish a recording, for machines without `ros2 bag`",
    "record": "record topics, for machines without `ros2 bag`",
    "bag": "what a recording holds, and what of it can be learned from",
    "tracks": "turn recordings into training data",
    "scenes": "make training data in the procedural world",
    "train": "train a model on such data",
    "evaluate": "measure a model and the baselines",
    "finetune": "adapt a model to recordings, and say whether it got better",
    "bench": "measure speed, and what shortcuts to it cost in accuracy",
}

# What to install for modules that are named otherwise; "" where a package alone is no remedy.
_PACKAGES = {
    "cv2": "opencv-python-headless",
    "skimage": "scikit-image",
    "rclpy": "",
    "fpt_ros": "",  # its messages have not been built
}

_USAGE = """\
usage: fpt COMMAND ...

Physical foresight for robots: what would move if I push here, where to, and how sure is that?

{commands}

`fpt COMMAND --help` explains a command. To begin with:

  fpt doctor
  fpt predict photo.jpg --poke 320,240,60,0 --out what_if.png
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `fpt` with these arguments, by default those of the process; return the exit code.

    Codes: 0 done, 1 the command's own verdict (`fpt doctor`), 2 wrong use or input, which is said
    in one line, 130 interrupted.
    """
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("-h", "--help"):
        print(_usage(), end="")
        return 0
    if name not in COMMANDS:
        guess = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean `fpt {guess[0]}`?" if guess else "`fpt --help` lists the commands"
        print(f"fpt: there is no command {name!r}; {hint}", file=sys.stderr)
        return 2
    try:
        return _run(name, rest)
    except (FptError, OSError) as error:
        print(f"fpt {name}: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        module = str(error.name).partition(".")[0]
        package = _PACKAGES.get(module, module)
        remedy = install_command(package) if package else "see `fpt doctor`"
        print(f"fpt {name}: the Python module {error.name} is missing: {remedy}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _run(name: str, arguments: Sequence[str]) -> int:
    import tyro

    command: Callable[..., int | None] = getattr(import_module(f"fpt_ros.cli.{name}"), name)
    try:
        # The docstring without its arguments, examples and line breaks as they are.
        description = (inspect.getdoc(command) or "").partition("\nArgs:")[0].rstrip()
        code = tyro.cli(command, prog=f"fpt {name}", description=description, args=arguments)
    except SystemExit as finished:  # --help, or arguments that tyro has complained about
        return int(finished.code or 0)
    return code or 0


def _usage() -> str:
    width = max(map(len, COMMANDS))
    rows = (f"  {name:<{width}}  {summary}" for name, summary in COMMANDS.items())
    return _USAGE.format(commands="\n".join(rows))

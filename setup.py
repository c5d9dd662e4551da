"""Builds the ROS messages for `pip install`; everything else is declared in pyproject.toml.

CMake builds and installs the package into a staging folder, exactly as it does under colcon. The
generated Python modules then join the package (the source tree itself for an editable
installation), and the rest (libraries, interface definitions, launch files, weights) goes where a
ROS installation has it: `lib/`, `share/` and `include/` below `sys.prefix`. `bin/` is left to
setuptools' own entry points.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from setuptools import Command, Distribution, setup
from setuptools.command.build import build

SOURCE = Path(__file__).parent.resolve()
PACKAGE = "fpt_ros"


class InterfaceDistribution(Distribution):
    """A distribution whose compiled modules and data files come to be during the build."""

    def has_ext_modules(self) -> bool:
        """Return True: the wheel is bound to this platform and Python version."""
        return True

    def has_data_files(self) -> bool:
        """Return True, since `build_interfaces` adds them; asked for by a normal installation."""
        return True

    has_data = has_data_files  # asked for by an editable installation


class BuildWithInterfaces(build):
    """The usual build, then the ROS interfaces."""

    sub_commands = [*build.sub_commands, ("build_interfaces", None)]  # noqa: RUF012

    def run(self) -> None:
        """Build from nothing: modules deleted since an earlier build must not ship again."""
        shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()


class BuildInterfaces(Command):
    """Generate and compile messages, services and actions with CMake."""

    def initialize_options(self) -> None:
        """Declare the options that setuptools sets."""
        self.build_lib: str | None = None
        self.build_temp: str | None = None
        self.editable_mode = False

    def finalize_options(self) -> None:
        """Share the build folders of the `build` command."""
        self.set_undefined_options(
            "build", ("build_lib", "build_lib"), ("build_temp", "build_temp")
        )

    def run(self) -> None:
        """Build into a staging folder and hand its content to setuptools."""
        work = Path(self.build_temp).resolve() / "interfaces"
        # A cache of an earlier build names that build's isolated environment, gone by now.
        shutil.rmtree(work, ignore_errors=True)
        staging = work / "staging"
        run_cmake(work / "cmake", staging)

        package = SOURCE / PACKAGE if self.editable_mode else Path(self.build_lib) / PACKAGE
        generated = staging / "site" / PACKAGE
        for kind in ("msg", "srv", "action"):
            shutil.rmtree(package / kind, ignore_errors=True)
            ignored = shutil.ignore_patterns("__pycache__", "*.c")
            shutil.copytree(generated / kind, package / kind, ignore=ignored)
        for library in generated.glob("*.so"):
            # A new file, not new content: a running process may have the old one mapped.
            (package / library.name).unlink(missing_ok=True)
            shutil.copy2(library, package)

        # Commands that exist by now hold on to the list itself.
        files: dict[str, list[str]] = {}
        for path in sorted(staging.rglob("*")):
            relative = path.relative_to(staging)
            if path.is_file() and relative.parts[0] in {"include", "lib", "share"}:
                files.setdefault(str(relative.parent), []).append(str(path))
        self.distribution.data_files[:] = files.items()

    def get_source_files(self) -> list[str]:
        """List what the build reads, relative to this file."""
        folders = (SOURCE / "msg", SOURCE / "srv", SOURCE / "action", SOURCE / "cmake")
        files = [path for folder in folders for path in folder.iterdir()]
        files += [SOURCE / "CMakeLists.txt", SOURCE / "package.xml"]
        return [str(path.relative_to(SOURCE)) for path in files]

    def get_outputs(self) -> list[str]:
        """List files for an installation record: pip makes its own."""
        return []

    def get_output_mapping(self) -> dict[str, str]:
        """Map outputs to sources: none of them has one."""
        return {}


def run_cmake(build_folder: Path, staging: Path) -> None:
    """Configure, compile and install into `staging`, against the ROS wheels of this Python."""
    ros = ros_prefix()
    environment = {
        **os.environ,
        "AMENT_PREFIX_PATH": str(ros),
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    options = {
        "BUILD_TESTING": "OFF",
        "CMAKE_BUILD_TYPE": "Release",
        "CMAKE_INSTALL_PREFIX": staging,
        "CMAKE_PREFIX_PATH": ros,
        "CMAKE_PROJECT_INCLUDE": SOURCE / "cmake" / "wheels.cmake",
        "PYTHON_INSTALL_DIR": "site",
        "Python3_EXECUTABLE": sys.executable,
    }
    definitions = [f"-D{name}={value}" for name, value in options.items()]
    configure = ["-S", str(SOURCE), "-B", str(build_folder), *definitions]
    install = ["--build", str(build_folder), "--target", "install", "-j", str(os.cpu_count())]
    for arguments in (configure, install):
        subprocess.run([sys.executable, "-m", "cmake", *arguments], check=True, env=environment)


def ros_prefix() -> Path:
    """Return the folder with `lib/` and `share/` of the ROS wheels, next to the running Python."""
    generator = importlib.util.find_spec("rosidl_generator_py")
    if generator is None or generator.origin is None:
        sys.exit(
            "fpt_ros: the ROS message generators are missing. Use `pip install` with build "
            "isolation, or install the build requirements in pyproject.toml first."
        )
    for folder in Path(generator.origin).parents:
        if (folder / "share" / "rosidl_generator_py").is_dir():
            return folder
    sys.exit(f"fpt_ros: found {generator.origin}, but no share/rosidl_generator_py above it.")


manifest = ElementTree.parse(SOURCE / "package.xml").getroot()
setup(
    version=manifest.findtext("version"),
    description=manifest.findtext("description"),
    data_files=[],
    distclass=InterfaceDistribution,
    cmdclass={"build": BuildWithInterfaces, "build_interfaces": BuildInterfaces},
)

"""Finding the weights that come with the package."""

from pathlib import Path

import pytest

from fpt_ros import share
from fpt_ros.core.checkpoint import load_checkpoint
from fpt_ros.core.errors import CheckpointError
from fpt_ros.train.recipe import base_rate
from fpt_ros.weights import default_checkpoint

WEIGHTS = Path(__file__).parent.parent / "weights" / "fpt_small.safetensors"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Pretend that the package is installed below tmp_path."""
    folder = tmp_path / "lib" / "python3.11" / "site-packages" / "fpt_ros"
    folder.mkdir(parents=True)
    monkeypatch.setattr(share, "__file__", str(folder / "share.py"))
    return folder


def test_weights_in_the_prefix(package, tmp_path):
    folder = tmp_path / "share" / "fpt_ros" / "weights"
    folder.mkdir(parents=True)
    (folder / "small.safetensors").touch()
    (folder / "README.md").touch()
    assert default_checkpoint() == folder / "small.safetensors"


def test_weights_beside_the_package_are_those_of_a_source_tree(package):
    folder = package.parent / "weights"
    folder.mkdir()
    (folder / "small.safetensors").touch()
    with pytest.raises(CheckpointError, match="no weights came with this installation"):
        default_checkpoint()  # a neighbour in site-packages bears the same name
    (package.parent / "package.xml").touch()
    assert default_checkpoint() == folder / "small.safetensors"


def test_no_weights(package, tmp_path):
    with pytest.raises(CheckpointError, match="no weights came with this installation"):
        default_checkpoint()
    (tmp_path / "share" / "fpt_ros" / "weights").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="share/fpt_ros/weights"):
        default_checkpoint()


def test_weights_are_not_chosen_at_random(package, tmp_path):
    folder = tmp_path / "share" / "fpt_ros" / "weights"
    folder.mkdir(parents=True)
    for name in ("b.safetensors", "a.safetensors"):
        (folder / name).touch()
    with pytest.raises(CheckpointError, match=r"several weights \(a.safetensors, b.safetensors\)"):
        default_checkpoint()


def test_the_default_weights_tell_the_runs_behind_them():
    """Fine-tuning takes its rate from the run that brought them up, which others followed."""
    assert base_rate(load_checkpoint(WEIGHTS).training) == 7e-4

"""The files of goals."""

import os
from pathlib import Path

import pytest

from fpt_ros.core.errors import InvalidInputError
from fpt_ros.nodes.finetune_files import GoalFiles


@pytest.mark.parametrize("has_links", [True, False])
def test_what_was_promoted_outlives_its_folder_on_drives_without_links_too(
    tmp_path, monkeypatch, has_links
):
    def link(source, target):
        raise PermissionError(1, "Operation not permitted")

    if not has_links:
        monkeypatch.setattr(os, "link", link)
    for night in ("one", "two"):
        files = GoalFiles.inside(tmp_path, night)
        files.folder.mkdir()
        tuned = files.folder / "tuned.safetensors"
        tuned.write_text(night)
        files.promote(str(tuned))
        tuned.unlink()
        assert files.promoted.read_text() == night
    assert {path.name for path in tmp_path.iterdir()} == {"one", "two", "promoted.safetensors"}


def test_the_folder_of_an_unknown_user_is_refused():
    with pytest.raises(InvalidInputError, match="parameter output_dir, ~nobody-of-this-name"):
        GoalFiles.inside(Path("~nobody-of-this-name/models"), "goal")

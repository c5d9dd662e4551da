import dataclasses
from pathlib import Path

import pytest

from fpt_ros.params import (
    FINE_TUNE_TABLE,
    TABLE,
    FineTuneSettings,
    Settings,
    changed,
    markdown_table,
)


@pytest.mark.parametrize(
    ("settings", "table"), [(Settings, TABLE), (FineTuneSettings, FINE_TUNE_TABLE)]
)
def test_every_setting_is_described_and_its_default_is_allowed(settings, table):
    for field in dataclasses.fields(settings):
        row = table[field.name]
        assert row.description.endswith(".")
        assert row.refusal(row.default, configured=False) is None
        assert type(row.default).__name__ == str(getattr(field.type, "__name__", field.type))


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("grid_size", 1, "from 2 to 128, got 1"),
        ("grid_size", True, "an integer, got True"),
        ("grid_size", 32.0, "an integer, got 32.0"),
        ("grid_size", "32", "an integer, got '32'"),
        ("grid_size", None, "an integer, got None"),
        ("camera_static", 1, "true or false, got 1"),
        ("max_image_age_s", float("nan"), "from 0 to 1e+09, got nan"),
        ("max_image_age_s", float("inf"), "got inf"),
        ("max_image_age_s", -1, "got -1"),
        ("image_qos", "fast", "one of sensor_data, reliable, got 'fast'"),
        ("checkpoint", 3, "a string, got 3"),
    ],
)
def test_bad_values_are_refused_with_name_and_reason(name, value, reason):
    refusal = TABLE[name].refusal(value, configured=False)
    assert refusal is not None
    assert refusal.startswith(name)
    assert reason in refusal


def test_only_live_parameters_change_while_a_model_is_held():
    assert TABLE["grid_size"].refusal(16, configured=True) is None
    refusal = TABLE["device"].refusal("cpu", configured=True)
    assert refusal is not None
    assert "cleanup" in refusal
    assert TABLE["device"].refusal("cpu", configured=False) is None


def test_integers_are_taken_for_numbers():
    assert TABLE["max_rate_hz"].refusal(5, configured=True) is None
    settings = changed(Settings(), {"max_rate_hz": 5, "use_sim_time": True})
    assert settings == dataclasses.replace(Settings(), max_rate_hz=5.0)
    assert isinstance(settings.max_rate_hz, float)


def test_descriptors_carry_ranges_and_constraints():
    pytest.importorskip("rcl_interfaces.msg")
    grid = TABLE["grid_size"].descriptor()
    assert (grid.integer_range[0].from_value, grid.integer_range[0].to_value) == (2, 128)
    assert not grid.floating_point_range
    age = TABLE["max_image_age_s"].descriptor()
    assert age.floating_point_range[0].to_value == 1e9
    qos = TABLE["image_qos"].descriptor()
    assert "sensor_data, reliable" in qos.additional_constraints
    assert "unconfigured" in qos.additional_constraints
    read_only = {row.name for row in FINE_TUNE_TABLE.values() if row.descriptor().read_only}
    assert read_only == {"bag", "topic", "promote"}


def test_markdown_has_one_row_per_parameter():
    lines = markdown_table().splitlines()
    assert len(lines) == 2 + len(TABLE)
    assert all(line.count("|") == 6 for line in lines)
    assert any(line.startswith("| `grid_size` | `32` | 2 … 128 | yes |") for line in lines)


def test_the_readme_shows_this_table():
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    assert f"<!-- begin parameters -->\n{markdown_table()}<!-- end parameters -->" in readme
    other = markdown_table(FINE_TUNE_TABLE)
    begin, end = (f"<!-- {word} fine-tuning parameters -->" for word in ("begin", "end"))
    assert f"{begin}\n{other}{end}" in readme

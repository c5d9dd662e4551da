"""`fpt doctor`: rows, verdict, and probes that crash or hang."""

import json

import pytest

from fpt_ros import cli
from fpt_ros.cli import doctor

GOOD = doctor.Finding("Python", "ok", "3.11", needed=True)
WANTED = doctor.Finding("OpenVINO", "missing", "no Python module", "pip install openvino")
BAD = doctor.Finding("PyTorch", "broken", "illegal instruction", "pip install torch", needed=True)


@pytest.mark.parametrize(("findings", "code"), [([GOOD, WANTED], 0), ([GOOD, WANTED, BAD], 1)])
def test_verdict(monkeypatch, capsys, findings, code):
    monkeypatch.setattr(doctor, "_CHECKS", [lambda found=found: found for found in findings])
    assert cli.main(["doctor"]) == code
    table = capsys.readouterr().out
    assert "Python *" in table
    assert "-> pip install openvino" in table
    assert ("Predictions work here." in table) == (code == 0)
    assert cli.main(["doctor", "--json"]) == code
    answer = json.loads(capsys.readouterr().out)
    assert answer["works"] == (code == 0)
    assert answer["findings"][1]["remedy"] == "pip install openvino"


def test_probes_survive_crashes_and_hangs(monkeypatch):
    assert doctor._probe("print('one'); print('two')") == (True, "two")
    assert doctor._probe("raise OSError('no libGL')") == (False, "OSError: no libGL")
    works, detail = doctor._probe("import os; os.abort()")
    assert not works
    assert "exit code -6" in detail
    monkeypatch.setattr(doctor, "_PROBE_TIMEOUT_S", 0.5)
    works, detail = doctor._probe("import time; time.sleep(60)")
    assert not works
    assert detail == "no answer within 0.5 s; try again on a quiet machine"


def test_modules_that_are_there_missing_or_broken(tmp_path, monkeypatch):
    (tmp_path / "broken_module.py").write_text("raise ImportError('wrong libc')")
    monkeypatch.syspath_prepend(tmp_path)
    there = doctor._module("JSON", "json", "pip install json", "print(json.dumps(1))")()
    assert (there.state, there.detail, there.remedy) == ("ok", "1", "")
    missing = doctor._module("Other", "no_such_module", "pip install it", needed=True)()
    assert (missing.state, missing.remedy, missing.needed) == ("missing", "pip install it", True)
    broken = doctor._module("Broken", "broken_module", "reinstall it")()
    assert (broken.state, broken.remedy) == ("broken", "reinstall it")
    assert "wrong libc" in broken.detail


def test_missing_weights_and_profile_come_with_a_remedy(monkeypatch):
    monkeypatch.setattr("fpt_ros.weights.shared_folder", lambda name: None)
    weights = doctor._weights()
    assert weights.state == "missing"
    assert "--checkpoint" in weights.remedy
    for name in (
        "FASTDDS_DEFAULT_PROFILES_FILE",
        "FASTRTPS_DEFAULT_PROFILES_FILE",
        "FASTDDS_BUILTIN_TRANSPORTS",
        "RMW_IMPLEMENTATION",
    ):
        monkeypatch.delenv(name, raising=False)
    profile = doctor._fast_dds_profile()
    assert profile.remedy.startswith("export FAST")
    for name in ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTDDS_BUILTIN_TRANSPORTS"):
        with monkeypatch.context() as chosen:
            chosen.setenv(name, "mine")
            assert doctor._fast_dds_profile().state == "ok"


def test_what_training_lacks_is_named(monkeypatch):
    monkeypatch.setattr(doctor, "find_spec", lambda module: object())
    assert doctor._training().state == "ok"
    monkeypatch.setattr(
        doctor, "find_spec", lambda module: None if module in ("skimage", "scipy") else object()
    )
    lacking = doctor._training()
    assert lacking.state == "missing"
    assert lacking.remedy.endswith("-m pip install scipy scikit-image")


def test_little_shared_memory_is_found(monkeypatch):
    monkeypatch.setattr(doctor, "_ENOUGH_SHARED_MEMORY", 1 << 60)
    assert doctor._shared_memory().state == "broken"
    monkeypatch.setattr(doctor, "_ENOUGH_SHARED_MEMORY", 0)
    assert doctor._shared_memory().state == "ok"


def test_the_needed_rows_hold_in_this_environment():
    checks = [doctor._python, doctor._network]
    assert [check().state for check in checks] == ["ok", "ok"]

"""The doctor's report: its exit status follows what is broken, and each problem comes with its fix."""

import argparse
import shutil
from collections import namedtuple

import pytest

from recbole_blair import compat
from recbole_blair.cli import doctor
from recbole_blair.errors import InputError

REQUIREMENTS = [("numpy", ">=1.26,<3", None), ("pandas", ">=2.2,<3", None), ("optuna", ">=4.0", "tune")]


@pytest.fixture
def report(monkeypatch, capsys, tmp_path):
    """Run the doctor on given requirements; return its exit status and text."""

    def run(requirements=REQUIREMENTS, folder=tmp_path):
        monkeypatch.setattr(doctor, "read_requirements", lambda: requirements)
        status = doctor.run(argparse.Namespace(output_dir=str(folder)))
        return status, capsys.readouterr().out

    return run


def test_a_good_machine_gets_zero_and_sees_every_section(report):
    status, text = report()
    assert status == 0, text
    assert "all is well" in text
    for word in ("numpy", "torch", "cores", "memory", "free disk", "bf16", "props", "--dataset=sample"):
        assert word in text
    for workaround in compat.WORKAROUNDS:
        assert workaround.name in text and workaround.cause in text
    assert "optional: tune" in text


@pytest.mark.parametrize(
    ("requirement", "message"),
    [
        (("numpy", ">=99", None), "expected >=99; run: pip install 'numpy>=99'"),
        (("no-such-thing", ">=1", None), "no-such-thing is not installed; expected >=1; run: pip install"),
    ],
)
def test_a_requirement_that_is_not_met_is_a_problem_with_its_fix(report, requirement, message):
    status, text = report([*REQUIREMENTS, requirement])
    assert status == 1
    assert "1 problem:" in text and message in text


def test_a_missing_extra_is_no_problem(report):
    status, text = report([("no-such-thing", ">=1", "tune")])
    assert status == 0
    assert "no-such-thing          not installed" in text


def test_a_missing_recbole_is_told_once_and_nothing_is_applied(report, monkeypatch):
    monkeypatch.setattr(compat, "find_problems", lambda: ["RecBole is not installed; run: this"])
    monkeypatch.setattr(compat, "apply", lambda: pytest.fail("applied without RecBole"))
    status, text = report()
    assert status == 1
    assert text.count("RecBole is not installed; run: this") == 1


def test_a_workaround_that_fails_is_a_problem(report, monkeypatch):
    def fail():
        raise AttributeError("no such name")

    monkeypatch.setattr(compat, "apply", fail)
    status, text = report()
    assert status == 1
    assert "RecBole cannot be carried on these versions: AttributeError: no such name" in text


def test_a_full_disk_is_a_problem(report, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10**12, 10**12 - 10**8, 10**8))
    status, text = report()
    assert status == 1
    assert "0.1 GB of disk are free" in text


def test_a_folder_that_does_not_exist_yet_is_judged_by_its_parent(report, tmp_path):
    status, text = report(folder=tmp_path / "a" / "b")
    assert status == 0
    assert f"({tmp_path})" in text


@pytest.mark.parametrize(("version", "broken"), [((3, 9, 18), 1), ((3, 10, 0), 0), ((3, 13, 9), 0), ((3, 14, 0), 1)])
def test_python_outside_the_range_is_a_problem(version, broken):
    assert len(doctor.find_broken_python(version)) == broken


def test_broken_torch_is_a_problem(report, monkeypatch):
    def fail():
        raise OSError("libcudart.so: cannot open shared object file")

    monkeypatch.setattr(doctor, "print_devices", fail)
    status, text = report()
    assert status == 1
    assert "torch cannot be used: OSError: libcudart.so" in text


def test_requirements_are_read_from_the_installed_package(monkeypatch):
    lines = [
        "numpy<3,>=1.26",
        "pyyaml",
        'ray[tune]>=2.40; extra == "tune"',
        'optuna>=4.0; extra == "all"',
    ]
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: lines)
    assert doctor.read_requirements() == [
        ("numpy", "<3,>=1.26", None),
        ("pyyaml", "", None),
        ("ray", ">=2.40", "tune"),
    ]


def test_a_checkout_that_is_not_installed_is_told(report, monkeypatch, capsys, tmp_path):
    def missing(name):
        raise doctor.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.metadata, "requires", missing)
    with pytest.raises(InputError, match=r"recbole-blair is not installed in .*; run: make install"):
        doctor.read_requirements()
    assert doctor.run(argparse.Namespace(output_dir=str(tmp_path))) == 1
    assert "run: make install" in capsys.readouterr().out

"""prepare of several domains: here or a Ray task each, equal to the byte; one that fails stops no other."""

import json

import pytest
from local_ray import real_ray

from dataset_tools.storage.resources import Resources
from recbole_blair.cli.main import main
from recbole_blair.cluster.prepare import BESIDE_DUCKDB, task_resources
from recbole_blair.errors import InputError
from recbole_blair.schema import CACHE_DIR

NAMES = ("sample-u60-i50", "sample-u70-i60")


def arguments(folder, datasets, *more):
    folders = [f"--data_path={folder / 'data'}", f"--raw_dir={folder / 'raw'}"]
    return ["prepare", f"--dataset={','.join(datasets)}", *folders, "--memory_limit=500MB", "--quiet", *more]


def build_bytes(folder):
    """Return {name: bytes} of every file of every build, without locks and `.cache/`, which holds paths and times."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted((folder / "data").rglob("*"))
        if path.is_file() and path.suffix != ".lock" and path.parent.name != CACHE_DIR
    }


def write_broken_domain(folder, name):
    """Raw files of a domain whose every line is broken."""
    for kind, file in (("review", name), ("meta", f"meta_{name}")):
        place = folder / "raw" / "raw" / f"{kind}_categories" / f"{file}.jsonl"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("no json\n" * 10)


def test_several_domains_of_which_one_fails(tmp_path, capsys):
    write_broken_domain(tmp_path, "shop")
    assert main(arguments(tmp_path, (NAMES[0], "shop", NAMES[1]))) == 2
    shown = capsys.readouterr()
    assert [line.split(":")[0] for line in shown.out.splitlines()] == list(NAMES)
    assert shown.err.startswith("error: shop: ") and "1 of 3 datasets failed: shop" in shown.err
    assert sorted(p.name for p in (tmp_path / "data").iterdir() if p.is_dir()) == sorted(NAMES)


@real_ray
def test_a_task_a_domain_writes_the_same_bytes(tmp_path, capfd):
    here, there = tmp_path / "here", tmp_path / "there"
    assert main(arguments(here, NAMES)) == 0
    capfd.readouterr()
    write_broken_domain(there, "shop")
    assert main(arguments(there, (*NAMES, "shop"), "--engine=ray", "--ray_cpus=2", "--threads=1")) == 2
    shown = capfd.readouterr()
    assert build_bytes(there) == build_bytes(here)
    assert {line.split(":")[0] for line in shown.out.splitlines()} == set(NAMES)
    assert "error: shop: on node" in shown.err and "1 of 3 datasets failed: shop" in shown.err
    stats = json.loads((there / "data" / NAMES[0] / f"{NAMES[0]}.stats.json").read_text())
    assert stats["settings"]["sample_users"] == 60
    before = {p: p.stat().st_mtime_ns for p in (there / "data").rglob("*.inter")}
    assert main(arguments(there, NAMES)) == 0  # whole: left alone, whoever made them
    assert {p: p.stat().st_mtime_ns for p in before} == before


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--max_history=0",), "--max_history=0 is out of range; expected int, 1 to 100,000"),
        (("--valid_start_ms=1658002729837", "--test_start_ms=1628643414042"), "is not before test_start_ms"),
        (("--ray_address=auto",), "--ray_address=auto belongs to --engine=ray"),
        (("--engine=ray", "--source=csv"), "--engine=ray makes Amazon's domains"),
    ],
)
def test_what_is_wrong_for_all_is_said_once(tmp_path, capsys, more, message):
    assert main(arguments(tmp_path, NAMES, *more)) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_tasks_fit_the_nodes():
    nodes = [{"CPU": 8.0, "memory": 2.0 * (BESIDE_DUCKDB + 4e9)}, {"CPU": 2.0, "memory": 64e9}]
    assert task_resources(nodes, Resources()) == (
        {"CPU": 4, "memory": 4 * 10**9 + BESIDE_DUCKDB},
        2,
    )
    with pytest.raises(InputError, match="--threads=9, but the largest node has 8 CPUs"):
        task_resources(nodes, Resources(threads=9))
    with pytest.raises(InputError, match="--memory_limit=1TB and 3 GiB beside it are more than a node has to give"):
        task_resources(nodes, Resources("1TB", threads=1))

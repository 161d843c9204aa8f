"""What is shipped: light imports, one version of everything, a wheel that holds what it needs and no more."""

import ast
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import recbole_blair
from recbole_blair import compat
from recbole_blair.errors import EXTRAS, InputError
from recbole_blair.files.paths import props_dir

ROOT = Path(__file__).resolve().parents[1]


def test_import_loads_neither_transformers_nor_ray_nor_torch(tmp_path):
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import recbole_blair, recbole_blair.cli.main\n"
        "print([m for m in ('transformers', 'ray', 'torch', 'recbole', 'pandas', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert list(tmp_path.iterdir()) == []


def test_the_table_of_extras_is_that_of_the_package():
    """Every package that a message may name is brought by the extra that the message names."""
    wanted = re.search(r"^EXTRAS = (\{.*?^\})", (ROOT / "setup.py").read_text(), re.M | re.S)[1]
    extras = ast.literal_eval(wanted)
    names = {"faiss": "faiss-cpu", "Stemmer": "PyStemmer"}
    for package, extra in EXTRAS.items():
        needs = [re.match(r"[\w-]+", need)[0] for need in extras[extra]]
        assert names.get(package, package.replace("_", "-")) in needs, (package, extra)


def test_the_links_of_the_metadata_come_from_the_citation(tmp_path):
    """setup.py is read with the citation of a repository, and with one that names none."""
    source = (ROOT / "setup.py").read_text()
    function = source[source.index("def project_urls") : source.index("class BuildPyWithProps")]
    names = {"re": re, "ROOT": tmp_path}
    exec(function, names)
    (tmp_path / "CITATION.cff").write_text('title: "x"\nrepository-code: "https://host.example/team/project/"\n')
    assert names["project_urls"]()["Documentation"] == "https://host.example/team/project/tree/HEAD/docs"
    (tmp_path / "CITATION.cff").write_text("title: x\n")
    assert names["project_urls"]() == {}


def test_props_are_found_in_a_checkout_and_in_a_wheel(tmp_path):
    assert props_dir().samefile(ROOT / "props") or props_dir().samefile(Path(recbole_blair.__file__).parent / "props")
    package = tmp_path / "recbole_blair"
    (package / "props").mkdir(parents=True)
    with pytest.raises(InputError, match=r"no props/overall\.yaml in .*; install the wheel again"):
        props_dir(package)
    (package / "props" / "overall.yaml").touch()
    assert props_dir(package) == package / "props"


def test_constraints_pin_every_direct_dependency_once_a_python_version():
    text = (ROOT / "constraints.txt").read_text()
    pinned = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, version, marker = re.fullmatch(r"([\w.-]+)==([\w.+-]+)(?: ; (.+))?", line).groups()
            pinned.setdefault(re.sub(r"[-_.]+", "-", name).lower(), []).append((version, marker))
    for name, versions in pinned.items():
        markers = [marker for _, marker in versions]
        assert len(set(markers)) == len(markers) and (None not in markers or len(markers) == 1), name
    setup = (ROOT / "setup.py").read_text()
    wanted = re.findall(r'^\s+(?:"[a-z]+": \[)?"([A-Za-z][\w-]*)(?:\[\w+\])?(?:[<>=]|"[,\]])', setup, re.M)
    wanted += re.findall(r', "([A-Za-z][\w-]*)(?:\[\w+\])?[<>=]', setup)
    wanted = {re.sub(r"[-_.]+", "-", name).lower() for name in wanted}
    assert {"torch", "duckdb", "optuna", "faiss-cpu", "tiktoken", "packaging"} <= wanted  # the search itself works
    assert sorted(wanted - set(pinned)) == []
    assert pinned["recbole"] == [(compat.RECBOLE_VERSION, None)]
    assert f"recbole=={compat.RECBOLE_VERSION}" in setup
    assert "://" not in text


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The project's wheel, built from a copy of what git would take along, so that no build/ is left behind."""
    copy = tmp_path_factory.mktemp("source")
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout.decode()
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", out, copy], check=True
    )
    (path,) = out.glob("*.whl")
    return path


@pytest.mark.slow
def test_the_wheel_holds_packages_and_props_and_nothing_else(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    tops = {name.split("/")[0] for name in names}
    assert tops == {"recbole_blair", "dataset_tools", f"recbole_blair-{recbole_blair.__version__}.dist-info"}
    for source in ("recbole_blair", "dataset_tools"):
        for path in (ROOT / source).rglob("*.py"):
            assert path.relative_to(ROOT).as_posix() in names
    carried = [*(ROOT / "props").rglob("*.yaml"), *(path for path in (ROOT / "examples").iterdir() if path.is_file())]
    carried = {f"recbole_blair/{path.relative_to(ROOT).as_posix()}" for path in carried}
    assert {name for name in names if name.startswith(("recbole_blair/props/", "recbole_blair/examples/"))} == carried
    assert {f"recbole_blair/examples/{name}" for name in ("log.csv", "items.csv", "quickstart.ipynb")} <= carried
    stray = ("test_", "conftest")  # recbole_blair/testing.py, the contract, is meant to be there
    assert not [n for n in names if n.split("/")[-1].startswith(stray) or n.endswith((".pyc", ".gz"))]


@pytest.mark.slow
def test_the_wheels_metadata(wheel):
    archive = zipfile.ZipFile(wheel)
    info = f"recbole_blair-{recbole_blair.__version__}.dist-info"
    text = archive.read(f"{info}/METADATA").decode()
    assert f"\nVersion: {recbole_blair.__version__}\n" in text
    python = re.search(r"^Requires-Python: (.+)$", text, re.M)[1]
    assert set(python.split(",")) == {">=3.10", "<3.14"}
    assert not re.search(r"^Requires-Dist: (recbole\b|ray[^\n]*(?<!\"tune\")(?<!\"all\")$)", text, re.M)
    assert "\nAuthor: The recbole_blair authors\nLicense-Expression: MIT\nKeywords: recommender systems," in text
    assert text.split("\n\n", 1)[1].startswith("# recbole_blair\n")
    for extra in ("pretrain", "search", "tune", "test", "api", "all"):
        assert f"\nProvides-Extra: {extra}\n" in text
    assert "recbole-blair = recbole_blair.cli.main:main" in archive.read(f"{info}/entry_points.txt").decode()
    assert f"{info}/licenses/LICENSE" in archive.namelist()


@pytest.mark.slow
def test_the_unpacked_wheel_runs_from_an_empty_folder(wheel, tmp_path):
    site, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    zipfile.ZipFile(wheel).extractall(site)
    code = (
        "import sys; from recbole_blair.files.paths import props_dir; from recbole_blair.cli.main import main\n"
        "print(props_dir()); sys.exit(main(['train', '--model=UniSRecBlair', '--dataset=sample', '--print_config']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=empty,
        env={"PYTHONPATH": str(site), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(site / "recbole_blair" / "props"))
    assert "UniSRecBlair" in done.stdout

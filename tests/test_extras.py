"""A package of an extra that is not installed: one line that names the extra, before anything is done.

The packages come from the imports of the sources, the command lines from the commands' own parsers and key files.
"""

import ast
import importlib.util
import re
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import test_damaged_inputs as inputs
from test_fuzz_keys import flags_of

from recbole_blair.cli.main import command_names, guard, main
from recbole_blair.config.keys import props_keys
from recbole_blair.errors import EXTRAS
from recbole_blair.tracking.trackers import TRACKERS

ROOT = HERE.parent
world, stopped = inputs.world, inputs.stopped  # the right command line of each command; its long work does nothing
BASE = {"sklearn": "scikit-learn", "yaml": "pyyaml", "tokenizers": "transformers", "starlette": "fastapi"}  # brought by
NEEDS = {  # what a command line with this option cannot do without
    "plm=openai:text-embedding-3-small": {"openai"},
    "retriever=openai:text-embedding-3-small": {"openai"},
    "retriever=bm25": {"bm25s"},
    "retriever=hybrid": {"bm25s"},
    "stemmer=english": {"bm25s", "Stemmer"},
    "index=hnsw": {"faiss"},
    "index=ivf": {"faiss"},
    "faiss": {"faiss"},
    "engine=ray": {"ray"},
    "num_workers=2": {"ray"},
    "train_encoder=lora:4": {"peft"},
    "log=tensorboard": {"accelerate"},
    "search=optuna": {"optuna"},
    "search=grid": {"ray"},
}
OWN_NEEDS = {  # and whatever the options
    "build-c4": {"openai"}, "pretrain": {"accelerate", "datasets"}, "search": {"bm25s"},
    "serve": {"fastapi", "uvicorn", "bm25s"}, "tune": {"ray"},
}  # fmt: skip
NEVER_NEEDED = {"tiktoken"}  # without it tokens are estimated; transformers and datasets remember that it is there
WITH = {  # options without which another one means nothing
    "index=hnsw": ["--retriever=tfidf-svd"], "index=ivf": ["--retriever=tfidf-svd"], "num_workers=2": ["--engine=ray"],
    "train_encoder=lora:4": ["--softmax=sampled"],
}  # fmt: skip


def options_of(command):
    """The names of a command's options and keys."""
    files = inputs.KEY_FILES.get(command)
    keys = [key for file in files for key in props_keys(file).defaults] if files else flags_of(command)
    own = ["engine", "num_workers"] if command in ("tune", "pretrain") else []
    return {*keys, *own, *(["train_encoder"] if command == "train" else [])}


def imported_packages():
    """{package: the files that import it}, what is only for annotations left out."""
    found = {}
    for path in [*ROOT.glob("recbole_blair/**/*.py"), *ROOT.glob("dataset_tools/**/*.py")]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        skipped = [n for n in ast.walk(tree) if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.dump(n.test)]
        annotated = {id(child) for node in skipped for child in ast.walk(node)}
        for node in ast.walk(tree):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            for name in names if id(node) not in annotated else ():
                found.setdefault(name.split(".")[0], set()).add(path.name)
    return found


def test_every_imported_package_is_installed_with_the_wheel_or_named_with_its_extra():
    text = (ROOT / "setup.py").read_text()
    base = text[: text.index("EXTRAS = {")].lower().replace("_", "-")
    known = {*sys.stdlib_module_names, *EXTRAS, "recbole_blair", "dataset_tools", "recbole"}
    known |= {tracker.install for tracker in TRACKERS.values()}  # no extra brings mlflow; check_trackers names it
    for package, files in imported_packages().items():
        name = BASE.get(package, package).lower().replace("_", "-")
        assert {package, name} & known or f'"{name}>' in base, (package, files)


def ignores(command, option):
    """Whether a command line of `world` rightly does not look at an option, or looks at it in its work."""
    unread = option in inputs.UNREAD.get(command, ()) and command != "train"
    later = {"tune": ("plm", "train_encoder"), "pretrain": ("plm", "engine")}  # engine with num_workers
    return unread or option in later.get(command, ())


CASES = [(command, None) for command in command_names()] + [
    (command, option)
    for command in command_names()
    for option in NEEDS
    if option.split("=")[0] in options_of(command) and not ignores(command, option.split("=")[0])
]


MARKED = [
    pytest.param(*case, marks=pytest.mark.slow if case[1] else [], id=" ".join(filter(None, case))) for case in CASES
]


@pytest.mark.parametrize(("command", "option"), MARKED)
def test_each_missing_package_is_named_before_any_work(command, option, world, stopped, tmp_path, monkeypatch, capsys):
    """All extras are missing; what the refusal names is put back, until the command works."""
    monkeypatch.chdir(tmp_path)
    argv = [command, *world[command]]
    if option and command in ("train", "tune"):
        argv = [word.replace("--model=SASRec", "--model=SASRecText") for word in argv]
    if option:
        names = {word.partition("=")[0] for word in [f"--{option}", *WITH.get(option, [])]}
        argv = [word for word in argv if word.partition("=")[0] not in names] + [f"--{option}", *WITH.get(option, [])]
    hidden, named, shown = set(EXTRAS) - NEVER_NEEDED, set(), ""
    while True:
        try:
            with pytest.MonkeyPatch.context() as patch:
                hide(patch, hidden)
                status = main(argv)
        except inputs.Worked:
            break
        shown = capsys.readouterr().err
        lines = re.findall(
            r"^error: .* needs (.+), not installed for .*pip install 'recbole-blair\[(\w+)\]'", shown, re.M
        )
        if not lines:
            assert status == 0 or "not installed" not in shown, shown
            break
        assert status == 2 and not [path for path in tmp_path.rglob("*") if path.is_file()]
        for package in lines[0][0].split(" and "):
            assert brings(lines[0][1], package), shown
            named.add(package)
        hidden -= named
    own = set() if "retriever" in f"{option}{WITH.get(option)}" else OWN_NEEDS.get(command, set())
    assert named == NEEDS.get(option, set()) | own, shown


def brings(extra, package):
    """Whether an extra of setup.py brings what is imported by this name."""
    wanted = re.search(rf'^    "{extra}": (\[.*?\]),$', (ROOT / "setup.py").read_text(), re.M | re.S)[1]
    name = {"faiss": "faiss-cpu", "Stemmer": "PyStemmer"}.get(package, package.replace("_", "-"))
    return name in [re.match(r"[\w-]+", need)[0] for need in ast.literal_eval(wanted)]


def hide(patch, packages):
    """Take packages away, as if they were not installed."""
    for name in [name for name in sys.modules if name.split(".")[0] in packages]:
        patch.delitem(sys.modules, name)
    for package in packages:
        patch.setitem(sys.modules, package, None)


def test_an_import_that_no_check_foresaw_names_the_extra_too(capsys, monkeypatch):
    def run():
        raise ModuleNotFoundError("No module named 'ir_measures'", name="ir_measures")

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert guard(run) == 2
    assert "pip install 'recbole-blair[search]'" in capsys.readouterr().err

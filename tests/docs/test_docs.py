"""README.md and docs/*.md: every command parses, every file and link is there, what is generated is current."""

import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

import doc_commands
import generate_docs
from doc_commands import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {page: page.read_text(encoding="utf-8") for page in PAGES}
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)|<img[^>]*src=\"([^\"]+)\"")
REPO_FILE = re.compile(r"(?:recbole_blair|props|tests|docs|dataset_tools)/[\w./<>*-]+")
FLAG = re.compile(r"^--[a-z_]\w*$")
# Flags of other programs, and of the project's scripts, that pages name in passing.
OTHERS = {"--no-deps", "--find-links"}


def page_id(page):
    return str(page.relative_to(ROOT))


def prose(text):
    """Return a page without its blocks of code."""
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


@pytest.fixture(scope="module")
def flags():
    return doc_commands.known_flags()


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_command_parses(page):
    found = list(doc_commands.commands(TEXTS[page]))
    wrong = [f"{page_id(page)}:{line}: {' '.join(argv)[:100]}: {problem}" for line, argv in found
             if (problem := doc_commands.problem_of(argv))]  # fmt: skip
    assert not wrong, "\n".join(wrong)


def test_every_family_of_encoders_has_a_command_that_parses():
    lines = [line for line in TEXTS[ROOT / "docs/encoders.md"].split("## Pooling")[0].splitlines() if line[:1] == "|"]
    head, _, *rows = ([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines)
    assert head == ["family", "pooling", "prompt of items", "prompt of queries", "width", "precision", "command"]
    assert len(rows) >= 11 and all(len(row) == len(head) and all(row) for row in rows)
    for row in rows:
        argv = row[-1].strip("`").split()
        assert argv[:2] == ["recbole-blair", "encode"] and doc_commands.problem_of(argv) is None, row[0]


def test_pages_hold_commands():
    """The reader above finds them: a change of its rules does not empty the test."""
    counts = {page_id(page): len(list(doc_commands.commands(text))) for page, text in TEXTS.items()}
    assert counts["README.md"] >= 8 and counts["docs/quickstart.md"] >= 8 and counts["docs/commands.md"] >= 17
    assert counts["docs/scaling.md"] >= 4 and counts["docs/results.md"] >= 3 and sum(counts.values()) > 120


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_and_files_are_there(page):
    wrong = []
    for target in filter(None, (a or b for a, b in LINK.findall(TEXTS[page]))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists():
            wrong.append(f"{target}: no such file")
        elif anchor and anchor not in anchors(file):
            wrong.append(f"{target}: no such heading; there are {', '.join(sorted(anchors(file)))}")
    for name in re.findall(r"`([^`\n]+)`", prose(TEXTS[page])):
        found = REPO_FILE.fullmatch(name)
        if found and not list(ROOT.glob(re.sub(r"<[^>]*>", "*", name.rstrip("/")))):
            wrong.append(f"{name}: not in the repository")
    assert not wrong, f"{page_id(page)}: " + "; ".join(wrong)


def anchors(file):
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", file.read_text(encoding="utf-8"), flags=re.DOTALL),
                          re.MULTILINE)  # fmt: skip
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_flags_named_in_passing_exist(page, flags):
    scripts = "".join(path.read_text(encoding="utf-8") for path in ROOT.glob("tests/bench/*.py"))
    scripts += "".join(path.read_text(encoding="utf-8") for path in ROOT.glob("dataset_tools/pools/candidate_pools.py"))
    scripts += (ROOT / "tests/docs/generate_docs.py").read_text(encoding="utf-8")
    named = {part.partition("=")[0] for name in re.findall(r"`(--[^`]+)`", prose(TEXTS[page])) for part in name.split()}
    wrong = [flag for flag in sorted(named) if FLAG.match(flag) and flag not in flags | OTHERS
             and f'"{flag}"' not in scripts]  # fmt: skip
    assert not wrong, f"{page_id(page)}: no command has {', '.join(wrong)}"


def test_readme_links_every_page():
    linked = {(ROOT / (a or b).partition("#")[0]).resolve() for a, b in LINK.findall(TEXTS[ROOT / "README.md"])}
    missing = [page_id(page) for page in PAGES[1:] if page not in linked]
    assert not missing, f"README.md links no {', '.join(missing)}"
    assert (ROOT / "docs/data_flow.svg").resolve() in linked


def test_the_readme_table_is_that_of_the_results():
    """Every row of numbers of README.md stands in docs/results.md, figure by figure."""
    results = TEXTS[ROOT / "docs/results.md"]
    rows = [re.findall(r"\.\d{4}", line) for line in TEXTS[ROOT / "README.md"].splitlines() if line.startswith("|")]
    rows = [row for row in rows if row]
    assert len(rows) >= 4
    known = [re.findall(r"\.\d{4}", line) for line in results.splitlines() if line.startswith("|")]
    for row in rows:
        assert any(all(figure in line for figure in row) for line in known), f"{row} is in no row of docs/results.md"


@pytest.mark.parametrize("page", ["docs/commands.md", "docs/config.md"])
def test_generated_pages_are_current(page):
    text = generate_docs.pages()[ROOT / page]
    assert TEXTS[ROOT / page] == text, f"{page} is not current; run: python tests/docs/generate_docs.py"


def test_every_key_stands_in_the_configuration_page():
    import yaml

    text = TEXTS[ROOT / "docs/config.md"]
    sections = {part.split("\n")[0]: part for part in re.split(r"^## ", text, flags=re.MULTILINE)}
    sources = {"Overall keys": "overall.yaml", "Pretrain keys": "pretrain/pretrain.yaml"}
    sources |= {"Tune options": "tune/tune.yaml", "Protocol last_out": "protocol/last_out.yaml"}
    sources |= {path.stem: f"model/{path.name}" for path in (ROOT / "props/model").glob("*.yaml")}
    for title, name in sources.items():
        for key in yaml.safe_load((ROOT / "props" / name).read_text(encoding="utf-8")):
            row = re.search(rf"^\| `{key}` \| ([^|]*) \| `([^`]*)` \| (.*) \|$", sections[title], re.MULTILINE)
            assert row, f"docs/config.md says nothing of {key} of props/{name}"
            plain = key.endswith(("_FIELD", "_PREFIX", "_SUFFIX")) or "RecBole" in row[0]
            assert row[1].strip() or plain, f"props/{name}: {key} states no kind, as in # (int) …"


def test_every_command_and_option_stands_in_the_commands_page():
    from recbole_blair.cli.main import build_parser, command_names

    sections = {part.split("\n")[0]: part for part in re.split(r"^## ", TEXTS[ROOT / "docs/commands.md"], flags=re.M)}
    for name in command_names():
        choices = build_parser([name])._subparsers._group_actions[0].choices
        for action in choices[name]._actions:
            for flag in action.option_strings:
                assert flag in ("-h", "--help") or f"`{flag}`" in sections[name], f"{name} {flag}"


WRONG = {
    "recbole-blair train --model=UniSRecBlair --dataset=sample --hiden_size=3": "unknown key 'hiden_size'",
    "python run_recbole.py --model=SASRek --dataset=sample": "unknown model 'SASRek'",
    "python run_recbole.py --dataset=sample": "--model is missing",
    "recbole-blair prepare --dataset=sample --max_histroy=3": "--max_histroy=3. Did you mean '--max_history'?",
    "recbole-blair prepare --dataset=Games --protocol=last": "--protocol=last is not one of timestamp, last_out",
    "recbole-blair stat Games": "no command",
    "recbole-blair pretrain --pairs=x --temprature=1": "unknown flag --temprature",
    "recbole-blair pretrain --plm=x": "either --pairs or --dataset",
    "recbole-blair tune --model=SASRec --dataset=sample --num_sample=3": "num_sample",
    "python tests/bench/bench_nothing.py": "is not in the repository",
    "python tests/bench/bench_encoding.py --itemz=3": "has no option --itemz",
    "python -m dataset_tools.pools --quarries=x": "has no option --quarries",
    "make tests": "make has no target tests",
    "cd x && recbole-blair stats": "the following arguments are required: domain",
}


@pytest.mark.parametrize("command", WRONG)
def test_wrong_commands_are_found(command):
    (argv,) = [argv for argv in doc_commands.split_line(command, {}) if argv[0] != "cd"]
    assert WRONG[command] in str(doc_commands.problem_of(argv))


def test_the_reader_of_commands():
    text = """
    D=data          # kept
    recbole-blair search --dataset=$D \\
        --retriever=bm25

Text with `code`.

```bash
for seed in 1 2; do
    python run_recbole.py --seed=$seed --plm=<some folder>   # a remark
done
```

```yaml
recbole-blair: no command
```

```
it's no command
make demo
```
"""
    assert list(doc_commands.commands(text)) == [
        (3, ["recbole-blair", "search", "--dataset=data", "--retriever=bm25"]),
        (10, ["python", "run_recbole.py", "--seed=1", "--plm=PLACEHOLDER"]),
        (11, ["done"]),
        (20, ["make", "demo"]),
    ]

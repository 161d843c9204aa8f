"""--help of every command, and `models`, on screens of 100 and 80 columns: nothing is too long, broken or empty."""

import re

import pytest

from recbole_blair.cli.help_layout import fit
from recbole_blair.cli.main import build_parser, command_names, find_subparser, load_command, main

PASS_THROUGH = [name for name in command_names() if getattr(load_command(name), "PASS_THROUGH", False)]


@pytest.fixture
def help_of(monkeypatch, capsys):
    """Return what `--help` prints by command and columns."""

    def show(name, columns=100):
        monkeypatch.setenv("COLUMNS", str(columns))
        try:
            assert main([*([name] if name else []), "--help"]) == 0
        except SystemExit as end:
            assert not end.code
        return capsys.readouterr().out

    return show


@pytest.mark.parametrize("columns", [100, 80])
@pytest.mark.parametrize("name", ["", *command_names()])
def test_help_fits_and_has_no_empty_default(help_of, name, columns):
    shown = help_of(name, columns)
    assert [line for line in shown.splitlines() if len(line) > columns] == []
    assert not re.search(r"default:\s*(None|False|\))|\(default[^)]*\(default", shown)
    assert not name or f"example: recbole-blair {name}" in shown


@pytest.mark.parametrize("name", [name for name in command_names() if name not in PASS_THROUGH])
def test_defaults_are_whole_and_needed_options_are_named(help_of, name):
    usage, shown = help_of(name, 80).split("\noptions:\n")
    for action in find_subparser(build_parser([name]), name)._actions:
        if action.option_strings and action.required:
            part = shown.split(f"  {action.option_strings[0]}=")[1].split("\n  --")[0]
            assert "(needed)" in part and f" {action.option_strings[0]}=" in usage
        elif action.option_strings and action.nargs != 0 and action.default not in (None, False):
            assert f"(default: {action.default})" in shown


def test_an_example_can_be_pasted(help_of):
    example = help_of("prepare", 80).split("data of your own")[1].split(": ", 1)[1]
    lines = example.strip().splitlines()
    assert len(lines) > 1 and all(line.endswith(" \\") for line in lines[:-1])
    assert "".join(line.removesuffix("\\").strip() + " " for line in lines).strip() in load_command("prepare").EXAMPLE


def test_long_lines_of_yaml_go_on_below_their_remark(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    text = "  key: 1                    # (int) what it means, said in many words, here\n  # first\n  # second"
    assert fit(text).splitlines() == [
        "  key: 1                    # (int) what it means, said in",
        "                            # many words, here",
        "  # first",
        "  # second",
    ]


def test_models_has_one_line_each_and_says_something(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["models"]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 100
    lines = shown.split("\n\n")[0].splitlines()
    assert all(len(line.split()) >= 3 for line in lines)
    sources = [line.split()[1] for line in lines]
    assert sources.index("RecBole") == len(lines) - sources.count("RecBole") > 5  # the others come first
    assert any(line.startswith("SASRecID ") for line in lines)

"""How --help is laid out: at most 100 columns, defaults in one piece, examples as commands that can be pasted."""

from __future__ import annotations

import argparse
import re
import shutil
import textwrap
from argparse import HelpFormatter

WIDEST = 100  # columns, also where there are more
TEXT_AT = 24  # where the meaning of an option begins
JOINED = "\N{NO-BREAK SPACE}"  # a space at which no line is broken; a common one when it is printed


def columns() -> int:
    """Return the columns that are used: of the terminal, at most 100."""
    return max(50, min(WIDEST, shutil.get_terminal_size((WIDEST, 24)).columns))


def wrap(text: str, width: int) -> list[str]:
    """Break a text into lines, at spaces alone: names, paths and URLs with hyphens stay whole."""
    return textwrap.wrap(" ".join(text.split(" ")), width, break_on_hyphens=False, break_long_words=False) or [""]


class HelpLayout(HelpFormatter):
    """argparse's layout with `--option=KIND`, and a default where there is one that says something."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=TEXT_AT, width=columns())

    def _get_help_string(self, action: argparse.Action) -> str:
        """Add the default, and whether the option is needed."""
        text = action.help or ""
        if action.option_strings and action.required:
            return f"{text} (needed)"
        says = not (action.default is None or action.default is False or action.nargs == 0)
        return f"{text} (default:{JOINED}%(default)s)" if says and action.option_strings else text

    def _split_lines(self, text: str, width: int) -> list[str]:
        """Break the meaning of an option."""
        return [line.replace(JOINED, " ") for line in wrap(re.sub(r"[ \n]+", " ", text), width)]

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        """Break a paragraph; the examples come with lines of their own."""
        return text if text.startswith("example: ") else "\n".join(indent + line for line in wrap(text, width))

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        """Return what a value is: its legal values, N for a number, else the option's name."""
        kind = getattr(action.type, "kind", None)
        if kind is None:
            return super()._get_default_metavar_for_optional(action)
        if kind.type == "bool" and not kind.choices:
            return "True|False"
        numbers = kind.type in ("int", "float")
        return "|".join(kind.choices) or ("N,N" if kind.is_list else "N" if numbers else action.dest.upper())

    def _format_action_invocation(self, action: argparse.Action) -> str:
        """Write `--option=VALUE`."""
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        value = self._metavar_formatter(action, self._get_default_metavar_for_optional(action))(1)[0]
        shown = {"None": f"={value}", "?": f"[={value}]"}.get(str(action.nargs), f" {value} …")
        return ", ".join(f"{name}{shown}" for name in action.option_strings)


def short_usage(parser: argparse.ArgumentParser) -> str:
    """Return a usage line with what is needed; the other options are listed below it."""
    layout = parser._get_formatter()
    assert isinstance(layout, HelpLayout)
    words = [parser.prog]
    options = [action for action in parser._actions if action.option_strings and action.dest != "help"]
    words += [layout._format_action_invocation(action) for action in options if action.required]
    words += ["[--option=VALUE …]"] if any(not action.required for action in options) else []
    for action in parser._actions:
        if not action.option_strings:
            name = str(action.metavar or action.dest)
            words.append({"?": f"[{name}]", "+": f"{name} [{name} …]"}.get(str(action.nargs), name))
    return "\n       ".join(wrap(" ".join(words).replace("%", "%%"), columns() - 7))


def layout_examples(text: str) -> str:
    """Return examples, parted by `; ` and perhaps with a remark before them, as lines."""
    lines = []
    for number, part in enumerate(text.split("; ")):
        remark, colon, command = part.partition(": ")
        if not (colon and command.startswith("recbole-blair")):
            remark, command = "example", part
        lines.append(layout_command("example" if number == 0 else remark, command))
    return "\n".join(lines)


def layout_command(remark: str, command: str) -> str:
    r"""Return a command as it can be pasted: a line that goes on ends in `\`."""
    words = re.findall(r'(?:"[^"]*"|\S)+', command)
    lines, line = [], f"{remark}: {words[0]}"
    for word in words[1:]:
        if len(line) + len(word) + 3 > columns():
            lines.append(f"{line} \\")
            line = f"    {word}"
        else:
            line += f" {word}"
    return "\n".join([*lines, line])


def fit(text: str) -> str:
    """Return a help text that was written for wide screens: what is too long goes on below where it began."""
    remark = r"(?m)^( *)# .*\n(?:\1# .*\n)+"  # lines of a YAML file that belong together
    joined = re.sub(remark, lambda found: join_lines(found[0], f"{found[1]}# "), text + "\n").removesuffix("\n")
    return "\n".join(part for line in joined.split("\n") for part in fit_line(line))


def join_lines(text: str, begin: str) -> str:
    """Return lines that begin alike as one, where some are too long: they are broken anew."""
    lines = text.splitlines()
    if max(map(len, lines)) <= columns():
        return text
    return begin + " ".join(line.removeprefix(begin) for line in lines) + "\n"


def fit_line(line: str) -> list[str]:
    """Return one line of a help text as lines that fit."""
    width = columns()
    if len(line) <= width:
        return [line]
    if line.startswith("example: "):
        return layout_command("example", line.removeprefix("example: ")).split("\n")
    comment = re.match(r"( *)# ", line)
    if comment:  # a remark of a YAML file
        return [f"{comment[0]}{part}" for part in wrap(line[len(comment[0]) :], width - len(comment[0]))]
    found = re.match(r" *[^\s-].*? # |  --\S+ +| +", line)  # a key with its remark, a flag with its meaning
    if not found:
        first, *more = wrap(line, width)
        return [first, *(f"{' ' * 7 * line.startswith('usage: ')}{part}" for part in more)]
    head = found[0]
    first, *more = wrap(line[len(head) :], width - len(head))
    below = " " * (len(head) - 2) + "# " if head.endswith("# ") else " " * len(head)
    return [head + first, *(below + part for part in more)]

"""Write docs/commands.md and docs/config.md from the argument parsers and the comments of props/.

python tests/docs/generate_docs.py            # writes both pages
python tests/docs/generate_docs.py --check    # exit status 1 where a page is not current
"""

import argparse
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

PROPS = ROOT / "props"
MADE = "<!-- Made by tests/docs/generate_docs.py: change the sources it names, then run it again. -->\n"
KEY = re.compile(r"^(?P<key>[A-Za-z_]\w*):(?P<value>.*?)(?:\s+#\s*(?P<comment>.*))?$")
KIND = re.compile(r"^\((?P<kind>[^)]*)\)\s*(?P<meaning>.*)$")

COMMANDS_HEAD = """# Commands

`recbole-blair <command>` is the console script; `python -m recbole_blair <command>` is the same. Exit status: 0 done,
2 wrong use or input (one line that names the fix), 1 failure, 130 after Ctrl-C. `recbole-blair <command> --help` prints
what stands here. Values are written `--key=value`; an empty default means that the option may be left out.

"""
CONFIG_HEAD = """# Configuration keys

Every key, its default and its meaning. Keys are given on the command line (`--key=value`) or in YAML files
(`--config_files=mine.yaml,more.yaml`; a `props/…` that is not in the working folder is the installed file of that
name). Order of precedence, the last wins: `props/overall.yaml`,
`props/model/<Model>.yaml`, what the protocol sets, `props/dataset/<Dataset>.yaml`,
`props/dataset/<Dataset>.<protocol>.yaml`, `props/dataset/<Dataset>.<Model>.yaml`, `--config_files`, the command line. A
key that nothing defines is refused with the nearest known one; so is a value of another kind or outside its range. A
kind is a type and its limits: `<=cores` is the number of this machine's CPU cores, `a / b / c` are the legal values (an
`N` there is a whole number from 0, a `K` one from 1), `size` is memory such as `4GB`; the limits of a list hold for
each of its items. `~` is an empty value, written `--key=` on the command line. `--print_config` prints what a command
line resolves to, and every run saves it as `config.yaml`.

RecBole's own models (`recbole-blair models --source=RecBole`) read the keys of the first table and those of RecBole's
own YAML file: `recbole-blair train --help --model=GRU4Rec` lists them. Keys of RecBole's that are no keys here stand in
[a table of their own](#recboles-keys).

"""


def commands_page():
    """Return docs/commands.md."""
    from recbole_blair.cli.main import command_names

    names = command_names()
    links = " · ".join(f"[{name}](#{name})" for name in names)
    return "\n".join([COMMANDS_HEAD + MADE, links, *map(command_section, names)]) + "\n"


def command_section(name):
    """Return one command's heading, summary, example and options."""
    from recbole_blair.cli.main import build_parser, load_command

    module = load_command(name)
    lines = ["", f"## {name}", "", sentence(module.SUMMARY), "", *examples(module.EXAMPLE), ""]
    if getattr(module, "PASS_THROUGH", False):
        return "\n".join(lines + pass_through(name, module.HELP))
    sub = next(a for a in build_parser([name])._actions if isinstance(a, argparse._SubParsersAction)).choices[name]
    actions = [action for action in sub._actions if action.dest != "help"]
    if not actions:
        return "\n".join([*lines, "It has no options."])
    return "\n".join([*lines, "| option | default | meaning |", "|---|---|---|", *map(option_row, actions)])


def examples(text):
    """Return the example as bash blocks; several are parted by `; ` and a remark may precede one."""
    found = []
    for part in text.split("; "):
        remark, colon, command = part.partition(": ")
        if colon and command.startswith("recbole-blair"):
            found += [sentence(remark) if found else remark, ""] if remark else []
        else:
            command = part
        found += ["```bash", command, "```", ""]
    return found[:-1]


def pass_through(name, text):
    """Return the options of a command whose other flags are configuration keys."""
    rows, where = [], {"train": "overall-keys", "tune": "tune-options", "pretrain": "pretrain-keys"}
    for line in text.splitlines():
        found = re.match(r"^ {2}(--\S+)\s+(\S.*)$", line)
        if found:
            rows.append(f"| `{found[1]}` | {cell(found[2])} |")
        elif rows and re.match(r"^ {10,}\S", line):
            rows[-1] = rows[-1][:-2] + f" {cell(line.strip())} |"
    more = f"Every other flag is a key: [configuration keys](config.md#{where[name]})."
    return ["| option | meaning |", "|---|---|", *rows, "", more]


def option_row(action):
    """Return the table row of one argument."""
    if not action.option_strings:
        shown = f"`{action.metavar or action.dest}`" + (" …" if action.nargs == "+" else "")
        return f"| {shown} | | {cell(action.help or '')} |"
    flag = action.option_strings[-1]
    if action.nargs == 0:
        return f"| `{flag}` | | {cell(action.help or '')} |"
    default = "needed" if action.required else "" if action.default is None else f"`{action.default}`"
    meaning = (action.help or "").replace("%%", "%")
    kind = getattr(action.type, "kind", None)
    if kind is not None and kind.text != "str":
        meaning = f"({kind.text.replace('|', ' / ')}) {meaning}"
    if action.choices:
        meaning = f"{' / '.join(map(str, action.choices))}; {meaning}".rstrip("; ")
    default = f" {default} " if default else " "
    return f"| `{flag}` |{default}| {cell(meaning % {'default': action.default} if '%(' in meaning else meaning)} |"


def config_page():
    """Return docs/config.md."""
    parts = [CONFIG_HEAD + MADE, "## Overall keys", "", "`props/overall.yaml`", *key_tables(PROPS / "overall.yaml")]
    for path in sorted((PROPS / "model").glob("*.yaml")):
        parts += ["", f"## {path.stem}", "", f"`props/model/{path.name}`", *key_tables(path)]
    parts += ["", "## Protocol last_out", "", "`props/protocol/last_out.yaml`"]
    parts += key_tables(PROPS / "protocol/last_out.yaml")
    parts += ["", "## Datasets", "", "What a dataset of this name sets beside the defaults.", ""]
    parts += ["| file | sets |", "|---|---|"]
    for path in sorted((PROPS / "dataset").glob("*.yaml")):
        settings = ", ".join(f"`{entry['key']}: {entry['value']}`" for entry in entries(path) if "key" in entry)
        parts.append(f"| `props/dataset/{path.name}` | {settings} |")
    parts += ["", "## Pretrain keys", "", "`props/pretrain/pretrain.yaml`, for `recbole-blair pretrain`"]
    parts += key_tables(PROPS / "pretrain/pretrain.yaml")
    parts += ["", "## Tune options", "", "`props/tune/tune.yaml`, for `recbole-blair tune`"]
    parts += key_tables(PROPS / "tune/tune.yaml")
    parts += ["", "## RecBole's keys", "", *recbole_table()]
    return "\n".join(parts) + "\n"


def recbole_table():
    """Return the lines on keys of RecBole's: those that are taken, and those of props/recbole/keys.yaml."""
    from recbole_blair.config.recbole_keys import INTERVALS, TRANSLATED, unread_keys

    taken = ", ".join(f"`{key}`" for key in (*TRANSLATED, *INTERVALS))
    lines = [
        "RecBole's YAML files and flags are read. As [coming from RecBole](from_recbole.md#2-your-keys) says, these "
        f"are taken: {taken}.",
        "",
        "The keys below, of `props/recbole/keys.yaml`, are read by nothing: a value of the second column (or an empty "
        "one) asks for what happens in any case; another one is named in one line and passed over, or refused where "
        "that would change results.",
    ]
    lines += ["", "| key | in any case | another value | here |", "|---|---|---|---|"]
    for key, rule in unread_keys().items():
        anyway = ", ".join(f"`{value!r}`" for value in rule["anyway"])
        what = "refused" if rule["then"] == "refuse" else "named"
        lines.append(f"| `{key}` | {anyway} | {what} | {cell(rule['instead'])} |")
    return lines


def key_tables(path):
    """Return the lines of a YAML file: its remarks as text, its keys as tables."""
    lines, in_table = [], False
    overall = {entry["key"]: entry["kind"] for entry in entries(PROPS / "overall.yaml") if "key" in entry}
    for entry in entries(path):
        if "key" not in entry:
            lines += ["", cell(entry["remark"])]
            in_table = False
            continue
        if not in_table:
            lines += ["", "| key | kind | default | meaning |", "|---|---|---|---|"]
            in_table = True
        kind = entry["kind"] or overall.get(entry["key"], "")
        kind, meaning = cell(kind.replace("|", " / ")), cell(entry["meaning"])
        lines.append(f"| `{entry['key']}` | {kind} | `{entry['value']}` | {meaning} |")
    return lines


def entries(path):
    """Yield remarks {remark} and keys {key, value, kind, meaning} of a flat YAML file, in order.

    Raises:
        ValueError: a line that is neither; such a file needs another reader.
    """
    remark = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith("#"):
            remark.append(line.lstrip("# ").strip())
            continue
        if remark:
            yield {"remark": " ".join(remark)}
            remark = []
        if not line.strip():
            continue
        found = KEY.match(line)
        if found is None:
            raise ValueError(f"{path} line {number}: expected `key: value  # (kind) meaning`, found {line!r}")
        comment = found["comment"] or ""
        kind = KIND.match(comment)
        yield {
            "key": found["key"],
            "value": found["value"].strip(),
            "kind": kind["kind"] if kind else "",
            "meaning": kind["meaning"] if kind else comment,
        }


def cell(text):
    """Write a text so that it stays in one cell of a table, nothing of it read as a tag or as emphasis."""
    text = " ".join(text.split())
    parts = re.split(r"(`[^`]*`)", text)
    parts[::2] = [part.replace("<", "&lt;").replace("*", "\\*") for part in parts[::2]]
    return "".join(parts).replace("|", "\\|")


def sentence(text):
    """Return a text with a capital and a full stop."""
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", ":", "?")) else text + "."


def pages():
    """Return the pages: path to text."""
    return {ROOT / "docs/commands.md": commands_page(), ROOT / "docs/config.md": config_page()}


def main(argv):
    """Write the pages, or with --check say which are not current."""
    stale = []
    for path, text in pages().items():
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            stale.append(path.relative_to(ROOT))
            if "--check" not in argv:
                path.write_text(text, encoding="utf-8")
    for path in stale:
        print(f"{path}: {'not current; run python tests/docs/generate_docs.py' if '--check' in argv else 'written'}")
    return 1 if stale and "--check" in argv else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

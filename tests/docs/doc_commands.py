"""Reads the commands of Markdown pages and checks them with the project's own parsers: nothing is run."""

import contextlib
import io
import re
import shlex
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^ {0,3}```(\w*)\s*$")
SHELLS = ("", "bash", "sh")
STARTS = ("recbole-blair ", "python ", "make ", "pytest ", "torchrun ", "pip ", "export ", "for ")
ASSIGNMENT = re.compile(r"^(?:export )?([A-Za-z_]\w*)=(.*)$")
PLACEHOLDER = re.compile(r"<[^<>]*>|…")
HELD = "PLACEHOLDER"


def blocks(text):
    """Yield (line number, language, lines) of fenced blocks; language None for an indented block."""
    fence, held, begin = None, [], 0
    for number, line in enumerate(text.splitlines(), 1):
        found = FENCE.match(line)
        if fence is not None:
            if found and not found[1]:
                yield begin, fence, held
                fence, held = None, []
            else:
                held.append(line)
        elif found:
            if held:
                yield begin, None, held
            fence, held, begin = found[1], [], number + 1
        elif line.startswith("    ") and line.strip():
            begin = begin if held else number
            held.append(line[4:])
        elif held:
            yield begin, None, held
            held = []
    if held:
        yield begin, None, held


def commands(text):
    """Yield (line number, argv) of every command; continued lines are joined, variables and loops resolved."""
    variables: dict[str, str] = {}
    for begin, language, lines in blocks(text):
        if language not in (*SHELLS, None):
            continue
        for number, line in joined(lines, begin):
            if language not in ("bash", "sh") and not is_command(line):
                continue  # a block that names no language may hold anything
            yield from ((number, argv) for argv in split_line(line.strip(), variables))


def is_command(line):
    """Tell whether a line is one of a shell, for blocks that do not say so."""
    return line.strip().startswith(STARTS) or bool(ASSIGNMENT.match(line.strip()))


def joined(lines, begin):
    """Yield (line number, line), a backslash at the end joining it with the next."""
    held, first = "", begin
    for number, line in enumerate(lines, begin):
        first = first if held else number
        held += line.rstrip()
        if held.endswith("\\"):
            held = held[:-1] + " "
            continue
        yield first, held
        held = ""


def split_line(line, variables):
    """Return the argv of the commands of one line; assignments and the head of a loop go into `variables`."""
    line = PLACEHOLDER.sub(HELD, line)
    words = shlex.split(line, comments=True)
    if not words:
        return []
    if words[0] == "for":
        variables[words[1]] = words[3].rstrip(";")
        return []
    assigned = ASSIGNMENT.match(" ".join(words))
    if assigned and len(words) == (2 if words[0] == "export" else 1):
        variables[assigned[1]] = expand(assigned[2], variables)
        return []
    while words and ASSIGNMENT.match(words[0]) and not words[0].startswith("--"):
        words = words[1:]  # VARIABLE=value in front of a command
    line = expand(" ".join(shlex.quote(word) if "$" not in word else word for word in words), variables)
    parts, current = [], []
    for word in shlex.split(line):
        if word in ("|", "&&", ";", "||"):
            parts, current = [*parts, current], []
        else:
            current.append(word)
    return [part for part in (*parts, current) if part]


def expand(text, variables):
    """Put the values of variables into a text; an unknown one is a placeholder."""
    return re.sub(r"\$\{?(\w+)\}?", lambda found: variables.get(found[1], HELD), text)


def problem_of(argv):
    """Return what is wrong with a command, or None; commands that are not the project's are right."""
    if argv[0] == "recbole-blair" or argv[:3] == ["python", "-m", "recbole_blair"]:
        return own_problem(argv[1:] if argv[0] == "recbole-blair" else argv[3:])
    if argv[0] == "torchrun" and "recbole_blair" in argv:
        return own_problem(argv[argv.index("recbole_blair") + 1 :])
    if argv[:2] == ["python", "run_recbole.py"]:
        return own_problem(["train", *argv[2:]])
    if argv[:2] == ["python", "-m"] and argv[2].startswith("dataset_tools"):
        return tool_problem(argv[2], argv[3:])
    if argv[0] == "python" and argv[1].endswith(".py"):
        return script_problem(argv[1], argv[2:])
    if argv[0] == "make":
        return make_problem(argv[1:])
    return None


def own_problem(argv):
    """Check a command of the console script."""
    from recbole_blair.cli.main import build_parser, command_names, load_command
    from recbole_blair.errors import InputError

    if argv == ["--help"] or argv == ["--version"]:
        return None
    if not argv or argv[0] not in command_names():
        return f"no command {argv[:1]}; known: {', '.join(command_names())}"
    try:
        if not getattr(load_command(argv[0]), "PASS_THROUGH", False):
            return parser_problem(lambda: build_parser(argv[:1]).parse_args(argv))
        return {"train": train_problem, "tune": tune_problem, "pretrain": pretrain_problem}[argv[0]](argv[1:])
    except InputError as error:
        return str(error)


def parser_problem(parse):
    """Call a parser; return what it printed where it refused."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            parse()
    except SystemExit as leave:
        return said.getvalue().strip().splitlines()[-1] if leave.code else None
    return None


def train_problem(argv):
    """Check the keys of train by resolving its configuration."""
    from recbole_blair.cli.train import parse

    if "--tune" in argv:
        return tune_problem(argv)
    options, keys = parse(argv)
    if options.get("help"):
        return None
    return keys_problem(options, keys)


def tune_problem(argv):
    """Check options and keys of tune."""
    from recbole_blair.cli.tune import parse
    from recbole_blair.tune.settings import resolve_settings

    given, options, keys = parse(argv)
    if given.get("help"):
        return None
    resolve_settings(options)
    return keys_problem(given, keys)


def keys_problem(options, keys):
    """Resolve a configuration; what a placeholder or a file of the reader's hides is left out."""
    from recbole_blair.config import resolve_config
    from recbole_blair.registry import find_model

    if (keys.pop("resume", None) or options.get("resume")) and "model" not in options:
        return None
    plugin = keys.pop("plugin", None)
    files = [file for file in options.get("config_files") or [] if HELD not in file]
    missing = [file for file in files if file.startswith("props/") and not (ROOT / file).is_file()]
    if missing:
        return f"--config_files={missing[0]} is not in the repository"
    if "model" not in options:
        return None if options.get("config_files") else "--model is missing"
    if not (options.get("dataset") or options.get("config_files")):
        return "--dataset is missing"
    if HELD in options["model"]:
        return None
    name = "UniSRecBlair" if plugin else options["model"]  # a model of the reader's own has keys of its own
    files = [ROOT / file for file in files if (ROOT / file).is_file()]
    keys = {key: value for key, value in keys.items() if not (isinstance(value, str) and HELD in value)}
    config = resolve_config(find_model(name), options.get("dataset") or "sample", files, keys)
    for baseline in config["baselines"] or []:
        find_model(baseline)
    return None


def pretrain_problem(argv):
    """Check flags and keys of pretrain."""
    from recbole_blair.cli.pretrain import cluster_options, parse
    from recbole_blair.pretrain.settings import resolve_settings

    options, keys = parse(argv)
    if options.get("help") or options.get("print_config"):
        return None
    held = {key for key, value in {**options, **keys}.items() if isinstance(value, str) and HELD in value}
    cluster_options({key: value for key, value in options.items() if key not in held})
    settings = resolve_settings({key: value for key, value in keys.items() if key not in held})
    given = [key for key in ("pairs", "dataset", "pairs_from") if settings[key] is not None or key in held]
    if not given or {"pairs", "dataset"} <= set(given):
        return "either --pairs or --dataset is needed"
    return None


def tool_problem(module, argv):
    """Check `python -m dataset_tools.X`: the module is there and its parser knows the options."""
    path = ROOT / (module.replace(".", "/") + ".py")
    if not path.is_file():  # a room: what its `__main__` runs holds the options
        room = path.with_suffix("")
        path = next((file for file in sorted(room.glob("*.py")) if "argparse" in file.read_text("utf-8")), path)
    return script_problem(str(path.relative_to(ROOT)), argv)


def script_problem(path, argv):
    """Check a script of the repository: it is there, and each option stands in its text or in its helpers'."""
    file = ROOT / path
    if not file.is_file():
        return f"{path} is not in the repository"
    text = file.read_text(encoding="utf-8")
    for name in re.findall(r"^(?:from|import) (\w+)", text, re.MULTILINE):
        helper = file.with_name(f"{name}.py")
        text += helper.read_text(encoding="utf-8") if helper.is_file() else ""
    for word in argv:
        option = word.partition("=")[0]
        if option.startswith("--") and f'"{option}"' not in text:
            return f"{path} has no option {option}"
    return None


def make_problem(words):
    """Check that make knows its targets."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][\w-]*):", text, re.MULTILINE))
    wrong = [word for word in words if "=" not in word and word not in targets]
    return f"make has no target {wrong[0]}" if wrong else None


def known_flags():
    """Return every `--flag` that a command or a key of the project has."""
    import yaml

    from recbole_blair.cli.main import build_parser, command_names, load_command

    flags = {"--help", "--version"}
    for name in command_names():
        module = load_command(name)
        flags.update(re.findall(r"--[a-z_]\w*", getattr(module, "HELP", "")))
        choices = build_parser([name])._subparsers._group_actions[0].choices
        flags.update(flag for action in choices[name]._actions for flag in action.option_strings)
    for path in (*ROOT.glob("props/*.yaml"), *ROOT.glob("props/model/*"), *ROOT.glob("props/*/pretrain.yaml"),
                 *ROOT.glob("props/*/tune.yaml")):  # fmt: skip
        flags.update(f"--{key}" for key in yaml.safe_load(path.read_text(encoding="utf-8")))
    return flags

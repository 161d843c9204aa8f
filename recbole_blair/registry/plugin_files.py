"""Recommenders in files of one's own: the file, its YAML, importing it, and saying where its error is."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from recbole_blair.errors import InputError
from recbole_blair.files.paths import props_dir
from recbole_blair.files.read import shown, why_no_file

if TYPE_CHECKING:
    from types import ModuleType


def read_plugin_file(path: Path | str) -> tuple[str, Path, Path]:
    """Find the model that a plugin file holds, without importing it.

    Args:
        path: `myrec.py`, with `MyRec.yaml` beside it or in props/model/.

    Returns:
        tuple: (model name, absolute path, path of the YAML)

    Raises:
        InputError: no such file, no Python file, or no YAML of its name.
    """
    path = Path(os.path.abspath(Path(path).expanduser()))
    reason = why_no_file(path)
    if reason is not None:
        raise InputError(f"the plugin file {shown(path)} is not there ({reason}); name its place by --plugin=<path>.py")
    path = path.resolve()
    if path.suffix != ".py":
        raise InputError(f"--plugin={path} is no Python file; expected <name>.py with <Name>.yaml beside it")
    wanted = path.stem.lower()
    for folder in (path.parent, props_dir() / "model"):
        found = sorted(file for file in folder.glob("*.yaml") if file.stem.lower() == wanted)
        if found:
            return found[0].stem, path, found[0]
    classes = class_names(path)
    name = next((c for c in classes if c.lower() == wanted), None)
    if name is None:
        held = f"it holds {', '.join(classes)}" if classes else "it holds no class"
        raise InputError(
            f"{path} has no class named like the file ({held}); class, file (in lower case) and YAML share one name, "
            "as MyRec, myrec.py, MyRec.yaml"
        )
    raise InputError(
        f"{path} has no keys: {path.with_name(name + '.yaml')} is missing; list there every key it reads, with "
        "its default"
    )


def class_names(path: Path, lower: bool = False) -> list[str]:
    """Return the names of the classes at the top of a Python file, which is not imported."""
    text = path.read_text(encoding="utf-8", errors="replace")
    return re.findall(r"^class\s+(\w+)", text.lower() if lower else text, re.MULTILINE)


def load_file(path: Path) -> ModuleType:
    """Import a plugin file under a name that its place and content decide, so that an edited file is a new module.

    Modules beside the file can be imported by it.

    Raises:
        InputError: the file is gone.
        Exception: whatever the file raises.
    """
    try:
        source = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"the plugin file {path} cannot be read: {error.strerror}; name it by --plugin=<path>.py"
        ) from error
    digest = hashlib.sha256(str(path).encode() + b"\n" + source).hexdigest()[:12]
    name = f"recbole_blair_plugin_{path.stem}_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # it is for any name that ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # last: it hides nothing
    try:
        exec(compile(source, str(path), "exec"), module.__dict__)  # not the loader: its cache knows seconds only
    except BaseException:
        del sys.modules[name]
        raise
    return module


def describe_error(error: BaseException) -> str:
    """Return an import's error as one line: its kind, its text, file and line of the deepest frame that is not ours."""
    if isinstance(error, SyntaxError):
        place = f"{error.filename}, line {error.lineno}"
        text = f": {error.text.strip()}" if error.text else ""
        return f"{type(error).__name__}: {error.msg} ({place}{text})"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith("<frozen")]
    inner = [f for f in frames if Path(f.filename).parent != Path(__file__).parent and "importlib" not in f.filename]
    place = f" ({inner[-1].filename}, line {inner[-1].lineno}: {inner[-1].line})" if inner else ""
    return f"{type(error).__name__}: {error}{place}"

"""The keys of a YAML file of defaults: for each its default and its kind, which the comment beside it gives."""

from __future__ import annotations

import functools
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from recbole_blair.config.kinds import Kind, KindError, Option, parse_value, shorten, split_list
from recbole_blair.errors import InputError, nearest
from recbole_blair.files.paths import props_dir
from recbole_blair.files.read import read_text, read_yaml
from recbole_blair.files.yaml_loader import YamlLoader

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

COMMENT = re.compile(r"[^#\n]*#\s*\((?P<kind>[^()]*)\)")
EXPECTED = "keys and values, one `key: value` per line"
KEY_BYTES = 200  # of a key's name


@dataclass(frozen=True)
class Keys:
    """What may be set, and to what.

    Args:
        place: where the keys are, as messages name it.
        defaults: value of each key.
        kinds: of the keys whose values are checked; a key without one takes any value, its numbers finite.
        reader: the model or command that reads them.
    """

    place: str
    defaults: dict[str, Any] = field(default_factory=dict)
    kinds: dict[str, Kind] = field(default_factory=dict)
    reader: str = "it"

    def check(self, key: str, value: Any, source: str) -> Any:
        """Return a value as the key's kind.

        An empty value is accepted only where the default is empty, too.

        Raises:
            InputError: names key, value, source and what is expected.
        """
        kind, default = self.kinds.get(key), self.defaults[key]
        if value is None and default is not None:
            expected = kind.describe() if kind else type(default).__name__
            raise InputError(f"{key} is empty in {source}; expected {expected}, like the default {default!r}")
        try:
            if value is None:
                return None
            if kind is None:
                return check_finite(split_list(value) if isinstance(default, list) else value)
            return kind.check(value)
        except KindError as error:
            raise InputError(f"{key}={shorten(error.value)} in {source} {error}") from None

    def merge(self, layers: Sequence[tuple[str, Mapping[str, Any]]]) -> dict[str, Any]:
        """Return the defaults with each layer (source, values) put over them; the last wins.

        Raises:
            InputError: an unknown key, naming the nearest known one, or a value that is not of its kind.
        """
        values = dict(self.defaults)
        for source, layer in layers:
            for key, value in layer.items():
                if key not in values:
                    hint = nearest(str(key)[:KEY_BYTES], values)
                    raise InputError(
                        f"unknown key {shorten(key)} in {source}: {self.reader} does not read it.{hint} The keys are "
                        f"in {self.place}"
                    )
                values[key] = self.check(key, value, source)
        return values


def read_keys(path: Path, place: str | None = None) -> Keys:
    """Read a YAML file of defaults with its kinds.

    A comment that is not of `kinds.Kind`'s grammar is a remark: the kind is then that of the default.

    Raises:
        InputError: missing, not YAML, not a mapping, or a default that is not of the kind beside it.
    """
    keys, text = Keys(place or str(path), load_yaml(path)), read_text(path, EXPECTED)
    node, lines = yaml.compose(text, Loader=YamlLoader), text.splitlines()
    for key_node, value_node in node.value if isinstance(node, yaml.MappingNode) else ():
        key = key_node.value
        mark = value_node.end_mark if value_node.start_mark.line == key_node.start_mark.line else key_node.end_mark
        kind = comment_kind(lines[mark.line][mark.column :] if mark.line < len(lines) else "")
        kind = kind or Kind.of_default(keys.defaults.get(key))
        if kind is not None:
            keys.kinds[key] = kind
            keys.check(key, keys.defaults[key], f"its own defaults, {keys.place}")
    return keys


def comment_kind(comment: str) -> Kind | None:
    """Return the kind that the comment `# (kind) meaning` names, or None."""
    found = COMMENT.match(comment)
    try:
        return Kind.parse(found["kind"]) if found else None
    except ValueError:
        return None


def check_finite(value: Any) -> Any:
    """Return a value of a key without a kind: text, numbers, lists and mappings, every number finite.

    Raises:
        KindError: nan or infinity in it.
    """
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ():
        check_finite(item)
    if isinstance(value, float) and not math.isfinite(value):
        raise KindError(value, "is not finite")
    return value


@functools.lru_cache(maxsize=64)
def _read_once(path: Path, place: str, modified_ns: int, size: int) -> Keys:
    """Read a file of defaults, once per change of it."""
    return read_keys(path, place)


def read_keys_once(path: Path, place: str) -> Keys:
    """Return what `read_keys` returns, read again when the file changes; not to be changed."""
    status = path.stat()
    return _read_once(path, place, status.st_mtime_ns, status.st_size)


def props_keys(name: str) -> Keys:
    """Return the keys of `props/<name>`, such as overall.yaml."""
    return read_keys_once(props_dir() / name, f"props/{name}")


class KeyOption(Option):
    """An argparse option that is checked like a key of a file in props/.

    Args:
        key: its name there.
        file: below props/.
    """

    def __init__(self, key: str, file: str = "overall.yaml") -> None:
        self.key, self.file = key, file

    @property
    def kind(self) -> Kind:  # type: ignore[override]  # read when it is needed: --help of a broken installation works
        """The key's kind."""
        return props_keys(self.file).kinds[self.key]


def load_yaml(path: Path | str) -> dict[str, Any]:
    """Read one YAML file of keys; `props/…` that is not in the working folder is the installed file of that name.

    Raises:
        InputError: it cannot be read, is not YAML, or holds no mapping.
    """
    shipped = Path(path).parts[:1] == ("props",) and not Path(path).exists()
    values = read_yaml(props_dir().joinpath(*Path(path).parts[1:]) if shipped else path, EXPECTED)
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InputError(f"{path} holds a {type(values).__name__}; expected {EXPECTED}")
    return values


def read_flag(key: str, text: str, keys: Keys) -> Any:
    """Return the value of `--key=text`: text stays as it was typed where the key's kind is text."""
    kind = keys.kinds.get(key)
    return kind.read(text) if kind else parse_value(text)

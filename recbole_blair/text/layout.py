"""What a model folder says of itself, as sentence-transformers writes it: modules, pooling, prompts, widths.

Only JSON is read here; nothing is loaded. A folder without `modules.json` is a transformer alone.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from recbole_blair.errors import InputError
from recbole_blair.files.read import read_json
from recbole_blair.text.pooling import read_modes

DOCUMENT, QUERY = "document", "query"
ROUTERS = ("Router", "Asym")
HEADS = ("Pooling", "Dense", "Normalize", "LayerNorm", "Dropout")  # modules that may follow the transformer
OFFERED = ("Transformer", *HEADS, *ROUTERS)
# Sides of a Router or Asym, and prompts, in the order in which they are looked for.
SIDES = {DOCUMENT: (DOCUMENT, "doc", "passage", "corpus"), QUERY: (QUERY, "search_query")}
PROMPT_NAMES = {DOCUMENT: (DOCUMENT, "passage", "corpus"), QUERY: (QUERY,)}
PLAIN_OUTPUT = {"method": "forward", "method_output_name": "last_hidden_state"}  # of a Transformer module


@dataclass(frozen=True)
class Head:
    """A module after the transformer: its class, its place in the folder, its configuration."""

    kind: str
    place: str
    config: dict[str, Any]


@dataclass(frozen=True)
class Layout:
    """The modules of one side of a model folder.

    Args:
        folder: of the model.
        place: of the transformer in it; "" is the folder itself.
        heads: modules after the transformer, in order.
        transformer: sentence-transformers' settings of the transformer, such as `do_lower_case`.
        prompts: name -> text, as declared.
        default_prompt: name of the prompt for every text; None: there is none.
        widths: numbers per vector that the model was trained to be truncated to; empty: not declared.
        task: `document` or `query`.
    """

    folder: Path
    place: str = ""
    heads: tuple[Head, ...] = ()
    transformer: dict[str, Any] = field(default_factory=dict)
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    widths: tuple[int, ...] = ()
    task: str = DOCUMENT

    @property
    def backbone(self) -> Path:
        """Folder of the transformer: config, weights, tokenizer."""
        return self.folder / self.place

    @property
    def poolings(self) -> tuple[str, ...]:
        """The declared poolings; empty when nothing is declared."""
        return next((read_modes(head.config) for head in self.heads if head.kind == "Pooling"), ())

    @property
    def is_plain(self) -> bool:
        """Tell whether every token's state is pooled and no other module follows."""
        pools = all(head.kind == "Pooling" and head.config.get("include_prompt", True) for head in self.heads)
        return pools and len(self.heads) <= 1

    def ending(self, normalise: bool | None) -> Layout:
        """Return the layout, without the Normalize module that it ends in where `normalise` is False."""
        ends = normalise is False and bool(self.heads) and self.heads[-1].kind == "Normalize"
        return replace(self, heads=self.heads[:-1]) if ends else self

    def describe(self) -> list[dict[str, Any]]:
        """Return the modules after the transformer for a header."""
        return [{"type": head.kind, **head.config} for head in self.heads if head.kind != "Dropout"]


def read_layout(folder: Path | str, task: str = DOCUMENT) -> Layout:
    """Read what a model folder declares for one side.

    Args:
        folder: of the model; `modules.json` may be absent.
        task: `document` or `query`: the side of a Router.

    Raises:
        InputError: a file that is no JSON, a module that is not offered, or a model that makes no dense text vectors.
    """
    folder = Path(folder)
    about = _read_json(folder / "config_sentence_transformers.json")
    kind = about.get("model_type", "SentenceTransformer")
    if kind != "SentenceTransformer":
        raise InputError(f"{folder} is a {kind}, expected an encoder of texts into dense vectors (SentenceTransformer)")
    modules = list(_flatten(folder, _listed(folder), task))
    if modules and modules[0].kind != "Transformer":
        raise InputError(
            f"{folder}/modules.json begins with {modules[0].kind}, expected a Transformer; {_TAKE_ANOTHER}"
        )
    place = modules[0].place if modules else ""
    transformer = modules[0].config if modules else {}
    _check_transformer(folder / place, transformer)
    heads = tuple(modules[1:]) if modules else _legacy_pooling(folder)
    wrong = next((head.kind for head in heads if head.kind not in HEADS), None)
    if wrong:
        raise InputError(f"{folder}/modules.json has {wrong} after its first module; {_TAKE_ANOTHER}")
    config = _read_json(folder / place / "config.json")
    widths = about.get("matryoshka_dimensions") or config.get("matryoshka_dimensions") or ()
    prompts = {name: text for name, text in (about.get("prompts") or {}).items() if text}
    return Layout(
        folder, place, heads, transformer, prompts, about.get("default_prompt_name"), tuple(map(int, widths)), task
    )


def module_places(folder: Path | str) -> list[str]:
    """Return the places that modules.json names; empty without the file."""
    return [place for _, place in _listed(Path(folder))]


_TAKE_ANOTHER = f"offered are {', '.join(OFFERED)}; take another encoder"


def _listed(folder: Path) -> list[tuple[str, str]]:
    """Return (class, place) of each entry of modules.json; empty without the file.

    Raises:
        InputError: an entry whose class is not one of sentence-transformers' own, or whose place leaves the folder.
    """
    path = folder / "modules.json"
    entries = _read_json(path, list) or []
    try:
        return [(_kind_of(entry["type"], path), _inside(entry["path"], path)) for entry in entries]
    except (KeyError, TypeError):
        raise InputError(f"{path} is no list of modules with type and path; download or save it again") from None


def _flatten(folder: Path, modules: list[tuple[str, str]], task: str) -> Iterator[Head]:
    """Yield the modules in order, a Router replaced by those of its side for `task`."""
    for kind, place in modules:
        if kind in ROUTERS:
            yield from _flatten(folder, _route(folder, place, task), task)
            continue
        names = ("sentence_bert_config.json",) if kind == "Transformer" else ("config.json",)
        yield Head(kind, place, next((c for name in names if (c := _read_json(folder / place / name))), {}))


def _route(folder: Path, place: str, task: str) -> list[tuple[str, str]]:
    """Return (class, place) of the modules on a Router's side for texts of `task`, found as Router does."""
    path = folder / place / "router_config.json"
    if not path.is_file():
        path = folder / place / "config.json"
    try:
        config = _read_json(path)
        structure, types, options = config["structure"], config["types"], config.get("parameters") or {}
        routes = {ast.literal_eval(key): name for key, name in (options.get("route_mappings") or {}).items()}
        mapped = [routes[key] for key in ((task, "text"), (task, None), (None, "text"), (None, None)) if key in routes]
        sides = [*mapped, *(name for name in (*SIDES[task], "text", options.get("default_route")) if name in structure)]
        if not sides:
            raise InputError(f"{path} has no side for a {task} (it has {', '.join(structure)}); take another encoder")
        return [(_kind_of(types[i], path), _inside(f"{place}/{i}" if place else i, path)) for i in structure[sides[0]]]
    except (KeyError, TypeError, AttributeError, SyntaxError) as error:
        raise InputError(f"{path} is no router's configuration ({error}); download or save it again") from None


def _kind_of(name: str, path: Path) -> str:
    """Return the class of a module, or refuse one that is not offered."""
    kind = name.rsplit(".", 1)[-1]
    if not name.startswith("sentence_transformers."):
        raise InputError(f"{path} names {name}, code that the model brings, which is never run; {_TAKE_ANOTHER}")
    if kind not in OFFERED:
        raise InputError(f"{path} names the module {kind}, which is not offered; {_TAKE_ANOTHER}")
    return kind


def _inside(place: str, path: Path) -> str:
    """Return a module's place, or refuse one outside of the model's folder."""
    pure = PurePosixPath(place)
    if pure.is_absolute() or ".." in pure.parts or "\\" in place:
        raise InputError(f"{path} names {place!r}, which leaves the model's folder; take another encoder")
    return str(pure) if pure.parts else ""


def _legacy_pooling(folder: Path) -> tuple[Head, ...]:
    """Return the pooling that a folder without modules.json declares in `1_Pooling`."""
    config = _read_json(folder / "1_Pooling/config.json")
    return (Head("Pooling", "1_Pooling", config),) if config else ()


def _check_transformer(place: Path, config: dict[str, Any]) -> None:
    """Refuse settings of the transformer that do not give token states of plain texts."""
    outputs = config.get("modality_config") or {"text": PLAIN_OUTPUT}
    task = config.get("transformer_task", "feature-extraction")
    if "message" in outputs:
        raise InputError(f"{place} puts texts into a chat template (modality message), which is not offered; {_OTHER}")
    if task != "feature-extraction" or {**PLAIN_OUTPUT, **outputs.get("text", {"method": "none"})} != PLAIN_OUTPUT:
        raise InputError(f"{place} takes other outputs than the last hidden states of texts; {_OTHER}")


_OTHER = "take another encoder"


def _read_json(path: Path, kind: type = dict) -> Any:
    """Load a JSON file that holds a value of a kind, {} when it is absent; a broken one is the user's to mend."""
    if not path.is_file():
        return {}
    try:
        value = read_json(path)
    except InputError as error:
        raise InputError(f"{error}; download or save the encoder again") from None
    if not isinstance(value, kind):
        raise InputError(
            f"{path} holds a {type(value).__name__}, expected a {kind.__name__}; download or save the encoder again"
        )
    return value

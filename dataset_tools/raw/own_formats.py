"""Files of any shop or public log: CSV, JSON lines, Parquet, Python literals; which columns they hold, and their SQL.

A column is read as text (`text_sql`) or as JSON (`json_sql`), whatever the format, so that the rest of the conversion
does not know it.
"""

from __future__ import annotations

import ast
import csv
import gzip
import io
import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, TextIO

from dataset_tools.raw.raw_files import describe_line, is_gzip, line_number_of
from dataset_tools.storage.duckdb_session import quote
from recbole_blair.errors import InputError, nearest
from recbole_blair.files.read import MAX_LINE_BYTES, check_file, reading

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    import pyarrow as pa

    from dataset_tools.storage.duckdb_session import DuckDBSession

KINDS = {
    ".csv": "csv", ".tsv": "csv", ".dat": "csv", ".txt": "csv",
    ".inter": "atomic", ".item": "atomic",
    ".json": "jsonl", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".pq": "parquet",
}  # fmt: skip
ATOMIC = "atomic"  # RecBole's files: tabs, a header of `name:type`, lists joined by blanks
SEQUENCE = "token_seq"
DELIMITERS = {".tsv": "\t", ".dat": "::"}  # any other text file: a comma
ENCODINGS = {"utf-8": "utf-8-sig", "utf-16": "utf-16", "latin-1": "latin-1"}  # DuckDB's names, and Python's
QUOTING = {"double": ('"', '"'), "backslash": ('"', "\\"), "none": ("", "")}  # quote, what escapes it inside a cell
BOM = b"\xef\xbb\xbf"
MOST_EXACT = 1 << 53  # whole numbers from here on have neighbours that a float cannot hold
ALTERNATIVE = "|"  # between columns of which the first that is not empty counts
PEEK_LINES = 1000  # whose keys are the columns of a file of objects
LINES_PER_BATCH = 20_000
MAX_LITERAL = 1 << 22  # characters of a line that is parsed as a literal, which takes a hundred times as many bytes


@dataclass(frozen=True)
class FileFormat:
    """How a file is said to be written.

    Args:
        source: the format of a file whose extension does not tell; `python` reads JSON lines' files as Python
            literals, `atomic` any other text as RecBole's.
        delimiter: of a CSV; None: by extension.
        encoding: of a CSV: utf-8, utf-16 or latin-1.
        quoting: of a CSV, a key of `QUOTING`.
        header: names of the columns of a CSV whose first line is a row, joined by commas; None: the first line is a
            header, unless the columns that are used are numbers.
    """

    source: str = "csv"
    delimiter: str | None = None
    encoding: str = "utf-8"
    quoting: str = "double"
    header: str | None = None


class OwnFile(NamedTuple):
    """One file and how to read it; `columns` are its columns in order, numbers from 1 for a CSV without header."""

    path: Path
    kind: str  # csv, jsonl, python or parquet
    columns: tuple[str, ...]
    delimiter: str
    encoding: str
    header: bool
    quoting: str = "double"
    floats: frozenset[str] = frozenset()  # columns of a Parquet file that hold floats
    bom: bool = False  # it begins with a byte order mark
    sequences: frozenset[str] = frozenset()  # columns of an atomic file that hold lists of tokens


def open_own(path: Path | str, form: FileFormat, used: Sequence[str]) -> OwnFile:
    """Find out how to read a file, and check that it has the columns that are used.

    Args:
        path: the extension decides the format, `.gz` aside.
        form: what is said of the file.
        used: columns the conversion reads, or alternatives (`title|app_name`); if all are numbers, a CSV has no header.

    Raises:
        InputError: no such file, or a column it does not have, naming the nearest.
    """
    source, encoding = form.source, form.encoding
    path = check_file(path, "the file of --interactions or --items")
    suffix = Path(path.stem).suffix if is_gzip(path) else path.suffix
    kind = KINDS.get(suffix.lower(), source)
    kind = "python" if source == "python" and kind == "jsonl" else kind
    atomic = kind == ATOMIC or (source == ATOMIC and kind == "csv")
    kind = "csv" if atomic else kind
    if kind == "parquet" and is_gzip(path):
        raise InputError(f"{path}: Parquet is compressed inside; unpack the .gz")
    if encoding not in ENCODINGS:
        raise InputError(f"unknown encoding {encoding!r}; known: {', '.join(ENCODINGS)}")
    if kind != "csv" and encoding != "utf-8":
        raise InputError(f"encoding={encoding} is for CSV; {path.name} is read as {kind}, which is UTF-8")
    if kind != "csv" and form.header:
        raise InputError(f"header={form.header} is for CSV; {path.name} is read as {kind}, which names its columns")
    delimiter = form.delimiter or ("\t" if atomic else DELIMITERS.get(suffix.lower(), ","))
    delimiter = "\t" if delimiter == "\\t" else delimiter
    numbered = all(name.replace(ALTERNATIVE, "").isdigit() for name in used) and not atomic
    header = kind != "csv" or not (form.header or numbered)
    file = OwnFile(path, kind, (), delimiter, encoding, header, "none" if atomic else form.quoting)
    with reading(path, f"{kind} with the columns {', '.join(used)}"):
        if kind == "parquet":
            file = file._replace(floats=float_columns(path))
        else:
            with open_raw(path) as raw:
                file = file._replace(bom=raw.read(len(BOM)) == BOM)
        file = file._replace(columns=tuple(READ_COLUMNS[kind](file)))
    if form.header:
        file = file._replace(columns=name_columns(file, form.header))
    elif atomic:
        file = name_atomic_columns(file)
    for name in used:
        if not any(column in file.columns for column in name.split(ALTERNATIVE)):
            raise InputError(
                f"{path} has no column {name!r}.{nearest(name, file.columns)} It has: {', '.join(file.columns)}"
                f"{other_delimiter(file)}"
            )
    return file


def name_columns(file: OwnFile, header: str) -> tuple[str, ...]:
    """Return the names given to the columns of a CSV without header.

    Raises:
        InputError: another number of names than the first row has cells, or one twice.
    """
    names = tuple(name.strip() for name in header.split(","))
    if len(names) != len(file.columns) or len(set(names)) < len(names):
        raise InputError(
            f"header={header} names {len(set(names))} columns; the first row of {file.path} has {len(file.columns)}"
        )
    return names


def name_atomic_columns(file: OwnFile) -> OwnFile:
    """Return a file whose columns `name:type` have the names alone; those of tokens' lists are noted.

    Raises:
        InputError: a column without a type, or a name twice.
    """
    names = [column.partition(":")[0] for column in file.columns]
    for name, column in zip(names, file.columns):
        if ":" not in column or names.count(name) > 1:
            fault = "twice" if names.count(name) > 1 else "without a type"
            raise InputError(
                f"{file.path} has the column {column!r} {fault}; expected RecBole's header, tabs between name:type"
            )
    lists = (name for name, column in zip(names, file.columns) if column.endswith(f":{SEQUENCE}"))
    return file._replace(columns=tuple(names), sequences=frozenset(lists))


def other_delimiter(file: OwnFile) -> str:
    """A hint where a CSV's header looks like one column because another character separates it."""
    if file.kind != "csv" or len(file.columns) > 1:
        return ""
    mark = next((mark for mark in (";", "\t", "|", ",") if mark in file.columns[0]), None)
    return f"; the columns seem to be separated otherwise: add --delimiter={mark!r}" if mark else ""


def open_raw(path: Path) -> BinaryIO:
    """Open a file for reading bytes, unpacked; a damaged one is named by the pass over it."""
    return gzip.open(path, "rb") if is_gzip(path) else open(path, "rb")  # type: ignore[return-value]


def open_text(file: OwnFile) -> TextIO:
    """Open a text file, unpacked and decoded."""
    return io.TextIOWrapper(open_raw(file.path), encoding=ENCODINGS[file.encoding], errors="replace", newline="")


def csv_columns(file: OwnFile) -> list[str]:
    """The header of a CSV, or the numbers of its columns."""
    with open_text(file) as text:
        first = text.readline(MAX_LINE_BYTES).rstrip("\r\n")
    if not first:
        raise InputError(f"{file.path} begins with an empty line; expected a header or a row")
    if len(file.delimiter) > 1 or file.quoting == "none":
        names = first.split(file.delimiter)
    else:
        escape = "\\" if file.quoting == "backslash" else None
        names = next(csv.reader([first], delimiter=file.delimiter, doublequote=escape is None, escapechar=escape))
    if not file.header:
        return [str(number) for number in range(1, len(names) + 1)]
    names = [name.strip() for name in names]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{file.path} has the column {twice!r} twice; rename one in the first line")
    return names


def object_columns(file: OwnFile) -> Collection[str]:
    """The keys of the first objects of a file of JSON lines or Python literals."""
    parse: Callable[[str], Any] = json.loads if file.kind == "jsonl" else ast.literal_eval
    keys: dict[str, None] = {}
    with open_text(file) as text:
        lines = iter(lambda: text.readline(MAX_LINE_BYTES), "")
        for line in itertools.islice((line for line in lines if line.strip()), PEEK_LINES):
            value, _ = parse_object(parse, line)
            keys.update(dict.fromkeys(value or ()))
    if not keys:
        what = "JSON objects" if file.kind == "jsonl" else "Python dictionaries"
        hint = "; lines like {u'a': 1} are Python's: use --source=python" if file.kind == "jsonl" else ""
        raise InputError(f"{file.path} holds no {what}, one a line{hint}")
    return keys


def parquet_columns(file: OwnFile) -> list[str]:
    """The columns of a Parquet file."""
    import pyarrow.parquet as pq  # heavy

    return pq.read_schema(file.path).names


def float_columns(path: Path) -> frozenset[str]:
    """The columns of a Parquet file that hold floats: what holds whole numbers and nulls is often such a column."""
    import pyarrow as pa  # heavy
    import pyarrow.parquet as pq  # heavy

    return frozenset(field.name for field in pq.read_schema(path) if pa.types.is_floating(field.type))


READ_COLUMNS = {"csv": csv_columns, "jsonl": object_columns, "python": object_columns, "parquet": parquet_columns}


def parse_object(parse: Callable[[str], Any], line: str) -> tuple[dict[str, Any] | None, str | None]:
    """Return (dict, None), or (None, what is wrong with the line). Literals are parsed, never run."""
    try:
        value = parse(line.strip())
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        return None, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no literal'}"
    return (value, None) if isinstance(value, dict) else (None, f"a {type(value).__name__}, no object")


class PythonLines:
    """Streams lines that DuckDB cannot parse into it as JSON text, one column per name; broken ones are empty rows.

    Those are Python literals, and JSON lines behind a byte order mark.
    """

    def __init__(self, file: OwnFile, names: list[str]) -> None:
        self.file, self.names = file, names
        self.parse: Callable[[str], Any] = ast.literal_eval if file.kind == "python" else json.loads
        self.first_broken: tuple[int, str] | None = None  # line number, what is wrong

    def reader(self) -> pa.RecordBatchReader:
        """Return an Arrow reader over the whole file."""
        import pyarrow as pa  # heavy

        schema = pa.schema([(name, pa.string()) for name in self.names])
        return pa.RecordBatchReader.from_batches(schema, self._batches(schema))

    def _batches(self, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa  # heavy

        with open_text(self.file) as text:
            numbered = ((n, line) for n, line in enumerate(bounded_lines(text), 1) if line.strip())
            while chunk := list(itertools.islice(numbered, LINES_PER_BATCH)):
                rows = [self._row(number, line) for number, line in chunk]
                yield pa.record_batch([pa.array(column, pa.string()) for column in zip(*rows)], schema=schema)

    def _row(self, number: int, line: str) -> list[str | None]:
        value: dict[str, Any] | None = None
        fault: str | None = f"it is longer than {MAX_LITERAL:,} characters"
        if len(line) <= MAX_LITERAL:
            value, fault = parse_object(self.parse, line)
        if fault is not None and self.first_broken is None:
            self.first_broken = number, fault
        return [to_json((value or {}).get(name)) for name in self.names]


def bounded_lines(text: TextIO) -> Iterator[str]:
    """Yield the lines of a file; of one longer than `MAX_LITERAL` its beginning, one character longer than that."""
    while line := text.readline(MAX_LITERAL + 1):
        rest = line
        while len(rest) > MAX_LITERAL and not rest.endswith("\n"):
            rest = text.readline(MAX_LITERAL + 1)
        yield line


def to_json(value: object) -> str | None:
    """A Python value as JSON text, None as None; what JSON cannot say is written as text."""
    if value is None:
        return None
    try:
        text = json.dumps(value, default=str, ensure_ascii=False, allow_nan=False)
        text.encode()
    except UnicodeEncodeError:  # halves of a pair, as narrow builds of Python 2 wrote them
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    except ValueError:  # an infinite number
        text = json.dumps(str(value))
    return text


class Scan:
    """One pass over a file: the SQL to select from, and what was broken afterwards; `used` are the columns read."""

    def __init__(self, duck: DuckDBSession, file: OwnFile, used: Sequence[str]) -> None:
        self.duck, self.file, self.used = duck, file, list(dict.fromkeys(used))
        self.python = None
        if file.kind == "python" or (file.kind == "jsonl" and file.bom):
            self.python = PythonLines(file, self.used)
            duck.con.register("python_lines", self.python.reader())

    def sql(self) -> str:
        """Return the table function to select from."""
        path, file = quote(self.file.path), self.file
        if self.python:
            return "python_lines"
        if file.kind == "parquet":
            return f"read_parquet({path})"
        if file.kind == "jsonl":
            columns = ", ".join(f"{quote(name)}: 'JSON'" for name in self.used)
            return f"read_json({path}, format='newline_delimited', ignore_errors=true, columns={{{columns}}})"
        columns = ", ".join(f"{quote(name)}: 'VARCHAR'" for name in file.columns)
        mark, escape = QUOTING[file.quoting] if len(file.delimiter) == 1 else QUOTING["none"]
        return (
            f"read_csv({path}, delim={quote(file.delimiter)}, quote={quote(mark)}, escape={quote(escape)}, "
            f"header={str(file.header).lower()}, auto_detect=false, columns={{{columns}}}, "
            f"encoding={quote(file.encoding)}, ignore_errors=true, store_rejects=true, rejects_limit=0)"
        )

    def json_sql(self, name: str) -> str:
        """Return SQL of a column as JSON."""
        column = identifier(name)
        if self.python:
            return f"{column}::JSON"
        return column if self.file.kind == "jsonl" else f"to_json({column})"

    def text_sql(self, name: str) -> str:
        """Return SQL of a column as text; a whole number in a column of floats has no `.0`."""
        column = identifier(name)
        if self.file.kind == "csv":
            return column
        if name in self.file.floats:
            whole = f"{column} = floor({column}) AND abs({column}) < {MOST_EXACT}"
            return f"CASE WHEN {whole} THEN try_cast({column} AS BIGINT)::VARCHAR ELSE {column}::VARCHAR END"
        return f"{column}::VARCHAR" if self.file.kind == "parquet" else f"({self.json_sql(name)} ->> '$')"

    def finish(self, empty_rows: int, first_empty: int | None) -> tuple[int, str | None]:
        """Count the broken lines once the pass is over.

        Args:
            empty_rows: rows of which nothing could be read.
            first_empty: the first of them, from 0.

        Returns:
            Lines that are broken and not among the rows; where the first broken line is, and why.
        """
        if self.python:
            self.duck.con.unregister("python_lines")
            first = self.python.first_broken
            return 0, first and f"line {first[0]}: {first[1]}"
        if self.file.kind == "csv":
            found = self.duck.run(
                "SELECT count(DISTINCT line), min(line), arg_min(error_message, line) FROM reject_errors"
            )[0]
            self.duck.run("DROP TABLE reject_errors; DROP TABLE reject_scans")
            return found[0], f"line {found[1]}: {found[2]}" if found[0] else None
        if self.file.kind == "jsonl" and first_empty is not None:
            number = line_number_of(self.file.path, first_empty)
            return 0, f"line {number}: {describe_line(self.file.path, number)}"
        return 0, None


def identifier(name: str) -> str:
    """Return a column's name as SQL."""
    return '"' + name.replace('"', '""') + '"'

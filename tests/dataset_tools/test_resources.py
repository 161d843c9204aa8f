"""Memory limits and threads are checked before DuckDB sees them."""

import pytest

from dataset_tools.storage.resources import Resources, parse_bytes
from recbole_blair.cli.main import main
from recbole_blair.errors import InputError


@pytest.mark.parametrize(
    ("text", "size"), [("4GB", 4 * 10**9), ("512MiB", 512 << 20), ("1.5 GB", 15 * 10**8), ("900kb", 900_000)]
)
def test_sizes_as_duckdb_reads_them(text, size):
    assert parse_bytes(text) == size == parse_bytes(Resources(text).memory_limit)


WRONG = [
    "plenty", "0", "0GB", "0.0GB", "-1GB", "-4GB", "4", "1e3GB", "nanGB", "infGB", "4GB'; DROP TABLE x", "\u0664GB",
         "4GB\n;", "1.2.3GB", "9" * 40 + "GB", ""]  # fmt: skip


@pytest.mark.parametrize("text", WRONG)
def test_what_is_no_size_is_refused(text):
    with pytest.raises(InputError, match=r"--memory_limit=.* is no size; write it as 2GB or 512MB"):
        Resources(text)


@pytest.mark.parametrize("threads", [0, -1, 10**11, 1.5, True, "2"])
def test_threads_that_cannot_be_are_refused(threads):
    with pytest.raises(InputError, match=r"--threads=.*: expected a whole number from 1 to 1024"):
        Resources(threads=threads)


COMMANDS = [
    ["prepare", "--dataset=sample", "--dry_run"],
    ["prepare", "--dataset=sample,sample-u60-i60", "--dry_run"],
    ["prepare", "--dataset=own", "--source=csv", "--interactions=log.csv"],
    ["stats", "sample"],
    ["build-c4", "--dataset=sample", "--output_dir=out", "--dry_run"],
]


@pytest.mark.parametrize("argv", COMMANDS)
@pytest.mark.parametrize("limit", ["0", "-4GB", "4GB'; DROP TABLE x"])
def test_every_command_refuses_in_one_line_and_starts_nothing(tmp_path, monkeypatch, capsys, argv, limit):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\nu,i,1628643414042\n")
    assert main([*argv, f"--memory_limit={limit}"]) == 2
    error = capsys.readouterr().err
    assert "is no size" in error and error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["log.csv"]

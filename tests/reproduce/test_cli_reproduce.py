"""The command: list, status, bad input, and rows that cost little."""

import json

import pytest

from recbole_blair.cli.main import main


def said(capsys, *argv):
    """Run the command; return (exit status, standard output, standard error)."""
    status = main(["reproduce", *argv])
    out, err = capsys.readouterr()
    return status, out, err


def test_list_shows_every_row(capsys):
    from recbole_blair.reproduce.tables import find_rows

    status, out, _ = said(capsys, "--list")
    assert status == 0
    lines = {line.strip() for line in out.splitlines()}
    assert {row.id for row in find_rows("all")} <= lines
    assert "ndcg@100 Video_Games: not comparable, the last cell of this row is illegible in the copy at hand" in lines


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["blair-tabel4"], "unknown id 'blair-tabel4'. Did you mean 'blair-table4'?"),
        (["blair-table3", "--scale=smok"], "--scale=smok is not one of smoke, full. Did you mean 'smoke'?"),
        ([], "no id given"),
        (
            ["slices-search/minilm/c4", "--scale=full"],
            "the encoder MiniLM is a folder of yours; name it by --plm=FOLDER",
        ),
        (["blair-table3", "--scale=full", "--seeds=a"], "--seeds=a is a str; expected list of int"),
    ],
)
def test_bad_input_is_one_line(capsys, argv, message):
    status, _, err = said(capsys, *argv)
    assert status == 2
    assert message in err and len(err.strip().splitlines()) == 1


def test_without_raw_files_and_network_it_says_which_are_missing(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # the variable is read once, at import
    places = [f"--{name}={tmp_path / name}" for name in ("raw_dir", "data_path", "output_dir")]
    status, _, err = said(capsys, "blair-table3/dataset/beauty", "--scale=full", "--quiet", *places)
    assert status == 2
    assert "All_Beauty.jsonl" in err and "HF_HUB_OFFLINE" in err and len(err.strip().splitlines()) == 1


def test_cheap_rows_pass_and_the_status_knows(capsys, tmp_path):
    where = f"--output_dir={tmp_path}"
    status, out, _ = said(capsys, "blair-table3/dataset/games,slices-search/bm25/c4", where)
    assert status == 0, out
    assert "2 of 2 rows hold" in out
    found = json.loads((tmp_path / "smoke/results/blair-table3.json").read_text())["blair-table3/dataset/games"]
    assert found["verdict"] == "pass" and [c["name"] for c in found["checks"]] == ["split", "statistics"]
    assert not list((tmp_path / "smoke").glob("work-*"))  # nothing that a later call could take for its own
    status, out, _ = said(capsys, "blair-table3", "--status", where)
    assert "smoke: pass" in out and "smoke: 1 of 3 rows have results" in out and "full: 0 of 3" in out


def test_a_row_on_the_published_esci_pool_passes_alone(capsys, tmp_path):
    """The generated set has no pool until one is drawn, which no other row of the table asks for."""
    status, out, _ = said(capsys, "slices-search/bm25/esci", f"--output_dir={tmp_path}")
    assert status == 0, out
    assert "1 of 1 rows hold" in out


def test_the_real_slices_statistics_are_reproduced(capsys, tmp_path, shared_data):
    places = [f"--raw_dir={shared_data / 'amazon_reviews_2023'}", f"--data_path={tmp_path / 'data'}"]
    rows = "slices-statistics/dataset/appliances,slices-statistics/dataset/beauty"
    status, out, _ = said(capsys, rows, "--scale=full", "--quiet", f"--output_dir={tmp_path}", *places)
    assert status == 0, out
    assert "2 of 2 rows hold" in out and "outside" not in out

"""Download with the real hub client against a hub-like server on loopback."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hub_server import COMMIT, Hub
from raw_data import V, meta, review, table, write_raw

from dataset_tools.raw.download import CHUNK_BYTES

REPO = Path(__file__).resolve().parents[2]
REVIEWS, METADATA = "raw/review_categories/Appliances.jsonl", "raw/meta_categories/meta_Appliances.jsonl"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The published files of a domain: about 4 MB of reviews."""
    root = tmp_path_factory.mktemp("hub")
    reviews, metadata = table()
    reviews += [review(f"w{n % 300}", f"i{n % 7}", V - n, text="word " * 350) for n in range(2000)]
    write_raw(root, "Appliances", reviews, [*metadata, meta("i0"), meta("i6")])
    return {name: (root / name).read_bytes() for name in (REVIEWS, METADATA)}


def environment(root, endpoint, **extra):
    """A clean environment for the client: no token, no proxy, its own home."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_") and "proxy" not in k.lower()}
    return {**kept, "PYTHONPATH": str(REPO), "HF_HOME": str(root / "hf"), "HF_ENDPOINT": endpoint, **extra}


def arguments(root, *options):
    paths = [f"--raw_dir={root}", f"--data_path={root / 'dataset'}"]
    return [sys.executable, "-m", "recbole_blair", "prepare", "--dataset=Appliances", *paths, "--quiet", *options]


def prepare(root, endpoint, *options, **extra):
    return subprocess.run(
        arguments(root, *options), env=environment(root, endpoint, **extra), capture_output=True, text=True, cwd=root
    )


def assert_whole(root, files):
    for name, data in files.items():
        assert (root / name).read_bytes() == data
    assert not list((root / "raw").rglob("*.part"))


def gets(hub):
    return [(path, span, status) for method, path, span, status in hub.requests if method == "GET" and status != 302]


def test_missing_files_are_downloaded_and_converted(tmp_path, files):
    with Hub(files) as hub:
        result = prepare(tmp_path, hub.url)
        assert result.returncode == 0, result.stderr
        assert_whole(tmp_path, files)
        assert result.stdout.startswith("Appliances: #Items ")
        count = len(hub.requests)
        assert prepare(tmp_path, hub.url).returncode == 0
        assert len(hub.requests) == count  # whole: no request
        (tmp_path / METADATA).unlink()
        (tmp_path / "dataset/Appliances/Appliances.stats.json").unlink()
        assert prepare(tmp_path, hub.url).returncode == 0
        asked = {path for _, path, _, _ in hub.requests[count:] if "/raw/" in path}
        assert all(path.endswith(METADATA) for path in asked), asked  # only what is missing
    assert_whole(tmp_path, files)


def test_a_broken_connection_goes_on_where_it_broke(tmp_path, files):
    with Hub(files, cut_after=1_500_000) as hub:
        result = prepare(tmp_path, hub.url)
    assert result.returncode == 0, result.stderr
    assert_whole(tmp_path, files)
    spans = [span for path, span, _ in gets(hub) if path.endswith(REVIEWS.split("/")[-1]) and "meta" not in path]
    assert spans[0] is None and len(spans) > 1
    assert all(span.startswith("bytes=") and span != "bytes=0-" for span in spans[1:])
    again = hub.sent - sum(len(data) for data in files.values())
    assert again < (len(spans) - 1) * CHUNK_BYTES  # at most the chunk that was cut is sent twice


@pytest.mark.slow
def test_killed_while_downloading_goes_on_and_ends_whole(tmp_path, files):
    with Hub(files, delay_s=0.02) as hub:
        process = subprocess.Popen(
            arguments(tmp_path), env=environment(tmp_path, hub.url), stderr=subprocess.DEVNULL, cwd=tmp_path
        )
        partial = []
        while process.poll() is None and not any(path.stat().st_size > 1_000_000 for path in partial):
            time.sleep(0.005)
            partial = list((tmp_path / "raw").rglob("*.part"))
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.returncode == -signal.SIGKILL, "it was over before the kill"
        assert not (tmp_path / REVIEWS).exists()
        kept = partial[0].stat().st_size
        assert 0 < kept < len(files[REVIEWS])
        hub.delay_s, before = 0.0, len(hub.requests)
        result = prepare(tmp_path, hub.url)
    assert result.returncode == 0, result.stderr
    assert_whole(tmp_path, files)
    spans = [span for method, path, span, status in hub.requests[before:] if method == "GET" and status == 206]
    assert spans == [f"bytes={kept}-"]


def test_wrong_bytes_are_refused_and_deleted(tmp_path, files):
    with Hub(files, corrupt=True) as hub:
        result = prepare(tmp_path, hub.url)
    assert result.returncode == 2
    assert "arrived with SHA-256" in result.stderr and result.stderr.count("\n") == 1
    assert not (tmp_path / REVIEWS).exists() and not list((tmp_path / "raw").rglob("*.part"))


def test_part_of_another_version_is_not_continued(tmp_path, files):
    stale = tmp_path / "raw/review_categories/.Appliances.jsonl.0123456789abcdef.part"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"old")
    with Hub(files) as hub:
        assert prepare(tmp_path, hub.url).returncode == 0
    assert not stale.exists()
    assert_whole(tmp_path, files)


def test_no_network_says_which_files_to_put_where(tmp_path, files):
    with Hub(files) as hub:
        closed = hub.url
    result = prepare(tmp_path, closed)
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert f"put {tmp_path / REVIEWS}[.gz] and {tmp_path / METADATA}[.gz] in place by hand" in result.stderr
    assert "--dataset=sample" in result.stderr


def test_offline_mode_is_honoured(tmp_path, files):
    with Hub(files) as hub:
        result = prepare(tmp_path, hub.url, HF_HUB_OFFLINE="1")
        assert not any("/raw/" in path for _, path, _, _ in hub.requests)
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert "HF_HUB_OFFLINE is set" in result.stderr


def test_revisions(tmp_path, files):
    with Hub(files) as hub:
        wrong = prepare(tmp_path, hub.url, "--revision=v9")
        assert wrong.returncode == 2
        assert "has no revision 'v9'" in wrong.stderr and wrong.stderr.count("\n") == 1
        assert prepare(tmp_path, hub.url, f"--revision={COMMIT}").returncode == 0
        other = prepare(tmp_path, hub.url, "--revision=" + "d" * 40)
        assert other.returncode == 2 and f"was downloaded at revision {COMMIT}" in other.stderr


def test_a_file_the_repository_lacks(tmp_path, files):
    with Hub({REVIEWS: files[REVIEWS]}) as hub:
        result = prepare(tmp_path, hub.url)
    assert result.returncode == 2
    assert f"has no file {METADATA}" in result.stderr and result.stderr.count("\n") == 1

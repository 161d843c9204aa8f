"""Checksums: what `sha256sum` prints, and every damage of a file or of the list itself is named."""

import pytest

from recbole_blair.errors import InputError
from recbole_blair.files import checksum
from recbole_blair.files.checksum import CHECKSUMS, check_recorded, check_sha256, checksums_text, file_sha256

ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1
MILLION_A = "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"  # B.3
FIX = "copy it again"


@pytest.fixture
def file(tmp_path):
    """A file with its checksum beside it."""
    (tmp_path / CHECKSUMS).write_text(checksums_text({"data": ABC}))
    (tmp_path / "data").write_bytes(b"abc")
    return tmp_path / "data"


def test_the_digest_is_the_published_one(file, tmp_path, monkeypatch):
    assert file_sha256(file) == ABC
    assert check_recorded(file, FIX) is True
    monkeypatch.setattr(checksum, "BLOCK_BYTES", 4096)  # the last block is not a whole one
    (tmp_path / "million").write_bytes(b"a" * 1_000_000)
    assert file_sha256(tmp_path / "million") == MILLION_A


def test_while_a_file_is_replaced_both_digests_hold(file):
    (file.parent / CHECKSUMS).write_text(checksums_text({"data": ["0" * 64, ABC]}))
    assert check_recorded(file, FIX) is True


def test_a_folder_without_checksums_is_told_apart(file):
    (file.parent / CHECKSUMS).unlink()
    assert check_recorded(file, FIX) is False


@pytest.mark.parametrize("content", [b"abd", b"ab", b"", b"abc\n"])
def test_a_changed_file_is_named(file, content):
    file.write_bytes(content)
    with pytest.raises(InputError, match=rf"data is damaged: its SHA-256 is .*{ABC[:12]}.*; copy it again"):
        check_recorded(file, FIX)
    with pytest.raises(InputError, match="is damaged"):
        check_sha256(file, ABC, FIX)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b"\xff\xfe", b'{"data": 3}', b'{"data": [3]}', b'{"dbta": "ab"}']
)
def test_a_damaged_list_is_named(file, content):
    (file.parent / CHECKSUMS).write_bytes(content)
    with pytest.raises(InputError, match=r"checksums\.json is damaged.*copy it again"):
        check_recorded(file, FIX)


@pytest.mark.parametrize("damage", ["missing", "folder"])
def test_a_file_that_cannot_be_read_is_named(file, damage):
    file.unlink()
    if damage == "folder":
        file.mkdir()
    with pytest.raises(InputError, match=r"data cannot be read \(.*copy it again"):
        check_recorded(file, FIX)

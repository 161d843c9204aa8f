"""Checksums: what `sha256sum` prints, and every damage of a file or of the list itself is named."""

import os

import pytest

from recbole_blair.errors import InputError
from recbole_blair.files import checksum
from recbole_blair.files.checksum import (
    CHECKSUMS,
    check_folder,
    check_recorded,
    check_sha256,
    checksums_text,
    file_sha256,
    read_checksums,
    recorded_file,
    write_checksums,
)

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


def test_a_replaced_file_is_known_before_and_after(tmp_path, monkeypatch):
    """A stop between the renames of list and file leaves the old file, and the list knows it; later it does not."""
    data, real = tmp_path / "data", os.replace
    for content in (b"one", b"two", b"three"):
        with pytest.raises(KeyboardInterrupt), recorded_file(data) as temporary:
            temporary.write_bytes(b"never")
            raise KeyboardInterrupt
        if data.exists():

            def stop_before_data(source, target):
                if target == data:
                    raise KeyboardInterrupt
                real(source, target)

            with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt), recorded_file(data) as temporary:
                patch.setattr(os, "replace", stop_before_data)
                temporary.write_bytes(content)
            assert len(read_checksums(tmp_path, FIX)["data"]) == 2
            assert check_recorded(data, FIX)
        with recorded_file(data) as temporary:
            temporary.write_bytes(content)
        assert check_recorded(data, FIX)
    for content in (b"two", b"one"):
        data.write_bytes(content)
        with pytest.raises(InputError, match="is damaged"):
            check_recorded(data, FIX)


def test_a_folder_with_subfolders(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "sub" / "b").write_bytes(b"2")
    assert check_folder(tmp_path, FIX) is False
    write_checksums(tmp_path, ["a", "sub/b"])
    assert check_folder(tmp_path, FIX) is True
    (tmp_path / "a").unlink()
    assert check_folder(tmp_path, FIX, may_lack=True) is True
    with pytest.raises(InputError, match="a cannot be read"):
        check_folder(tmp_path, FIX)
    (tmp_path / "sub" / "b").write_bytes(b"3")
    with pytest.raises(InputError, match="b is damaged"):
        check_folder(tmp_path, FIX, may_lack=True)


@pytest.mark.parametrize("name", ["../data", "/etc/passwd", "sub/../../data"])
def test_a_list_does_not_lead_out_of_its_folder(tmp_path, name):
    (tmp_path / CHECKSUMS).write_text(checksums_text({name: ABC}))
    with pytest.raises(InputError, match="a name leads out of the folder"):
        check_folder(tmp_path, FIX)

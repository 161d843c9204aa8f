"""The binary copy of a build: used while it is good, made again when its sources change or it is damaged."""

import errno
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from builds import TEST_MS, VALID_MS, write_build

from recbole_blair.data import binary_copy, interactions
from recbole_blair.data.interactions import load_interactions
from recbole_blair.files import checksum, write

BY_HAND = {
    "u1": [("a", 10), ("b", 20), ("c", VALID_MS), ("d", TEST_MS)],
    "u2": [("b", 15), ("a", TEST_MS - 1)],
}
ITEMS = [1, 2, 3, 4, 2, 1]  # of the events: a b c d, b a


def test_the_binary_copy_is_used(tmp_path, monkeypatch):
    folder = write_build(tmp_path, BY_HAND)
    load_interactions(folder)
    monkeypatch.setattr(interactions, "read_tables", None)
    assert load_interactions(folder)["events"][:, 0].tolist() == ITEMS


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_the_copy_is_made_again_when_a_source_changes(tmp_path, split):
    folder = write_build(tmp_path, BY_HAND)
    load_interactions(folder)
    write_build(tmp_path, {**BY_HAND, "u3": [("d", 1), ("a", {"train": 2, "valid": VALID_MS, "test": TEST_MS}[split])]})
    tables = load_interactions(folder)
    assert tables["user_tokens"].to_pylist()[-1] == "u3" or "u3" in tables["user_tokens"].to_pylist()
    assert len(tables[f"{split}_rows"]) == {"train": 2, "valid": 3, "test": 2}[split]


def test_the_copy_is_made_again_when_a_file_of_equal_size_is_newer(tmp_path):
    folder = write_build(tmp_path, BY_HAND)
    load_interactions(folder)
    item = folder / "tiny.item"
    lines = item.read_text().splitlines()
    item.write_text("\n".join([lines[0], *reversed(lines[1:])]) + "\n")
    os.utime(item, ns=(1, 1))
    assert load_interactions(folder)["item_tokens"].to_pylist() == ["d", "c", "b", "a"]


def test_two_names_for_the_copy_never_meet(tmp_path, monkeypatch):
    """A kill while the copy is written leaves only a temporary folder."""
    folder = write_build(tmp_path, BY_HAND)

    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        load_interactions(folder)
    assert not (folder / ".cache" / "interactions").exists()


def test_a_build_nobody_may_write_to_is_read_from_memory(tmp_path, monkeypatch):
    def refused(error):
        def write_copy(*args):
            raise OSError(error, os.strerror(error))

        return write_copy

    folder = write_build(tmp_path, BY_HAND)
    for error in (errno.EROFS, errno.EACCES):
        monkeypatch.setattr(binary_copy, "write_copy", refused(error))
        assert load_interactions(folder)["events"][:, 0].tolist() == ITEMS
    monkeypatch.setattr(binary_copy, "write_copy", refused(errno.ENOSPC))
    with pytest.raises(OSError, match="No space left"):
        load_interactions(folder)


def flip_bit(path, place):
    data = bytearray(path.read_bytes())
    data[int(place * (len(data) - 1))] ^= 1
    path.write_bytes(data)


def replace_by_folder(path):
    path.unlink()
    path.mkdir()


DAMAGES = {
    "cut by a byte": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "a byte longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "empty": lambda path: path.write_bytes(b""),
    "missing": lambda path: path.unlink(),
    "a bit of the first byte": lambda path: flip_bit(path, 0),
    "a bit of the header": lambda path: flip_bit(path, 0.2),
    "a bit of the middle": lambda path: flip_bit(path, 0.5),
    "a bit of the last byte": lambda path: flip_bit(path, 1),
    "zeros of equal size": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "garbage": lambda path: path.write_bytes(np.random.default_rng(1).bytes(path.stat().st_size)),
    "nested deep": lambda path: path.write_bytes(b"[" * 100_000),
    "a folder": replace_by_folder,
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", [*binary_copy.FILES, binary_copy.STAMP])
def test_a_damaged_copy_is_noticed_and_made_again(tmp_path, capsys, monkeypatch, name, damage):
    monkeypatch.setattr(checksum, "CRC_BLOCK_BYTES", 100)  # several blocks in each file
    folder = write_build(tmp_path, BY_HAND)
    whole = load_interactions(folder)
    DAMAGES[damage](folder / ".cache/interactions" / name)
    tables = load_interactions(folder)
    for key, table in load_interactions(folder, use_cache=False).items():
        assert np.array_equal(np.asarray(tables[key]), np.asarray(table))
    said = capsys.readouterr().err
    assert said.count("\n") <= 1
    if name != binary_copy.STAMP:  # a flipped bit in the stamp may also read as another source
        assert f"interactions is damaged ({name}" in said and "made again from the text files" in said
    monkeypatch.setattr(interactions, "read_tables", None)
    assert load_interactions(folder).keys() == whole.keys() and not capsys.readouterr().err


def test_a_file_in_the_place_of_the_copy_is_replaced(tmp_path, capsys):
    folder = write_build(tmp_path, BY_HAND)
    (folder / ".cache").mkdir()
    (folder / ".cache/interactions").write_text("x")
    assert load_interactions(folder)["events"][:, 0].tolist() == ITEMS
    assert "interactions is damaged" in capsys.readouterr().err and (folder / ".cache/interactions").is_dir()


def test_what_a_killed_command_left_is_removed_by_the_next_one_that_opens_the_build(tmp_path):
    folder = write_build(tmp_path, BY_HAND)
    load_interactions(folder)
    left = folder / ".cache" / ".interactions.blair-0123abcd.tmp"
    assert write.LEFTOVER.fullmatch(left.name)
    shutil.copytree(folder / ".cache/interactions", left)
    load_interactions(folder)
    assert [path.name for path in (folder / ".cache").iterdir()] == ["interactions"]

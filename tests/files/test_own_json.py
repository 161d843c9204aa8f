"""Our own JSON carries a checksum: every flipped bit is an error or changes nothing that is read."""

import json

import pytest

from recbole_blair.errors import InputError
from recbole_blair.files.build_files import FILES_CRC32, check_build_file
from recbole_blair.files.checksum import file_crc32
from recbole_blair.files.own_json import JSON_CRC32, read_line, read_own_json, with_checksum, write_line, write_own_json

VALUE = {"b": [1, 0.1, None], "a": {"é": "x\ud83d", "1": -0.0}, "n": 10**20, "t": True}


def read(path):
    return read_own_json(path, "the results", "run again", ("a",))


def test_what_is_written_is_read_without_the_checksum(tmp_path):
    value = {**VALUE, "a": "é"}
    write_own_json(tmp_path / "x.json", value)
    assert read(tmp_path / "x.json") == value
    assert list(json.loads((tmp_path / "x.json").read_text())) == ["b", "a", "n", "t", JSON_CRC32]
    write_own_json(tmp_path / "y.json", json.loads((tmp_path / "x.json").read_text()))  # no checksum of a checksum
    assert (tmp_path / "y.json").read_bytes() == (tmp_path / "x.json").read_bytes()


def test_the_checksum_is_that_of_the_sorted_object():
    # printf '{"a": 1, "b": [2.5]}' | gzip -c | tail -c 8 | od -An -tx4: the trailer of gzip is the CRC-32
    assert with_checksum({"b": [2.5], "a": 1}) == {"b": [2.5], "a": 1, JSON_CRC32: "5a0046aa"}


def test_order_and_white_space_do_not_matter(tmp_path):
    write_own_json(tmp_path / "x.json", {"b": 1, "a": 2})
    text = json.dumps(json.loads((tmp_path / "x.json").read_text()), sort_keys=True, indent=7)
    (tmp_path / "x.json").write_text(text)
    assert read(tmp_path / "x.json") == {"a": 2, "b": 1}


def test_a_file_of_an_earlier_version_has_none(tmp_path):
    (tmp_path / "x.json").write_text('{"a": 1}')
    assert read(tmp_path / "x.json") == {"a": 1}


def test_every_flipped_bit_is_named_or_changes_nothing(tmp_path):
    path = tmp_path / "x.json"
    write_own_json(path, {"a": 0.125, "word": "tea", "yes": True})
    whole, noticed = path.read_bytes(), 0
    for place in range(8 * len(whole)):
        data = bytearray(whole)
        data[place // 8] ^= 1 << place % 8
        path.write_bytes(data)
        try:
            assert {k: v for k, v in read(path).items() if k[0] in "awy"} == {"a": 0.125, "word": "tea", "yes": True}
        except InputError as error:
            noticed += 1
            assert "x.json" in str(error) and "run again" in str(error) and "\n" not in str(error)
    assert noticed > 0.8 * 8 * len(whole)


def test_a_changed_value_is_named(tmp_path):
    write_own_json(tmp_path / "x.json", {"a": 0.125})
    (tmp_path / "x.json").write_text((tmp_path / "x.json").read_text().replace("0.125", "0.625"))
    with pytest.raises(InputError, match=r"is damaged or was changed: .*; run again, or, .* remove the key json_crc32"):
        read(tmp_path / "x.json")


def test_lines():
    line = write_line(VALUE)
    assert line.endswith("}\n") and read_line(line) == VALUE == read_line(line.encode("utf-8", "surrogatepass"))
    assert read_line('{"a": 1}') == {"a": 1}
    for damaged in (line.replace("0.1", "0.3"), line[:-9], "", "[1]", "[" * 100_000, b"\xff"):
        assert read_line(damaged) is None


def test_files_of_a_build(tmp_path):
    build, name = tmp_path / "shop", "shop.item"
    build.mkdir()
    (build / name).write_text("item_id:token\na\n")
    check_build_file(build / name)  # another tool's: no stats.json
    stats = {"settings": {}}
    write_own_json(build / "shop.stats.json", stats)
    check_build_file(build / name)  # an earlier version's
    write_own_json(build / "shop.stats.json", {**stats, FILES_CRC32: {name: file_crc32(build / name)}})
    check_build_file(build / name)
    (build / name).write_text("item_id:token\nb\n")
    with pytest.raises(InputError, match=r"shop\.item is damaged or was changed: .* delete .*shop to build it again"):
        check_build_file(build / name)

"""What YAML means here, and that no text makes it recurse, grow or raise anything but a YAML error."""

import time

import pytest
import yaml

from recbole_blair.files.yaml_loader import MAX_DEPTH, YamlLoader


def load(text):
    return yaml.load(text, Loader=YamlLoader)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001), ("-2E+4", -20000.0), ("1.5e3", 1500.0), (".5", 0.5), ("1_000", 1000), ("-7", -7), ("0", 0),
        ("010", "010"), ("1:30", "1:30"), ("2024-13-01", "2024-13-01"), ("2024-01-01", "2024-01-01"), ("²", "²"),
        ("!!timestamp 2024-99-99", "2024-99-99"), ("٣e5", "٣e5"), ("7e", "7e"), ("0x1F", "0x1F"),
        (".inf", float("inf")), ("[1, {a: ~}]", [1, {"a": None}]), ("true", True), ("no", False),
    ],
)  # fmt: skip
def test_values(text, value):
    found = load(text)
    assert found == value and type(found) is type(value)


def bomb(levels=9, width=10):
    lines = ["a0: &a0 [x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * width)}]" for i in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 3000, "more than 32 lists"),
        ("{a: " * 3000, "more than 32 lists"),
        ("- " * 3000, "more than 32 lists"),
        (bomb(), "more than 200,000 values"),
        ("&a [*a]", r"alias \*a stands inside its own value"),
        ("!!int x", "not a value of its type"),
        ("!!float x", "not a value of its type"),
        ("!!bool maybe", "not a value of its type"),
        ("1" * 5000, "not a value of its type"),
        ("!!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ("? [a]\n: b", "unhashable key"),
        ("\0", "not allowed"),
    ],
)
def test_what_is_refused(text, words):
    started = time.perf_counter()
    with pytest.raises(yaml.YAMLError, match=words):
        load(text)
    assert time.perf_counter() - started < 5


def test_depth_and_aliases_within_the_limits():
    assert load("[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1))
    assert load("base: &b {x: 1}\nboth: [*b, {<<: *b, y: 2}]")["both"] == [{"x": 1}, {"x": 1, "y": 2}]

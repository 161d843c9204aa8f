"""Every file that a command leaves, with one bit flipped or cut in half, under every command that reads it again.

Right is the undamaged result, from the file or made again, one line with exit status 2, or a result with a line that
names the file; never another result in silence.
FLIP_SEED chooses other bits.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from kill_points.long_commands import (
    COMMANDS,
    SAMPLE,
    SMALL,
    read_results,
    write_nothing,
    write_pairs,
    write_pool,
    write_texts,
)

from recbole_blair.cli.main import main
from recbole_blair.files import checksum
from recbole_blair.text import weights

pytestmark = pytest.mark.slow

SEED = os.environ.get("FLIP_SEED", "1")
TRAIN = (
    "train --model=SASRecText --plm=tfidf-svd --feature_transform=whiten:8 --save_ranks=True --baselines=[SeqPop] "
    f"--seeds=[1] {SAMPLE} {SMALL}"
)
USER = "AQVYIELH6SPWHPFPL2DSPZEWQCZV"  # one of the sample's
OPENED = "--checkpoint=run/SASRecText-1 --data_path=d --device=cpu"


TIMES = re.compile(r"\d+(:\d\d)+|\d+(\.\d+)? ?(ms|s|min)\b")


@dataclass(frozen=True)
class World:
    """A folder that commands have filled, and the commands that read it.

    Args:
        write_inputs: writes what they start from.
        made_by: command lines, in turn.
        read_by: name: command line, the part of the folder whose files are damaged. What it writes into `out` counts.
    """

    write_inputs: Callable[[Path], object]
    made_by: list[str]
    read_by: dict[str, tuple[str, str]]


def write_encoder_inputs(folder: Path) -> None:
    """Write pairs with an encoder to train on, and item texts."""
    write_pairs(folder)
    with contextlib.ExitStack() as stack:
        (folder / "shop").mkdir()
        stack.callback(shutil.rmtree, folder / "shop")
        write_texts(folder / "shop")
        shutil.move(folder / "shop" / "d", folder / "d")


WORLDS = {
    "run": World(
        write_nothing,
        [f"{TRAIN} --output_dir=run"],
        {
            "evaluate": (f"evaluate {OPENED} --output=out/metrics.json", "run/SASRecText-1 d"),
            "recommend": (f"recommend {OPENED} --users={USER} --output=out/top.parquet --quiet", "run/SASRecText-1 d"),
            "export-vectors": (f"export-vectors {OPENED} --output_dir=out --quiet", "run/SASRecText-1 d"),
            "report": ("report run --samples=100 --quiet --output=out/page.html", "run"),
            "train": (f"{TRAIN} --output_dir=out", "d"),
        },
    ),
    "search": World(
        write_pool,
        [COMMANDS["search"][0].replace("--output_dir=out", "--output_dir=before")],
        {
            "search": (COMMANDS["search"][0], "index"),
            "baseline": (
                "search --dataset=shop --retriever=bm25 --data_path=d --index_dir=index --output_dir=out --topk=5,10 "
                "--bootstrap=50 --baseline=before --quiet",
                "before index",
            ),
        },
    ),
    "encoder": World(
        write_encoder_inputs,
        [COMMANDS["pretrain"][0].replace("--output_dir=out", "--output_dir=trained")],
        {
            "encode": ("encode --build=d/shop --plm=trained --precision=fp32 --batch_tokens=256 --quiet", "trained"),
            "pretrain": (COMMANDS["pretrain"][0].replace("--output_dir=out", "--output_dir=trained"), "trained"),
        },
    ),
    "bench": World(
        write_nothing,
        [COMMANDS["bench"][0].replace("--output_dir=out", "--output_dir=bench")],
        {"bench": (COMMANDS["bench"][0].replace("--output_dir=out", "--output_dir=bench"), "bench")},
    ),
}  # fmt: skip
READERS = [(world, reader) for world, one in WORLDS.items() for reader in one.read_by]


def flip(data: bytearray, rng: random.Random) -> bytearray:
    """Return the bytes with one bit flipped."""
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return data


def cut(data: bytearray, rng: random.Random) -> bytearray:
    """Return the first half."""
    return data[: len(data) // 2]


DAMAGES = {"flip": flip, "cut": cut}
OF_JSON = {  # for JSON alone
    "empty": lambda data, rng: b"",
    "garbage": lambda data, rng: rng.randbytes(len(data)),
    "foreign": lambda data, rng: b"{}",
    "no object": lambda data, rng: b"[1]",
}


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Returns a function that makes a world once."""
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            WORLDS[name].write_inputs(folder)
            with change_folder(folder):
                for line in WORLDS[name].made_by:
                    assert main(line.split()) == 0
            made[name] = folder
        return made[name]

    return make


@contextlib.contextmanager
def change_folder(folder: Path) -> Any:
    """Work in a folder."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@pytest.mark.parametrize(("world", "reader"), READERS)
def test_no_damage_changes_a_result_in_silence(
    world: str,
    reader: str,
    worlds: Callable[[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = worlds(world)
    line, parts = WORLDS[world].read_by[reader]
    (tmp_path / "cwd").mkdir()

    def outcome(damage: Callable[[Path], None]) -> tuple[int, str, dict[str, Any]]:
        """Run the command on a copy that `damage` has changed."""
        monkeypatch.chdir(tmp_path)
        shutil.rmtree(tmp_path / "cwd")
        shutil.copytree(whole, tmp_path / "cwd", symlinks=True)
        damage(tmp_path / "cwd")
        for kept in (checksum._known_crc32, weights._hash_files, weights.check_unchanged):
            kept.cache_clear()  # by name, size and time, which are those of the last copy
        monkeypatch.chdir(tmp_path / "cwd")
        capsys.readouterr()
        status = main(line.split())
        shown = capsys.readouterr()
        folder = tmp_path / "cwd"
        left = read_results(folder / "out") if (folder / "out").is_dir() else {}
        if not left:  # results lie beside what is read
            kinds = (".feature", ".parquet")
            left = {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.suffix in kinds}
        return status, shown.err, {"shown": TIMES.sub("", shown.out), **left}

    first, second = outcome(lambda folder: None), outcome(lambda folder: None)
    assert first[0] == second[0] == 0, first[1]
    steady = {key for key, value in first[2].items() if second[2].get(key) == value}  # without times
    assert len(steady) > 1 or "shown" in steady
    files = [path.relative_to(whole) for part in parts.split() for path in sorted((whole / part).rglob("*"))]
    files = [file for file in files if (whole / file).is_file() and (whole / file).stat().st_size]
    counts, failures = {"same": 0, "refused": 0, "named": 0}, []
    for file in files:
        for name, change in {**DAMAGES, **(OF_JSON if file.suffix == ".json" else {})}.items():

            def damage(folder: Path, file: Path = file, name: str = name, change: Any = change) -> None:
                path = folder / file
                times = path.stat().st_atime_ns, path.stat().st_mtime_ns
                rng = random.Random(f"{SEED} {reader} {file.name} {name}")
                path.write_bytes(change(bytearray(path.read_bytes()), rng))
                os.utime(path, ns=times)  # a disk that fails leaves the time as it was

            try:
                status, error, found = outcome(damage)
            except Exception as problem:
                failures.append(f"{file}, {name}: {type(problem).__name__}: {str(problem)[:300]}")
                continue
            errors = [text for text in error.splitlines() if text.startswith("error: ")]
            if status == 2 and len(errors) == 1 and "Traceback" not in error:
                counts["refused"] += 1
                continue
            if reader == "report" and status == 0 and file.name in error and "damaged" in error:  # left out
                counts["named"] += 1
                continue
            # what the command reads and leaves as it is keeps its damage
            differ = [k for k in sorted(steady) if found.get(k) != first[2][k] and not k.endswith(str(file))]
            if status or differ:
                failures.append(f"{file}, {name}: status {status}, {differ[:3]} differ, {error[-300:]}")
            counts["same"] += 1
    with capsys.disabled():
        print(f"\n{world}, {reader}: {len(files)} files, {counts}")
    assert not failures, "\n".join(failures)

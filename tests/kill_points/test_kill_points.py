"""Every long command, killed at random moments and run again, ends with the files of a run that nobody disturbed.

KILL_POINTS=200 chooses how many moments there are over all commands; KILL_SEED another set of them; KILL_ONLY=7 one.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kill_points.killing import Ending, Moment, Runner
from kill_points.long_commands import LONG_COMMANDS, read_results

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="process groups of Linux")]

POINTS = int(os.environ.get("KILL_POINTS", "24"))
SEED = int(os.environ.get("KILL_SEED", "20"))
ONLY = os.environ.get("KILL_ONLY")
KILLED_TWICE = 0.25  # of the points: the run that goes on is killed, too
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def runner() -> Runner:
    return Runner()


@pytest.fixture
def chat_server() -> Iterator[Any]:
    """A server that rewrites a review the same way whenever it is asked."""
    from tests.search.shop_data import GOOD, ChatServer, reply

    def answer(_: int, prompt: str) -> Any:
        return reply(GOOD.format(hashlib.sha256(prompt.encode()).hexdigest()[:6]))

    with ChatServer(answer) as server:
        yield server


class Place:
    """The folder of a command's runs: its inputs, and the folder `work` where it starts from them each time."""

    def __init__(self, root: Path, name: str, runner: Runner, argv: list[str]) -> None:
        self.root, self.name, self.runner, self.argv = root, name, runner, argv
        (root / "inputs").mkdir()
        (root / "tmp").mkdir()
        LONG_COMMANDS[name].write_inputs(root / "inputs")

    def begin(self) -> None:
        """Put the inputs, and nothing else, where the command runs."""
        shutil.rmtree(self.root / "work", ignore_errors=True)
        shutil.copytree(self.root / "inputs", self.root / "work")

    def run(self, moment: Moment | None = None) -> Ending:
        """Run the command in what is there."""
        environment = {
            "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1",
            "TMPDIR": str(self.root / "tmp"), "OPENAI_API_KEY": "k",
        }  # fmt: skip
        return self.runner.run(self.argv, self.root / "work", self.root / "log.txt", environment, moment)

    def finish(self) -> dict[str, Any]:
        """Run the command to its end and return what it left."""
        ending = self.run()
        assert ending.status == 0, (self.root / "log.txt").read_text()[-3000:]
        return read_results(self.root / "work")


def points_of(name: str) -> list[int]:
    """Return the numbers of a command's points."""
    shares = {key: command.share for key, command in LONG_COMMANDS.items()}
    number = max(1, round(POINTS * shares[name] / sum(shares.values())))
    return [int(ONLY)] if ONLY else list(range(number))


def differences(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """Return a line per file that is too much, missing or another."""
    lines = [f"left behind: {path}" for path in found.keys() - expected.keys()]
    lines += [f"missing: {path}" for path in expected.keys() - found.keys()]
    for path in found.keys() & expected.keys():
        if found[path] != expected[path]:
            lines.append(f"differs: {path}{first_difference(found[path], expected[path])}")
    return sorted(lines)


def first_difference(found: Any, expected: Any) -> str:
    """Return where two contents differ, and how."""
    if isinstance(found, dict) and isinstance(expected, dict):
        key = next(k for k in {**found, **expected} if found.get(k) != expected.get(k))
        return f", {key}{first_difference(found.get(key), expected.get(key))}"
    if isinstance(found, list) and isinstance(expected, list) and len(found) == len(expected):
        number = next(i for i, pair in enumerate(zip(found, expected)) if pair[0] != pair[1])
        return f", {number}{first_difference(found[number], expected[number])}"
    return f": {str(found)[:400]} instead of {str(expected)[:400]}"


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.xdist_group("ray")) for n in LONG_COMMANDS])
def test_killed_and_run_again(
    name: str, runner: Runner, chat_server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = LONG_COMMANDS[name]
    place = Place(tmp_path, name, runner, [*command.argv, *([f"--base_url={chat_server.url}"] * (name == "build-c4"))])
    place.begin()
    usual = place.run()
    assert usual.status == 0, (tmp_path / "log.txt").read_text()[-3000:]
    expected = read_results(tmp_path / "work")
    assert not [path for path in expected if ".tmp" in path]
    kills, inside, failures = 0, 0, []
    for number in points_of(name):
        rng, moments = random.Random(f"{SEED} {name} {number}"), []
        place.begin()
        for _ in range(2 if rng.random() < KILLED_TWICE else 1):
            by_change = Moment(change=rng.randint(1, usual.changes))
            moment = rng.choice([by_change, Moment(after_s=rng.uniform(0, usual.seconds))])
            ending = place.run(moment)
            moments.append(f"{moment} ({'ended' if ending.status is not None else f'{ending.changes} changes'})")
            kills += 1
            inside += ending.status is None and ending.changes > 0
            if ending.status is not None:
                break
        try:
            lines = differences(place.finish(), expected)
        except AssertionError as error:
            lines = [str(error)]
        if lines:
            failures += [f"{name}, killed {', '.join(moments)}; KILL_SEED={SEED} KILL_ONLY={number}:", *lines]
    with capsys.disabled():
        print(
            f"\n{name}: {len(points_of(name))} points, {kills} kills, {inside} of them inside the work "
            f"({usual.changes} changes of files in {usual.seconds:.2f} s)"
        )
    assert not failures, "\n".join(failures)

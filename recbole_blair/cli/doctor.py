"""`recbole-blair doctor`: what is installed, what the machine has, which work-arounds are on, what to repair."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from recbole_blair import compat
from recbole_blair.config.kinds import usable_cores
from recbole_blair.errors import InputError
from recbole_blair.files.output import check_output_folder
from recbole_blair.files.paths import props_dir
from recbole_blair.files.read import why_no_folder
from recbole_blair.schema import VERSION

if TYPE_CHECKING:
    from argparse import Namespace

    from recbole_blair.cli.options import Parser

# Inside the functions: what may be missing or broken here, which the report then says (torch, psutil, packaging).

SUMMARY = "print versions, devices and work-arounds; name every problem with its fix"
EXAMPLE = "recbole-blair doctor"

DISTRIBUTION = "recbole-blair"
PYTHON_RANGE = ((3, 10), (3, 14))  # from, below
LEAST_FREE_GB = 2  # the sample, its features and one run, with room to spare


def configure(parser: Parser) -> None:
    """Add the folder whose disk is looked at."""
    add = parser.add
    add("--output_dir", kind="path", default=".", help="look at the free disk of this folder")


def run(args: Namespace) -> int:
    """Print the report; return 1 where something is broken."""
    problems = find_broken_python() + compat.find_problems()
    problems += print_requirements()
    problems += print_machine(Path(args.output_dir))
    problems += print_workarounds()
    problems += find_missing_props()
    print_network()
    if not problems:
        print("\nall is well")
        return 0
    print(f"\n{len(problems)} problem{'s' if len(problems) > 1 else ''}:")
    for problem in problems:
        print(f"  - {problem}")
    return 1


def print_line(label: str, value: object, note: str = "") -> None:
    """Print one aligned line of the report."""
    print(f"  {label:<22} {value}{'  ' + note if note else ''}")


def find_broken_python(version: tuple[int, ...] | None = None) -> list[str]:
    """Return a problem where the interpreter is outside the tested range."""
    version = version or sys.version_info[:3]
    if PYTHON_RANGE[0] <= version[:2] < PYTHON_RANGE[1]:
        return []
    shown = ".".join(map(str, version[:3]))
    return [f"Python {shown} is running; expected 3.10 to 3.13; make an environment with one of these"]


def read_requirements() -> list[tuple[str, str, str | None]]:
    """Return what this installation asks for: [(name, version range, extra or None)].

    Raises:
        InputError: the package is not installed, so that its requirements are unknown.
    """
    try:
        lines = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError as error:
        raise InputError(
            f"{DISTRIBUTION} is not installed in {sys.prefix}; run: make install, or pip install -e ."
        ) from error
    found = []
    for line in lines:
        extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)", line)
        need = re.match(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?\s*([^;]*)", line.split(";")[0])
        if need and not (extra and extra[1] == "all"):
            found.append((need[1], need[2].strip(), extra[1] if extra else None))
    return found


def fits(version: str, wanted: str) -> bool:
    """Whether a version lies in a range such as `>=2.2,<3`."""
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(wanted).contains(version, prereleases=True)


def print_requirements() -> list[str]:
    """Print installed versions, required ones first; return the problems among the required ones."""
    print(f"recbole_blair {VERSION}, Python {platform.python_version()}, {platform.platform()}")
    print("\nrequired")
    print_line("recbole", compat.installed_version("recbole") or "not installed")
    try:
        requirements = read_requirements()
    except InputError as error:
        return [str(error)]
    problems = []
    for name, wanted in sorted((n, w) for n, w, extra in requirements if extra is None):
        version = compat.installed_version(name)
        broken = version is None or not fits(version, wanted)
        print_line(name, version or "not installed", f"(wanted {wanted})" if broken else "")
        if broken and name not in ("torch", "pandas"):  # compat.find_problems has told about these two
            found = f"{name} {version} is installed" if version else f"{name} is not installed"
            problems.append(f"{found}; expected {wanted or 'any version'}; run: pip install '{name}{wanted}'")
    for extra in sorted({extra for _, _, extra in requirements if extra}):
        print(f"\noptional: {extra}")
        for name, wanted in sorted((n, w) for n, w, e in requirements if e == extra):
            version = compat.installed_version(name)
            note = f"(wanted {wanted})" if version and not fits(version, wanted) else ""
            print_line(name, version or "not installed", note)
    return problems


def print_machine(folder: Path) -> list[str]:
    """Print cores, memory, disk and devices; return the problems."""
    print("\nmachine")
    print_line("cores", f"{usable_cores()} usable of {os.cpu_count()}")
    problems = []
    try:
        import psutil

        memory = psutil.virtual_memory()
        print_line("memory", f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free")
    except ImportError:
        print_line("memory", "unknown (psutil is not installed)")
    problems += print_disk(folder)
    try:
        print_devices()
    except Exception as error:  # a broken torch fails in many ways (libraries, drivers): all are reported
        problems.append(f"torch cannot be used: {type(error).__name__}: {error}; install torch again")
    return problems


def print_disk(folder: Path) -> list[str]:
    """Print the free disk of a folder, or of the nearest that exists above it; return the problems."""
    problems = []
    try:
        check_output_folder(folder)
    except InputError as error:
        problems.append(str(error))
    while why_no_folder(folder):
        folder = folder.absolute().parent
    free_gb = shutil.disk_usage(folder).free / 1e9
    print_line("free disk", f"{free_gb:.1f} GB", f"({folder})")
    if free_gb < LEAST_FREE_GB:
        problems.append(
            f"{free_gb:.1f} GB of disk are free in {folder}; expected at least {LEAST_FREE_GB}; free some space, or "
            "set data_path and output_dir to another disk"
        )
    return problems


def print_devices() -> None:
    """Print torch's devices and where bfloat16 is native."""
    if compat.installed_version("torch") is None:
        return
    import torch

    from recbole_blair.ops import has_fast_bf16, prefers_onednn  # heavy: the second loads torch

    devices = [torch.device("cpu")] + [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
    for device in devices:
        native = "native" if has_fast_bf16(device) else "not native (precision=auto is fp32)"
        if device.type == "cuda":
            card = torch.cuda.get_device_properties(device)
            name = f"{card.name}, {card.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"
        else:
            library = "oneDNN" if prefers_onednn() else "PyTorch's default"
            name = f"{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads, float32 by {library}"
        print_line(str(device), name, f"bf16 {native}")
    if len(devices) == 1:
        why = "this torch is a CPU build" if torch.version.cuda is None else "no driver or no card"
        print_line("cuda", f"none ({why})")


def print_workarounds() -> list[str]:
    """Turn the work-arounds on, print them with their cause; return the problems."""
    print("\nwork-arounds for library versions")
    if compat.find_problems():
        print_line("not tried", "see the problems below")
        return []
    try:
        names = compat.apply()
    except Exception as error:  # RecBole on a library it has not met: the report says so and goes on
        print_line("failed", f"{type(error).__name__}: {error}")
        return [
            f"RecBole cannot be carried on these versions: {type(error).__name__}: {error}; install the tested "
            "set: pip install -c constraints.txt"
        ]
    for workaround in compat.WORKAROUNDS:
        print_line(workaround.name, "on " if workaround.name in names else "off", workaround.cause)
    return []


def find_missing_props() -> list[str]:
    """Return a problem where the YAML defaults cannot be found."""
    try:
        folder = props_dir()
    except InputError as error:
        return [str(error)]
    print("\nfiles")
    print_line("defaults (props)", folder)
    return []


def print_network() -> None:
    """Print what is known about the hub, without contacting it, and how to do without."""
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON")
    state = "offline (HF_HUB_OFFLINE is set)" if offline else "used when files are missing"
    print_line("Hugging Face hub", state)
    print_line("without a network", "--raw_dir=<folder>  --plm=<folder or tfidf-svd>  --dataset=sample")

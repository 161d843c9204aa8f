"""The README's Python runs as printed."""

import os
import re
import subprocess
import sys

import pytest
from doc_commands import ROOT


@pytest.mark.slow
def test_the_readmes_python_ends_in_recommendations(tmp_path):
    """Six lines of code: the README promises no more."""
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len([line for line in code.splitlines() if line]) == 6 and "recbole_blair.load(" in code
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-2000:]
    value, header, *rows = done.stdout.splitlines()
    assert 0 < float(value) < 1
    assert header.split() == ["item_id", "title", "score"]
    assert len(rows) == 5 and all(row.split()[1].startswith("B0") for row in rows)

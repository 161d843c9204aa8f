"""The callback of docs/tracking.md runs as printed."""

import os
import re
import subprocess
import sys

import pytest
from doc_commands import ROOT


@pytest.mark.slow
def test_the_callback_of_the_page_hears_of_every_epoch(tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/tracking.md").read_text(encoding="utf-8"), re.DOTALL)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-2000:]
    *epochs, end = done.stdout.splitlines()
    assert [line.split()[0] for line in epochs] == ["1", "2", "3"]
    assert all(float(line.split()[1]) > 0 and 0 <= float(line.split()[2]) < 0.5 for line in epochs)
    assert end.startswith("test 0.") and end.endswith("in runs/stopped")

"""export.py and exported.py, by the tests of exported_checks.py."""

import subprocess
import sys

import pytest
from commands import ROOT

pytest.importorskip("onnxruntime", reason="needs pip install 'vqafusion[onnx]'")


def test_exported_models():
    """
    In a process of its own: a worker that had been through other tests died once without a word in the first of these,
    when the runtimes' libraries came to all that it had loaded.
    """
    command = [sys.executable, "-X", "faulthandler", "-m", "pytest", "-n", "0", "tests/exported_checks.py"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-2000:]

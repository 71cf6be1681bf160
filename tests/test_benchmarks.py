"""The benchmark scripts run, on toy sizes, and measure what they say."""

import json
import subprocess
import sys

from conftest import ROOT


def test_encoding(tmp_path):
    questions = [{"image_id": i, "question": f"what is {i}?", "question_id": i} for i in range(5)]
    (tmp_path / "questions.json").write_text(json.dumps({"questions": questions}))
    command = [sys.executable, "benchmarks/encoding.py", "--questions", tmp_path / "questions.json"]
    command += ["--sizes", "12", "--output", tmp_path / "encoding.json"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr[-2000:]
    (result,) = json.loads((tmp_path / "encoding.json").read_text())
    assert result["questions"] == 12 and 0 < result["gib"] < 2 and 0 < result["ceiling"] <= 100
    assert all(result[step] >= 0 for step in ("read", "vocabulary", "encode"))

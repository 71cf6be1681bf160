"""The scripts as a user runs them, and what they must say when they refuse something."""

import json
import sys
from pathlib import Path
from subprocess import CompletedProcess

import forks
from toy_data import SPLIT

from vqafusion import infer

ROOT = Path(__file__).resolve().parent.parent
HUB_FILES = [f"{part}_vqafusion.py" for part in ("configuration", "layers", "modeling", "processing", "pipeline")]

TINY = {
    "vision_config": {
        "model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
        "num_attention_heads": 2, "image_size": 32, "patch_size": 8,
    },
    "text_config": {
        "model_type": "distilbert", "dim": 32, "hidden_dim": 64, "n_layers": 1, "n_heads": 2,
        "max_position_embeddings": 32,
    },
    "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_answers": 10,
    "color_levels": 2, "alignment_weight": 0.3, "power_normalization": 0.5,
    "train_split": SPLIT, "eval_split": SPLIT, "dataset": "vqa_v2", "learning_rate": 1e-3,
    "per_device_train_batch_size": 4, "num_train_epochs": 2, "questions_per_image": 2, "disable_tqdm": True,
}  # fmt: skip


def run(script, *arguments, cwd=ROOT, start=(sys.executable,), processes=1, **settings):
    command = [*start, ROOT / script, *arguments]
    return forks.run(command, cwd, forks.usual_environment() | settings, processes=processes)


def evaluate(output, *arguments):
    result = run("eval.py", *arguments, "--output_dir", output)
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads((output / "metrics.json").read_text())


def in_process(capsys, *arguments, script=infer):
    """A script's main in this process, for many small cases; what a process of its own would have come to."""
    try:
        script.main(list(map(str, arguments)))
        code = 0
    except SystemExit as stop:
        code = stop.code
    return CompletedProcess(arguments, code, *capsys.readouterr())


def refused(result, *words):
    lines = result.stderr.strip().splitlines()
    assert result.returncode == 2 and lines[-1].startswith("error: ") and "Traceback" not in result.stderr
    assert all(word in lines[-1] for word in words), lines[-1]
    assert result.stdout == ""

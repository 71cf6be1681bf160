"""Metrics in the form that `evaluate.load` takes."""

from pathlib import Path

VQA_ACCURACY = str(Path(__file__).parent / "vqa_accuracy")

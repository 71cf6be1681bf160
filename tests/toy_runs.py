"""Runs of eval.py on toy data."""

import json
import shutil

import torch
from commands import run
from toy_data import SPLIT, write_vqa_v2
from toy_model import ANSWERS, tiny_config

from vqafusion import VqaFusionForVisualQuestionAnswering

STRANGE = "<b>is it</b> <!-- <script> </script> & “red” $a_$ ç?"  # must come out as it is


def make_runs(folder, processor):
    """A model, data of which it gets a part right, and eval.py runs of the model, of itself as blind, of the prior."""
    torch.manual_seed(0)
    VqaFusionForVisualQuestionAnswering(tiny_config()).save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    log = [{"step": 1, "loss": 9.0}, {"step": 1, "eval_overall": 20.0}, {"step": 2, "eval_overall": 30.0}]
    (folder / "model" / "trainer_state.json").write_text(json.dumps({"log_history": log}))
    shutil.copytree(folder / "model", folder / "blind-model")
    change_config(folder / "blind-model", blind=True)
    write_vqa_v2(folder / "data", images=8)
    change(folder / f"data/v2_mscoco_{SPLIT}_annotations.json", "annotations", annotate)
    change(folder / f"data/v2_OpenEnded_mscoco_{SPLIT}_questions.json", "questions", ask)
    evaluate_in(folder, "prior", "--baseline", "prior", "--train_split", SPLIT)
    evaluate_in(folder, "other", "--model", folder / "model")
    evaluate_in(folder, "blind", "--model", folder / "blind-model")
    baselines = ("--blind_run", folder / "blind", "--prior_run", folder / "prior")
    more = ("--fit_temperature", "True", "--abstain_below", "0.4", "--heat_map_questions", "3")
    (folder / "printed.txt").write_text(evaluate_in(folder, "run", "--model", folder / "model", *baselines, *more))


def change_config(folder, **values):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))


def change(file, key, with_each):
    content = json.loads(file.read_text())
    for number, entry in enumerate(content[key]):
        with_each(number, entry)
    file.write_text(json.dumps(content))


def annotate(number, entry):
    for each in entry["answers"]:
        each["answer"] = ANSWERS[number % 6]
    entry["answer_type"] = ["yes/no", "yes/no", "other", "other", "other", "number"][number % 6]
    entry["question_type"] = ["is it", "what color"][number % 2]


def ask(number, entry):
    if number == 1:
        entry["question"] = STRANGE


def evaluate_in(folder, name, *arguments):
    where = ("--dataset", "vqa_v2", "--data_dir", folder / "data", "--split", SPLIT, "--output_dir", folder / name)
    result = run("eval.py", *arguments, *where)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def metrics_of(folder, name):
    return json.loads((folder / name / "metrics.json").read_text())

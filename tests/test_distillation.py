"""What a model learns from: the mean of its teachers' probabilities, beside the answers."""

import json
import sys
from copy import copy
from types import SimpleNamespace

import forks
import numpy as np
import pytest
import torch
from commands import ROOT
from datasets import Dataset
from toy_data import draw
from toy_model import ANSWERS, QUESTIONS, tiny_config

from vqafusion import VqaFusionForVisualQuestionAnswering, train
from vqafusion.arguments import DataArguments, ModelArguments
from vqafusion.command_line import write_json
from vqafusion.data_prep.encode import VqaCollator
from vqafusion.distillation import teacher_probabilities
from vqafusion.guards import StopAtSignal
from vqafusion.trainer import VqaTrainer, VqaTrainingArguments


@pytest.fixture
def teachers(tmp_path):
    torch.manual_seed(0)
    models = [VqaFusionForVisualQuestionAnswering(tiny_config(initializer_range=0.5)).eval() for _ in range(2)]
    for number, model in enumerate(models):
        model.save_pretrained(tmp_path / str(number))
    return models, [tmp_path / str(number) for number in range(2)]


@pytest.fixture
def rows(processor):
    input_ids = processor.tokenizer(QUESTIONS)["input_ids"]
    columns = {
        "input_ids": input_ids, "length": [len(ids) for ids in input_ids], "image_id": list(map(str, input_ids)),
        "label_ids": [[0]] * len(input_ids), "label_scores": [[1.0]] * len(input_ids),
        "image": [draw(("red", "blue", "green")[n % 3]) for n in range(len(input_ids))],
    }  # fmt: skip
    return Dataset.from_dict(columns)


def test_probabilities_are_the_mean_and_stand_in_the_rows_order(teachers, rows, processor, tmp_path):
    models, folders = teachers
    collator = VqaCollator(processor, len(ANSWERS))
    found = teacher_probabilities(folders, rows, collator, tmp_path / "all.npy", batch_size=2)
    assert found.shape == (len(rows), len(ANSWERS)) and found.dtype == np.float16
    for row, probabilities in zip(rows, found):
        batch = collator([row])
        del batch["labels"]
        with torch.no_grad():
            expected = sum(model.probabilities(model(**batch).logits[0]) for model in models) / 2
        np.testing.assert_allclose(probabilities, expected, atol=2e-3)
    assert np.ptp(found, axis=0).max() > 0.05  # else their order would not show
    at_once = teacher_probabilities(folders, rows, collator, tmp_path / "once.npy", batch_size=3)  # not in their order
    np.testing.assert_allclose(at_once, found, atol=2e-3)
    np.save(tmp_path / "all.npy", np.zeros_like(found))
    assert not teacher_probabilities(folders, rows, collator, tmp_path / "all.npy", 2).any()  # not asked again
    for other, answers in ((rows.select([0]), collator), (rows, VqaCollator(processor, len(ANSWERS) + 1))):
        with pytest.raises(ValueError, match="all.npy was made for other"):
            teacher_probabilities(folders, other, answers, tmp_path / "all.npy", 2)


ASKING = """
import sys
from pathlib import Path
from datasets import load_from_disk
from vqafusion.data_prep.encode import VqaCollator
from vqafusion.distillation import teacher_probabilities
from vqafusion.processing_vqafusion import VqaFusionProcessor

folder = Path(sys.argv[1])
collator = VqaCollator(VqaFusionProcessor.from_pretrained(folder), int(sys.argv[2]))
rows = load_from_disk(folder / "rows")
found = teacher_probabilities([folder / "0", folder / "1"], rows, collator, folder / "two.npy", 1)
assert len(found) == len(rows)
"""


def test_two_processes_take_turns(teachers, rows, processor, tmp_path):
    processor.save_pretrained(tmp_path)
    rows.save_to_disk(tmp_path / "rows")
    (tmp_path / "asking.py").write_text(ASKING)
    command = [sys.executable, tmp_path / "asking.py", tmp_path, len(ANSWERS)]
    done = forks.run(command, ROOT, processes=2)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(rows) % 2  # in the last round one has no question
    alone = teacher_probabilities(teachers[1], rows, VqaCollator(processor, len(ANSWERS)), tmp_path / "one.npy", 1)
    np.testing.assert_array_equal(np.load(tmp_path / "two.npy"), alone)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("weight", [0.25, 1.0])
def test_the_loss_is_weighed_between_answers_and_teachers(teachers, rows, processor, tmp_path, weight):
    model = teachers[0][0]
    taught = np.random.default_rng(0).random((len(rows), len(ANSWERS))).astype(np.float16)
    np.save(tmp_path / "taught.npy", taught)
    rows = rows.add_column("position", list(range(len(rows)))[::-1])
    batch = VqaCollator(processor, len(ANSWERS), teacher_probabilities=tmp_path / "taught.npy")(list(rows))
    torch.testing.assert_close(batch["teacher_probabilities"], torch.from_numpy(taught[::-1].copy()).float())
    batch["answer_shifts"] = torch.rand(len(rows), len(ANSWERS))  # of the answers, not of what teachers say
    args = VqaTrainingArguments(output_dir=str(tmp_path), teacher_weight=weight, report_to=[])
    with torch.no_grad():
        loss, output = VqaTrainer(model, args, eval_dataset=[0]).compute_loss(model, dict(batch), return_outputs=True)
        answers = model.answer_loss(output.logits + batch["answer_shifts"], batch["labels"])
        teaching = model.answer_loss(output.logits, batch["teacher_probabilities"])
    torch.testing.assert_close(loss, (1 - weight) * answers + weight * teaching)


def test_each_teacher_has_a_seed_of_its_own_and_goes_on_where_it_was(tmp_path, monkeypatch):
    asked, looked_through, signals = [], [], StopAtSignal(None)

    def ask(data, model, args, folder, resume, **more):
        asked.append((args, resume))
        return SimpleNamespace(stop_at_signal=signals)

    monkeypatch.setattr(train, "train", ask)
    monkeypatch.setattr(train, "check_checkpoint", looked_through.append)
    args = VqaTrainingArguments(output_dir=str(tmp_path), num_teachers=2, teacher_epochs=3, max_steps=9, seed=5)
    (tmp_path / "teachers" / "1" / "checkpoint-4").mkdir(parents=True)
    folder = train.train_teacher(DataArguments(dataset="easy_vqa"), ModelArguments(), args, tmp_path, 1)
    ((own, resume),) = asked
    assert (own.seed, own.num_train_epochs, own.max_steps, own.num_teachers) == (11, 3, -1, 0)
    assert looked_through == [resume] == [str(folder / "checkpoint-4")] and own.output_dir == str(folder)
    signals.received = 15  # in its last evaluation
    with pytest.raises(SystemExit, match="143"):
        train.train_teacher(DataArguments(dataset="easy_vqa"), ModelArguments(), args, tmp_path, 1)


def test_what_is_recorded_tells_nothing_of_the_machine(tmp_path):
    (tmp_path / "answers.json").touch()
    data = DataArguments(dataset="own", data_dir="/home/me", image_states_dir="/home/me", train_split="t",
                         answer_list=str(tmp_path / "answers.json"))  # fmt: skip
    args = VqaTrainingArguments(output_dir=str(tmp_path), resume_from_checkpoint="/home/me", hub_token="secret", seed=5)
    made = train.record(data, ModelArguments(vision_model=str(tmp_path)), args)
    assert (made["answer_list"], made["vision_model"], made["seed"]) == ("answers.json", tmp_path.name, 5)
    assert not any(word in json.dumps(made) for word in ("/home/me", str(tmp_path), "secret"))
    made = train.record(data, ModelArguments(vision_config={"model_type": "vit"}), args)
    assert made["vision_model"] is made["text_model"] is None  # neither was used


def test_a_teacher_that_was_trained_otherwise_is_not_taken(tmp_path):
    folder = tmp_path / "teachers" / "0"
    folder.mkdir(parents=True)
    (folder / "trainer_state.json").touch()
    data, model = DataArguments(dataset="easy_vqa"), ModelArguments()
    args = VqaTrainingArguments(output_dir=str(tmp_path), num_teachers=1, teacher_epochs=2, seed=5)
    write_json(folder / "training.json", {"dataset": "easy_vqa", "seed": 5, "num_train_epochs": 2})
    assert train.train_teacher(data, model, args, tmp_path, 0) == folder
    for name, value in (("teacher_epochs", 3), ("seed", 6), ("learning_rate", 1e-3)):
        other = copy(args)
        setattr(other, name, value)
        with pytest.raises(ValueError, match="teachers/0 was trained with"):
            train.train_teacher(data, model, other, tmp_path, 0)

"""What a model learns from its teachers: their mean probabilities, also of questions that nobody asked."""

import pytest
import torch
from conftest import ANSWERS, QUESTIONS, tiny_config

from vqafusion import VqaFusionForVisualQuestionAnswering, train
from vqafusion.distillation import Teachers, with_unasked
from vqafusion.trainer import VqaTrainer, VqaTrainingArguments

WEIGHT = 0.25


def new_model(seed, **config):
    torch.manual_seed(seed)
    return VqaFusionForVisualQuestionAnswering(tiny_config(initializer_range=0.5, **config)).eval()


@pytest.fixture
def teachers(tmp_path):
    for number in range(2):
        new_model(number).save_pretrained(tmp_path / str(number))
    return Teachers([tmp_path / "0", tmp_path / "1"], "cpu")


@pytest.fixture
def inputs(processor):
    questions = processor.tokenizer(QUESTIONS, padding=True, return_tensors="pt")
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return {**questions, "pixel_values": pixels, "image_index": torch.tensor([0, 1, 0])}


def test_teachers_say_the_mean_of_their_probabilities(teachers, inputs):
    with torch.no_grad():
        expected = sum(new_model(number)(**inputs).logits.sigmoid() for number in range(2)) / 2
    found = teachers(inputs)
    torch.testing.assert_close(found, expected)
    assert not found.requires_grad and found.shape == (len(QUESTIONS), len(ANSWERS))


def test_questions_are_asked_about_the_batchs_other_images(inputs):
    seen = set()
    for _ in range(30):
        twice = with_unasked(inputs)
        for name in ("input_ids", "attention_mask"):
            assert twice[name].chunk(2)[0].equal(inputs[name]) and twice[name].chunk(2)[1].equal(inputs[name])
        asked, unasked = twice["image_index"].chunk(2)
        assert asked.equal(inputs["image_index"]) and sorted(unasked.tolist()) == [0, 0, 1]
        assert twice["pixel_values"] is inputs["pixel_values"]
        seen.add(tuple(unasked.tolist()))
    assert len(seen) == 3


def loss_of(model, teachers, inputs, shifts, tmp_path):
    """The trainer's, and the labels."""
    labels = torch.rand(len(QUESTIONS), len(ANSWERS), generator=torch.Generator().manual_seed(0))
    args = VqaTrainingArguments(output_dir=str(tmp_path), teacher_weight=WEIGHT, report_to=[], use_cpu=True)
    trainer = VqaTrainer(model, args, teachers=teachers, eval_dataset=[0])
    torch.manual_seed(0)
    with torch.no_grad():
        return trainer.compute_loss(model, {**inputs, "labels": labels, "answer_shifts": shifts}), labels


@pytest.mark.parametrize("blind", [False, True])
def test_the_loss_has_answers_teachers_and_the_unasked(teachers, inputs, tmp_path, blind):
    model, shifts = new_model(2, blind=blind), torch.randn(len(QUESTIONS), len(ANSWERS))
    model.training = True  # itself only, so without dropout
    loss, labels = loss_of(model, teachers, inputs, shifts, tmp_path)
    torch.manual_seed(0)
    others = with_unasked(inputs)["image_index"].chunk(2)[1]
    with torch.no_grad():
        logits = model(**inputs).logits
        expected = (1 - WEIGHT) * model.answer_loss(logits + shifts, labels)
        expected += WEIGHT * model.answer_loss(logits, teachers(inputs))
        if not blind:  # to whom these would be the same questions again
            swapped = {**inputs, "image_index": others}
            expected += model.answer_loss(model(**swapped).logits, teachers(swapped))
    torch.testing.assert_close(loss, expected)


def test_evaluation_does_not_ask_the_teachers(teachers, inputs, tmp_path):
    model, shifts = new_model(2), torch.zeros(len(QUESTIONS), len(ANSWERS))
    loss, labels = loss_of(model, teachers, inputs, shifts, tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(loss, model.answer_loss(model(**inputs).logits, labels))


def test_a_run_with_teachers_goes_on_or_is_refused(tmp_path):
    with pytest.raises(ValueError, match="there is no checkpoint"):
        train.checkpoint("True", tmp_path)
    (tmp_path / "teachers" / "0").mkdir(parents=True)
    assert train.checkpoint(None, tmp_path) is None  # one that failed before its training
    (tmp_path / "teachers" / "0" / "trainer_state.json").touch()
    assert train.checkpoint("True", tmp_path) is None
    with pytest.raises(ValueError, match="teachers/0/trainer_state.json of another run"):
        train.checkpoint(None, tmp_path)

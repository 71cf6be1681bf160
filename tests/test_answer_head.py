"""What the answer head is told: how frequent answers are, which are alike, and where their words point."""

import pytest
import torch
from conftest import ANSWERS, batch, tiny_config
from torch.nn.functional import normalize

from vqafusion import VqaFusionForVisualQuestionAnswering
from vqafusion.answer_head import look_for_answers, start_at_embeddings, start_at_frequencies
from vqafusion.trainer import VqaTrainer, VqaTrainingArguments


@pytest.mark.parametrize("loss", ["bce", "ce"])
def test_a_new_model_starts_at_the_answers_frequencies(loss):
    model = VqaFusionForVisualQuestionAnswering(tiny_config(answer_loss=loss)).eval()
    frequencies = torch.tensor([0.5, 0.3, 0.1, 0.06, 0.04, 0.0])
    start_at_frequencies(model, frequencies)
    bias = model.classifier[-1].bias.detach()
    assert torch.allclose(model.probabilities(bias[None])[0], frequencies, atol=1e-4)


@pytest.mark.parametrize("width", [8, 32])
def test_a_new_head_knows_which_answers_are_alike(width):
    model = VqaFusionForVisualQuestionAnswering(tiny_config(hidden_size=width)).eval()
    ids = torch.tensor([[7, 8, 0], [7, 8, 0], [9, 0, 0], [11, 12, 13], [14, 0, 0], [15, 16, 0]])
    start_at_embeddings(model, ids, (ids > 0).long())
    weight = model.classifier[-1].weight.detach()
    assert torch.allclose(weight.norm(dim=-1), torch.full((6,), 0.8))
    alike = torch.nn.functional.cosine_similarity(weight[:1], weight)
    assert alike[1] == pytest.approx(1, abs=1e-4) and (alike[2:] < 0.95).all()


@pytest.fixture
def looking(processor):
    """A model with alignment, and its answers as the tokenizer gives them."""
    torch.manual_seed(0)
    model = VqaFusionForVisualQuestionAnswering(tiny_config(alignment_weight=0.5)).eval()
    return model, processor.tokenizer(ANSWERS, padding=True, return_special_tokens_mask=True, return_tensors="pt")


def test_the_words_of_answers_are_looked_up(looking, processor):
    model, tokens = looking
    look_for_answers(model.train(), **tokens)
    assert model.training and (tokens["attention_mask"] == 0).any()  # some are padded
    fused = model.eval().vqafusion
    for answer, found in zip(ANSWERS, model.shown_answers.words):
        if answer in ("yes", "no", "2"):
            assert not found.any()
            continue
        known = processor.tokenizer(answer, return_tensors="pt")
        states = fused.question_projection(fused.text_model(**known).last_hidden_state)[:, 1:-1]  # not CLS and SEP
        importance = torch.nn.functional.softplus(fused.alignment.importance(states))
        expected = normalize((normalize(fused.alignment.word(states), dim=-1) * importance).sum(1), dim=-1)[0]
        torch.testing.assert_close(found, expected.detach())


def test_what_an_image_shows_more_than_others_is_told_in_evaluation_only(looking):
    model, tokens = looking
    inputs, images = batch(), batch()["pixel_values"]
    before = model(**inputs)
    look_for_answers(model, **tokens)
    model.train()
    for _ in range(100):
        output = model(**inputs)
        assert not model.shown_answers(output.shown).any()
    usual = model.shown_answers.usual
    kept = usual.clone()
    model.shown_answers(torch.full_like(output.shown, torch.nan))  # of a step that `--not_finite skip` leaves out
    assert usual.equal(kept)
    model.eval()
    output = model(**inputs)
    torch.testing.assert_close(usual, output.shown.mean(0).detach(), rtol=0.01, atol=1e-3)
    patches = normalize(model.vqafusion.alignment.patch(model.vqafusion._images(3, images, None, None)[0]), dim=-1)
    torch.testing.assert_close(output.shown, patches.mean(1))
    cosines = (output.shown - usual) @ model.shown_answers.words.T
    torch.testing.assert_close(output.logits - before.logits, 2 * cosines)
    assert cosines[:, ANSWERS.index("red")].abs().min() > 0 and not cosines[:, ANSWERS.index("2")].any()


def test_training_looks_before_it_evaluates_and_earlier_models_load(looking, tmp_path):
    model, tokens = looking
    args = VqaTrainingArguments(output_dir=str(tmp_path), report_to=[])
    trainer = VqaTrainer(model, args, eval_dataset=[batch(1)], data_collator=lambda rows: rows[0])
    trainer.evaluate()
    assert not model.shown_answers.words.any()  # as a teacher
    trainer.answer_tokens = tokens
    trainer.evaluate()
    assert model.shown_answers.words.any()
    earlier = {name: value for name, value in model.state_dict().items() if "shown_answers" not in name}
    model.save_pretrained(tmp_path / "earlier", state_dict=earlier)
    loaded = VqaFusionForVisualQuestionAnswering.from_pretrained(tmp_path / "earlier")
    assert not loaded.shown_answers.words.any() and not loaded.shown_answers.usual.any()

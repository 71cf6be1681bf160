"""What the answer head is told: how frequent answers are, which are alike, and where their words point."""

import pytest
import torch
from torch.nn.functional import normalize
from toy_model import ANSWERS, batch, tiny_config

from vqafusion import VqaFusionForVisualQuestionAnswering
from vqafusion.answer_head import answer_tokens, look_for_answers, start_at_embeddings, start_at_frequencies
from vqafusion.trainer import VqaTrainer, VqaTrainingArguments


@pytest.mark.parametrize("loss", ["bce", "ce"])
def test_a_new_model_starts_at_the_answers_frequencies(loss):
    model = VqaFusionForVisualQuestionAnswering(tiny_config(answer_loss=loss)).eval()
    frequencies = torch.tensor([0.5, 0.3, 0.1, 0.06, 0.04, 0.0])
    start_at_frequencies(model, frequencies)
    bias = model.classifier[-1].bias.detach()
    assert torch.allclose(model.probabilities(bias[None])[0], frequencies, atol=1e-4) and bias.isfinite().all()


@pytest.mark.parametrize("width", [8, 32])
def test_a_new_head_knows_which_answers_are_alike(width):
    model = VqaFusionForVisualQuestionAnswering(tiny_config(hidden_size=width)).eval()
    ids = torch.tensor([[7, 8, 0], [7, 8, 0], [9, 0, 0], [11, 12, 13], [14, 0, 0], [15, 16, 0]])
    start_at_embeddings(model, ids, (ids > 0).long())
    weight = model.classifier[-1].weight.detach()
    assert torch.allclose(weight.norm(dim=-1), torch.full((6,), 0.8))
    alike = torch.nn.functional.cosine_similarity(weight[:1], weight)
    assert alike[1] == pytest.approx(1, abs=1e-4) and (alike[2:] < 0.95).all()
    if width == 32:  # as wide as the text encoder's states are: the turn keeps all angles
        states = [model.vqafusion.text_model(each[each > 0][None]).last_hidden_state[0].mean(0) for each in ids]
        expected = normalize(torch.stack(states) - torch.stack(states).mean(0), dim=-1)  # without the padding
        torch.testing.assert_close(weight @ weight.T, 0.8**2 * (expected @ expected.T).detach(), atol=1e-4, rtol=0)


@pytest.fixture
def looking(processor):
    """A model with alignment, and its answers as the tokenizer gives them."""
    torch.manual_seed(0)
    model = VqaFusionForVisualQuestionAnswering(tiny_config(alignment_weight=0.5)).eval()
    return model, answer_tokens(model.config, processor.tokenizer)


def test_answers_are_no_longer_than_the_text_encoder_takes(processor):
    config = tiny_config(id2label=dict(enumerate(["red", "red " * 20])))
    config.text_config.max_position_embeddings = 16
    assert answer_tokens(config, processor.tokenizer)["input_ids"].shape == (2, 16)


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
        assert model.shown_answers(output.shown, before.logits) is before.logits
    usual = model.shown_answers.usual
    kept = usual.clone()
    model.shown_answers(torch.full_like(output.shown, torch.nan), before.logits)  # as of an image of no finite states
    assert usual.equal(kept)
    model.eval()
    output = model(**inputs)
    torch.testing.assert_close(usual, output.shown.mean(0).detach(), rtol=0.01, atol=1e-3)
    patches = normalize(model.vqafusion.alignment.patch(model.vqafusion._images(3, images, None, None)[0]), dim=-1)
    torch.testing.assert_close(output.shown, patches.mean(1))
    cosines = (output.shown - usual) @ model.shown_answers.words.T
    added, belief = output.logits - before.logits, before.logits.sigmoid()
    torch.testing.assert_close(added - added[:, :1], 2 * cosines)  # to "yes", which is not looked for
    torch.testing.assert_close((belief * added).sum(1), torch.zeros(3), atol=1e-5, rtol=0)
    assert cosines[:, ANSWERS.index("red")].abs().min() > 0 and not cosines[:, ANSWERS.index("2")].any()


def test_the_trainer_looks_before_it_evaluates(looking, tmp_path):
    model, tokens = looking
    args = VqaTrainingArguments(output_dir=str(tmp_path), report_to=[])
    trainer = VqaTrainer(model, args, eval_dataset=[batch(1)], data_collator=lambda rows: rows[0])
    trainer.evaluate()
    assert not model.shown_answers.words.any()  # as a teacher
    trainer.answer_tokens = tokens
    trainer.evaluate()
    before = model.shown_answers.words.clone()
    torch.nn.init.normal_(model.vqafusion.alignment.word.weight)
    trainer.evaluate()
    assert before.any() and not model.shown_answers.words.allclose(before)


def test_what_was_looked_up_is_saved_and_absent_in_earlier_models(looking, tmp_path):
    model, _ = looking
    model.shown_answers.words.normal_()
    model.shown_answers.usual.normal_()
    model.save_pretrained(tmp_path / "model")
    loaded = VqaFusionForVisualQuestionAnswering.from_pretrained(tmp_path / "model")
    torch.testing.assert_close(loaded(**batch()).logits, model(**batch()).logits)
    for name, value in model.shown_answers.named_buffers():
        assert value.equal(loaded.shown_answers.get_buffer(name))
    earlier = {name: value for name, value in model.state_dict().items() if "shown_answers" not in name}
    model.save_pretrained(tmp_path / "earlier", state_dict=earlier)
    torch.use_deterministic_algorithms(True)  # which fills empty memory with NaN
    try:
        loaded = VqaFusionForVisualQuestionAnswering.from_pretrained(tmp_path / "earlier")
    finally:
        torch.use_deterministic_algorithms(False)
    assert not any(value.any() for value in loaded.shown_answers.buffers())

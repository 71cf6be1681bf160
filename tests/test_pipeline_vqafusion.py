"""Answers, shapes of input, attention in the image's own size."""

import numpy as np
import pytest
import torch
from conftest import draw

from vqafusion import VqaFusionPipeline
from vqafusion.pipeline_vqafusion import spread_attention

QUESTION = "what color is the circle?"


@pytest.fixture
def pipe(model, processor):
    return VqaFusionPipeline(model=model, processor=processor)


def test_ranked_answers_are_the_models(pipe, model, processor):
    answers = pipe(image=draw(), question=QUESTION)
    scores = model(**processor(images=draw(), text=QUESTION)).logits.sigmoid()[0].topk(5)
    assert [answer["score"] for answer in answers] == pytest.approx(scores.values.tolist())
    assert [answer["answer"] for answer in answers] == [model.config.id2label[i] for i in scores.indices.tolist()]
    assert len(pipe(draw(), QUESTION, top_k=2)) == 2 and len(pipe(draw(), QUESTION, top_k=100)) == 6


def test_lists_and_batches_give_what_single_calls_give(pipe):
    inputs = [{"image": draw(), "question": QUESTION}, {"image": draw("blue"), "question": "how many?"}]
    expected = [pipe(**one) for one in inputs]
    for result in (pipe(inputs), pipe(inputs, batch_size=2), list(pipe(one for one in inputs))):
        for one, other in zip(expected, result):
            assert [a["answer"] for a in one] == [a["answer"] for a in other]
            assert [a["score"] for a in one] == pytest.approx([a["score"] for a in other], abs=1e-5)


def test_attention_has_the_images_size(pipe):
    (first, *rest) = pipe(draw(size=(60, 30)), QUESTION, return_attention=True)
    assert first["attention"].shape == (30, 60)
    assert first["attention"].max() == pytest.approx(1) and first["attention"].min() >= 0
    assert not any("attention" in answer for answer in rest)


def test_attention_lies_where_its_patch_is():
    attention = np.zeros((4, 4))
    attention[0, 3] = 1
    spread = spread_attention(attention, 80, 40, (0, 0, 80, 40))
    row, column = np.unravel_index(spread.argmax(), spread.shape)
    assert row < 10 and column >= 60
    cropped = spread_attention(np.ones((4, 4)), 80, 40, (20, 0, 60, 40))
    assert (cropped[:, :20] == 0).all() and (cropped[:, 20:60] == 1).all() and (cropped[:, 60:] == 0).all()


@pytest.mark.parametrize("question", ["", "  ", None, 3])
def test_empty_questions_are_refused(pipe, question):
    with pytest.raises(ValueError, match="question is empty"):
        pipe({"image": draw(), "question": question})


@pytest.mark.parametrize("arguments", [{"top_k": 0}, {"top_k": "3"}, {"colour": 1}])
def test_bad_arguments_are_refused(pipe, arguments):
    with pytest.raises(ValueError):
        pipe(draw(), QUESTION, **arguments)


def test_dtype(model, processor):
    pipe = VqaFusionPipeline(model=model.to(torch.float16), processor=processor)
    assert len(pipe(draw(), QUESTION, return_attention=True)) == 5

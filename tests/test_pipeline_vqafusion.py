"""Answers, shapes of input, attention in the image's own size."""

import base64
import logging
import sys

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image
from toy_data import draw
from transformers import CLIPImageProcessorPil
from transformers.pipelines.pt_utils import KeyDataset

from vqafusion import VqaFusionPipeline, VqaFusionProcessor
from vqafusion.pipeline_vqafusion import draw_overlay, spread_attention

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


def test_answers_are_ranked_where_probabilities_round_to_one(pipe):
    outputs = {"logits": torch.tensor([[20.0, 40, 25, 19, 60, 30]]), "images": [draw()]}
    (answers,) = pipe.postprocess(outputs, top_k=3)
    assert [answer["answer"] for answer in answers] == [pipe.model.config.id2label[i] for i in (4, 1, 5)]
    assert [answer["score"] for answer in answers] == [1, 1, 1]


def same(found, expected):
    """The same answers in the same order, with probabilities that agree to 1e-5."""
    found, expected = list(found), list(expected)
    assert [[a["answer"] for a in one] for one in found] == [[a["answer"] for a in one] for one in expected]
    for one, other in zip(found, expected):
        assert [a["score"] for a in one] == pytest.approx([a["score"] for a in other], abs=1e-5)


def test_lists_and_batches_give_what_single_calls_give(pipe, tmp_path):
    inputs = [{"image": draw(c), "question": q} for c in ("red", "blue", "gray") for q in (QUESTION, "how many?")]
    expected = [pipe(**one) for one in inputs]
    for size in (1, 2, 8):
        same(pipe(inputs, batch_size=size), expected)
        same(pipe((one for one in inputs), batch_size=size), expected)
    same(pipe(tuple(inputs), num_workers=1), expected)
    assert pipe([]) == []
    for number, one in enumerate(inputs):
        one["image"].save(tmp_path / f"{number}.png")
    same(pipe([{**one, "image": str(tmp_path / f"{n}.png")} for n, one in enumerate(inputs)], batch_size=2), expected)


def test_batches_may_be_asked_for_when_the_pipeline_is_made(pipe, model, processor):
    images = [draw(color) for color in ("red", "blue", "gray", "green", "black")]
    expected = [pipe(image, QUESTION) for image in images]
    for size in (2, 3, 5):
        batched = VqaFusionPipeline(model=model, processor=processor, batch_size=size)
        same(batched(images, QUESTION), expected)
        same(batched((image for image in images), QUESTION), expected)


@pytest.mark.parametrize("kind", ["array", "tensor", "PIL image", "file"])
def test_a_generator_may_fill_one_picture_again_and_again(pipe, kind, tmp_path):
    images = [draw(color) for color in ("red", "blue", "gray")]

    def frames():
        array = np.array(images[0])
        frame = {"array": array, "tensor": torch.from_numpy(array), "PIL image": draw(), "file": tmp_path / "frame.png"}
        for image in images:
            array[:] = np.array(image)
            frame["PIL image"].paste(image)
            image.save(frame["file"])
            yield frame[kind]

    expected = [pipe(image, QUESTION) for image in images]
    for size in (1,) if kind == "file" else (1, 2):  # of a batch, files are opened together
        same(pipe(frames(), QUESTION, batch_size=size), expected)
        same(pipe(({"image": frame, "question": QUESTION} for frame in frames()), batch_size=size), expected)


def test_a_generator_is_answered_as_it_comes(pipe):
    asked = []

    def requests():
        picture = draw()
        for number in range(9):
            asked.append(number)
            yield {"image": picture, "question": f"how many {number}?"}

    for number, answers in enumerate(pipe(requests()), start=1):
        assert answers == pipe(draw(), f"how many {number - 1}?") and len(asked) == number


def test_images_and_questions_multiply(pipe):
    images, questions = [draw(), draw("blue"), draw("gray")], [QUESTION, "how many?"]
    single = {(i, j): pipe(images[i], questions[j]) for i in range(3) for j in range(2)}
    same(pipe(images[0], questions), [single[0, 0], single[0, 1]])
    same(pipe(images, QUESTION, batch_size=2), [single[i, 0] for i in range(3)])
    same(pipe(image=images, question=questions), [single[i, j] for j in range(2) for i in range(3)])
    same(pipe((image for image in images), QUESTION), [single[i, 0] for i in range(3)])
    with pytest.raises(ValueError, match="as a list"):
        pipe((image for image in images), questions)


def test_columns_of_a_data_set_are_read_as_they_come(pipe):
    rows = Dataset.from_list([{"image": draw(c), "question": QUESTION} for c in ("red", "blue")])
    expected = [pipe(row["image"], QUESTION) for row in rows]
    for images in (KeyDataset(rows, "image"), rows["image"]):
        answers = pipe(images, QUESTION)
        assert not isinstance(answers, list)
        same(answers, expected)
    same(pipe(rows), expected)


def test_every_kind_of_image_gives_the_same_answers(pipe, tmp_path):
    path = tmp_path / "image.png"
    draw().save(path)
    text = base64.b64encode(path.read_bytes()).decode()
    kinds = [draw(), str(path), path, path.read_bytes(), text, f"data:image/png;base64,{text}", np.asarray(draw())]
    kinds += [torch.from_numpy(np.array(draw())), {"bytes": path.read_bytes(), "path": None}]
    expected = pipe(draw(), QUESTION)
    for kind in kinds:
        same([pipe({"image": kind, "question": QUESTION})], [expected])
        if not isinstance(kind, dict):
            same([pipe(kind, QUESTION)], [expected])


@pytest.fixture
def encoded(pipe):
    """How many images each forward pass of the vision encoder took."""
    sizes = []
    pipe.model.vqafusion.vision_model.register_forward_hook(lambda *call: sizes.append(len(call[2][0])))
    return sizes


def test_an_image_is_encoded_once_for_all_its_questions(pipe, encoded):
    pipe(draw(), [f"{QUESTION} {n}" for n in range(20)])
    assert encoded == [1]
    images = [draw(), draw("blue"), draw("gray")]
    pipe([{"image": image, "question": q} for image in images for q in (QUESTION, "how many?")], batch_size=2)
    assert encoded == [1, 2, 1]
    pipe(images, [QUESTION, "how many?"], batch_size=8)
    assert encoded == [1, 2, 1, 3]


def test_more_questions_than_fit_a_pass(pipe, encoded, monkeypatch):
    monkeypatch.setattr("vqafusion.pipeline_vqafusion.QUESTIONS_PER_PASS", 3)
    questions = [f"how many {n}?" for n in range(7)]
    same(pipe(draw(), questions), [pipe(draw(), question) for question in questions])
    assert encoded == [1] * 10


def test_the_end_of_a_long_question_is_said_not_to_be_read(pipe, caplog):
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    try:
        pipe(draw(), "how many shapes are there " * 30)
        pipe(draw(), "how many shapes are there")
    finally:
        logger.removeHandler(caplog.handler)
    assert [record.getMessage() for record in caplog.records if "not read" in record.getMessage()] == [
        "a question is longer than 64 tokens, and its end is not read: "
        + ("how many shapes are there " * 30)[:60]
        + "…"
    ]


def test_attention_has_the_images_size(pipe):
    (first, *rest) = pipe(draw(size=(60, 30)), QUESTION, return_attention=True)
    assert first["attention"].shape == (30, 60)
    assert first["attention"].max() == pytest.approx(1) and first["attention"].min() >= 0
    assert first["overlay"].size == (60, 30)
    assert not any("attention" in answer or "overlay" in answer for answer in rest)
    one, two = pipe(draw(), [QUESTION, "how many?"], return_attention=True)
    assert np.allclose(two[0]["attention"], pipe(draw(), "how many?", return_attention=True)[0]["attention"], atol=1e-4)

    _, (second, *_) = pipe([draw(), draw(size=(60, 30))], QUESTION, return_attention=True, batch_size=2)
    assert second["attention"].shape == (30, 60)
    crop = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    pipe.processor = VqaFusionProcessor(CLIPImageProcessorPil(**crop), pipe.tokenizer)
    seen = pipe(draw(size=(80, 40)), QUESTION, return_attention=True)[0]["attention"]
    assert not seen[:, :20].any() and seen[:, 20:60].any() and not seen[:, 60:].any()


def test_below_a_probability_the_answer_is_not_sure_and_the_candidates_stay(pipe):
    answers = pipe(draw(), "is it red?", top_k=2)
    first, *others = pipe(draw(), "is it red?", top_k=2, abstain_below=1.0, return_attention=True)
    assert first["answer"] == "not sure" and first["score"] == pytest.approx(1 - answers[0]["score"])
    assert first["abstained"] is True and not any("abstained" in answer for answer in others)
    assert others == answers and first["attention"].shape == (40, 48)
    assert pipe(draw(), "is it red?", top_k=2, abstain_below=answers[0]["score"]) == answers


def test_the_temperature_flattens_probabilities_and_keeps_the_order(pipe):
    sharp = pipe(draw(), "is it red?")
    pipe.model.config.answer_temperature = 100.0
    flat = pipe(draw(), "is it red?")
    pipe.model.config.answer_temperature = 1.0
    assert [a["answer"] for a in flat] == [a["answer"] for a in sharp]
    assert all(abs(a["score"] - 0.5) < 0.01 for a in flat) and abs(sharp[0]["score"] - 0.5) > 0.01


@pytest.mark.parametrize("size", [(4, 1), (1, 8), (12, 1)])
def test_pictures_of_one_row_are_looked_at_through_a_crop(model, processor, size):
    cropping = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    pipe = VqaFusionPipeline(model=model, processor=VqaFusionProcessor(cropping, processor.tokenizer))
    (first, *_) = pipe(draw(size=size), QUESTION, return_attention=True)
    assert first["attention"].shape == size[::-1]


def test_without_opencv_only_the_overlay_is_missing(pipe, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    (first, *_) = pipe(draw(), QUESTION, return_attention=True)
    assert "attention" in first and "overlay" not in first
    with pytest.raises(ImportError, match="opencv-python-headless"):
        draw_overlay(draw(), first["attention"])


def test_the_overlay_is_the_brighter_the_more_attention_there_is():
    attention = np.tile(np.linspace(0, 1, 256, dtype=np.float32), (40, 1))
    overlay = draw_overlay(Image.new("RGB", (256, 40), "gray"), attention)
    lightness = np.asarray(overlay.convert("L"))[20].astype(int)  # what is left in print, and for most colour blind
    assert (np.diff(lightness) >= -1).all() and lightness[-1] - lightness[0] > 100
    red, green, blue = np.asarray(overlay)[20, 140].astype(int)
    assert red > green and red > blue  # not BGR
    image = draw(size=(256, 40))
    assert np.array_equal(np.asarray(draw_overlay(image, attention, strength=0)), np.asarray(image))


def test_sizes_must_fit():
    with pytest.raises(ValueError, match="does not fit"):
        draw_overlay(draw(), np.zeros((3, 3)))


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


@pytest.mark.parametrize("inputs", [draw(), {"image": draw()}, [draw()], [{"question": QUESTION}]])
def test_an_image_without_question_is_refused(pipe, inputs):
    with pytest.raises(ValueError, match="an image and a question"):
        pipe(inputs)


def test_arguments_of_the_former_pipeline_are_taken(pipe):
    same([pipe(draw(), QUESTION, padding=False, truncation=False, timeout=3.0)], [pipe(draw(), QUESTION)])


def test_compiled(pipe):
    expected = pipe(draw(), QUESTION)
    pipe.model = torch.compile(pipe.model, backend="eager")
    same([pipe(draw(), QUESTION)], [expected])


@pytest.mark.parametrize("arguments", [{"top_k": 0}, {"top_k": "3"}, {"colour": 1}, {"abstain_below": 40}])
def test_bad_arguments_are_refused(pipe, arguments):
    with pytest.raises(ValueError):
        pipe(draw(), QUESTION, **arguments)


def test_dtype(model, processor):
    pipe = VqaFusionPipeline(model=model.to(torch.float16), processor=processor)
    assert len(pipe(draw(), QUESTION, return_attention=True)) == 5

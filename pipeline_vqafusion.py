"""The pipeline `visual-question-answering`: image and question to ranked answers, and where the model looked."""

import os
from itertools import islice
from math import ceil, floor, isqrt

import numpy as np
import torch
from PIL import Image
from transformers import Pipeline
from transformers.utils import logging

from .processing_vqafusion import VqaFusionProcessor, load_image, max_question_length

logger = logging.get_logger(__name__)
QUESTIONS_PER_PASS = 256  # so many questions about one image at the most; memory grows with them
PLACES_PER_PASS = 64  # of a heat map; memory grows with them
KNOWN = "top_k, return_attention, abstain_below, batch_size"
NOT_SURE = "not sure"
NO_EFFECT = ("padding", "timeout", "truncation")  # of the pipeline that transformers had before version 5


class VqaFusionPipeline(Pipeline):
    """
    Ask pictures questions, with the calls of the pipeline of this name that transformers had before version 5.

    ```python
    >>> pipe = pipeline("visual-question-answering", model=DIR, trust_remote_code=True)
    >>> pipe(image="cat.jpg", question="What animal is this?", top_k=5)
    [{"score": 0.93, "answer": "cat"}, ...]
    ```
    """

    _load_processor = True
    _load_tokenizer = False
    _load_image_processor = False
    _load_feature_extractor = False

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self.processor is None:
            self.processor = VqaFusionProcessor(self.image_processor, self.tokenizer)
        self.tokenizer = self.processor.tokenizer

    def _sanitize_parameters(self, top_k=None, return_attention=None, abstain_below=None, **more):
        unknown = sorted(set(more) - set(NO_EFFECT))
        if unknown:
            raise ValueError(f"unknown argument {', '.join(unknown)}; known: {KNOWN}")
        if more:
            logger.warning_once(f"{', '.join(more)}: taken for the sake of older code, without effect")
        if top_k is not None and (not isinstance(top_k, int) or top_k < 1):
            raise ValueError(f"top_k must be a whole number of at least 1, not {top_k!r}")
        forward = {} if return_attention is None else {"with_map": bool(return_attention)}
        if abstain_below is not None and not 0 <= abstain_below <= 1:
            raise ValueError(f"abstain_below must be from 0 to 1, not {abstain_below!r}")
        after = {"top_k": top_k, "abstain_below": abstain_below}
        return {}, forward, {name: value for name, value in after.items() if value is not None}

    def __call__(self, image, question=None, batch_size=None, **kwargs):
        """
        Args:
            image: what [`load_image`] takes, or a list, generator, or data set of such; without `question`, a
                dictionary with `image` and `question`, or a list, generator, or data set of those.
            question (`str` or `list[str]`): asked about every image. Several images and several questions give first
                the answers to the first question.
            top_k (`int`): how many answers; 5 by default.
            return_attention (`bool`): add to the result's first entry `attention`, [`ablation_map`] as a float32 array
                in the image's own size, 0 to 1, 0 where the model's crop does not reach; and, where OpenCV is
                installed, `overlay`, the picture with that map over it. A blind model has neither.
            abstain_below (`float`): where the best answer's probability is below it, "not sure" stands before the
                answers, with the probability that the best answer is wrong and `"abstained": True`, as people may have
                answered "not sure", too. Fit the temperature first (`eval.py`).
            batch_size (`int`): images per forward pass, 1 by default. Questions that follow one another about the
                same image go together, 256 at the most, and it is encoded once for them; not those of a generator,
                whose questions are answered as they come, and which may fill the same picture anew.

        Returns:
            `[{"score": float, "answer": str}, ...]`, best first; a list of such lists for a list of images or
            questions; an iterator of them for a generator or data set.

        Raises:
            ValueError: an empty question, an image that cannot be read, a bad argument.
            FileNotFoundError: no such image.
        """
        one_image, one_question = _is_one(image), question is None or isinstance(question, str)
        in_memory = one_image or isinstance(image, (list, tuple))
        images, questions = [image] if one_image else image, [question] if one_question else list(question)
        if not (in_memory or one_question):
            raise ValueError(
                "several questions about several images need the images as a list; for a question of its own about "
                "each image, give dictionaries with `image` and `question`, or the data set itself"
            )
        as_they_come = not hasattr(images, "__len__")
        images = map(_held, images) if as_they_come else images
        pairs = map(_pair, images) if question is None else ((one, asked) for one in images for asked in questions)
        batches = _batches(pairs, batch_size or self._batch_size or 1, as_they_come)
        kwargs["batch_size"] = 1  # of these batches; else transformers would batch them once more
        if not in_memory:
            return (answers for batch in super().__call__(batches, **kwargs) for answers in batch)
        batches = list(batches)
        results = [answers for batch in super().__call__(batches, **kwargs) for answers in batch] if batches else []
        if one_image:
            return results[0] if one_question else results
        # The images came one after the other, so that each is encoded once; the answers go question by question.
        return [answers for first in range(len(questions)) for answers in results[first :: len(questions)]]

    def preprocess(self, inputs):
        questions = [question for _, asked in inputs for question in asked]
        for question in questions:
            if not isinstance(question, str) or not question.strip():
                raise ValueError("the question is empty")
        images = [load_image(image) for image, _ in inputs]
        length = max_question_length(self.model.config, self.tokenizer)
        features = self.processor(images=images, text=questions, truncation=True, max_length=length)
        for question, tokens in zip(questions, features["attention_mask"].sum(dim=1).tolist()):
            if tokens == length and len(self.tokenizer(question, truncation=False)["input_ids"]) > length:
                logger.warning(f"a question is longer than {length} tokens, and its end is not read: {question[:60]}…")
        image_index = torch.tensor([number for number, (_, asked) in enumerate(inputs) for _ in asked])
        return {**features, "image_index": image_index, "images": images}

    def _forward(self, inputs, with_map=False):
        images = inputs.pop("images")
        if self.model.config.blind:
            with_map = False  # it looks nowhere
        else:
            inputs["image_states"] = self.model.vqafusion.encode_image(inputs.pop("pixel_values"))
        result = {"logits": self.model(**inputs).logits}
        if with_map:
            states = inputs["image_states"][inputs["image_index"]]
            result["attention"] = ablation_map(self.model, inputs["input_ids"], inputs["attention_mask"], states)
        return {**result, "images": [images[number] for number in inputs["image_index"].tolist()]}

    def postprocess(self, outputs, top_k=5, abstain_below=0.0):
        results = self.model.ranked_answers(outputs["logits"], top_k)
        for answers in results:
            if answers[0]["score"] < abstain_below:
                answers.insert(0, {"score": 1 - answers[0]["score"], "answer": NOT_SURE, "abstained": True})
        for answers, image, attention in zip(results, outputs["images"], outputs.get("attention", [])):
            box = self.processor.visible_box(image.width, image.height)
            spread = spread_attention(attention.float().numpy(), image.width, image.height, box)
            answers[0]["attention"] = spread
            try:
                answers[0]["overlay"] = draw_overlay(image, spread)
            except ImportError as error:
                logger.warning_once(str(error))
        return results


def _is_one(image):
    """Whether this is one image (or one dictionary of image and question), not several."""
    return isinstance(image, (str, os.PathLike, bytes, bytearray, dict, Image.Image, np.ndarray, torch.Tensor))


def _pair(inputs):
    if not isinstance(inputs, dict) or "image" not in inputs or "question" not in inputs:
        raise ValueError("give an image and a question, or dictionaries with `image` and `question`")
    return inputs["image"], inputs["question"]


def _held(image):
    """As it is now, of a generator that may fill the same picture with its next one, as videos are read."""
    if isinstance(image, dict) and "image" in image:
        return {**image, "image": _held(image["image"])}
    if isinstance(image, torch.Tensor):
        return image.clone()
    return image.copy() if isinstance(image, (np.ndarray, Image.Image)) else image


def _batches(pairs, images, as_they_come):
    """
    Lists of up to `images` entries `(image, questions)`; questions about the same image that follow one another stand
    in one entry. `as_they_come`, each has an entry of its own, and none waits for the image after the last one.
    """
    if as_they_come:
        entries = ((image, [question]) for image, question in pairs)
        yield from iter(lambda: list(islice(entries, images)), [])
        return
    batch = []
    for image, question in pairs:
        if batch and _same(batch[-1][0], image) and len(batch[-1][1]) < QUESTIONS_PER_PASS:
            batch[-1][1].append(question)
            continue
        if len(batch) == images:
            yield batch
            batch = []
        batch.append((image, [question]))
    if batch:
        yield batch


def _same(image, other):
    return image is other or (isinstance(image, (str, os.PathLike)) and image == other)


def spread_attention(attention, width, height, box):
    """
    Lay a patch map over the image.

    Args:
        attention: `(rows, columns)` array, not negative.
        width, height (`int`): size of the image, in pixels.
        box: `(left, top, right, bottom)` in pixels, the part of the image that the patches cover.

    Returns:
        `(height, width)` float32 array, the largest value 1, 0 outside the box.
    """
    left, top = map(floor, box[:2])
    right, bottom = map(ceil, box[2:])  # outwards, so that a row of one pixel keeps one
    patches = Image.fromarray(np.asarray(attention, dtype=np.float32))
    spread = np.zeros((height, width), dtype=np.float32)
    spread[top:bottom, left:right] = np.asarray(patches.resize((right - left, bottom - top), Image.Resampling.BICUBIC))
    spread = spread.clip(min=0)
    return spread / max(spread.max(), 1e-12)


@torch.no_grad()
def ablation_map(model, input_ids, attention_mask, image_states):
    """
    What the best answer rests on: how much its score falls when the encoder's states of a place are replaced by their
    mean over the image. Of the maps that analysis/faithfulness.py compares it is among the most faithful, with
    integrated gradients; attention weights alone hardly tell more than chance.

    Args:
        model: a [`VqaFusionForVisualQuestionAnswering`] in eval mode.
        input_ids, attention_mask: `(batch, question)`.
        image_states: `(batch, patches, vision width)`, one image for each question.

    Returns:
        `(batch, rows, columns)` float32 tensor: falls of the logit, 0 where it rises, one for each place that the
        fusion sees.
    """
    side = isqrt(image_states.shape[1])
    places = side**2
    # One place is taken away in each row, none in the last.
    taken = torch.eye(places + 1, dtype=torch.bool, device=image_states.device)[:, :places, None]
    maps = []
    for ids, mask, states in zip(input_ids, attention_mask, image_states.float()):
        prefix, grid = states[:-places], states[-places:]  # CLS always stays
        ablated = torch.where(taken, grid.mean(dim=0), grid)  # (places + 1, places, width)
        ablated = torch.cat([prefix.expand(len(taken), -1, -1), ablated], dim=1)
        logits = torch.cat([_logits(model, ids, mask, part) for part in ablated.split(PLACES_PER_PASS)])
        fall = (logits[-1] - logits[:-1])[:, logits[-1].argmax()]
        maps.append(fall.clamp(min=0).view(side, side))
    return torch.stack(maps)


def _logits(model, ids, mask, states):
    """`(pictures, answers)`: of one question about several states of pictures."""
    question = {"input_ids": ids.expand(len(states), -1), "attention_mask": mask.expand(len(states), -1)}
    return model(**question, image_states=states).logits.float()


def draw_overlay(image, attention, strength=0.5):
    """
    Args:
        image (`PIL.Image.Image`): RGB.
        attention: `(height, width)` float array of the image's size, 0 to 1.
        strength (`float`): opacity of the colours of [`heat_colors`].

    Returns:
        `PIL.Image.Image` of the same size.

    Raises:
        ValueError: sizes that differ.
        ImportError: OpenCV is not installed.
    """
    pixels = np.asarray(image.convert("RGB"))
    attention = np.asarray(attention, dtype=np.float32)
    if attention.shape != pixels.shape[:2]:
        raise ValueError(f"an attention map of {attention.shape} does not fit an image of {pixels.shape[:2]}")
    return Image.blend(Image.fromarray(pixels), Image.fromarray(heat_colors(attention)), strength)


def heat_colors(values):
    """
    The colours of a heat map: OpenCV's "inferno", which grow lighter all the way, so that the strongest place is the
    brightest one for colour-blind people and in print, too.

    Args:
        values: `(rows, columns)` float array, 0 to 1.

    Returns:
        `(rows, columns, 3)` uint8 array, RGB.

    Raises:
        ImportError: OpenCV is not installed.
    """
    try:
        import cv2
    except ImportError:
        raise ImportError("heat maps are drawn with OpenCV: pip install opencv-python-headless") from None
    levels = (np.asarray(values).clip(0, 1) * 255).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)

"""The pipeline `visual-question-answering`: image and question to ranked answers, and where the model looked."""

import numpy as np
import torch
from PIL import Image
from transformers import Pipeline

from .processing_vqafusion import VqaFusionProcessor, load_image, max_question_length


class VqaFusionPipeline(Pipeline):
    """
    Ask pictures questions.

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
        self.tokenizer = self.processor.tokenizer  # what pads a batch

    def _sanitize_parameters(self, top_k=None, return_attention=None, **unknown):
        if unknown:
            raise ValueError(f"unknown argument {', '.join(sorted(unknown))}; known: top_k, return_attention")
        if top_k is not None and (not isinstance(top_k, int) or top_k < 1):
            raise ValueError(f"top_k must be a whole number of at least 1, not {top_k!r}")
        forward = {} if return_attention is None else {"output_attentions": bool(return_attention)}
        return {}, forward, {} if top_k is None else {"top_k": top_k}

    def __call__(self, image, question=None, **kwargs):
        """
        Args:
            image: what [`load_image`] takes, or a dictionary with `image` and `question`, or a list, generator or
                data set of such dictionaries.
            question (`str`): with an image alone.
            top_k (`int`): how many answers; 5 by default.
            return_attention (`bool`): add to the result's first answer `attention`, a float32 array in the image's
                own size, 0 to 1, 0 where the model's crop does not reach.
            batch_size (`int`): questions per forward pass.

        Returns:
            `[{"score": float, "answer": str}, ...]`, best first; a list of such lists for several questions.

        Raises:
            ValueError: an empty question, an image that cannot be read, a bad argument.
        """
        if question is not None:
            image = {"image": image, "question": question}
        return super().__call__(image, **kwargs)

    def preprocess(self, inputs):
        question = inputs["question"]
        if not isinstance(question, str) or not question.strip():
            raise ValueError("the question is empty")
        image = load_image(inputs["image"])
        length = max_question_length(self.model.config, self.tokenizer)
        features = self.processor(images=image, text=question, truncation=True, max_length=length)
        return {**features, "image_size": torch.tensor([[image.width, image.height]])}

    def _forward(self, inputs, output_attentions=False):
        size = inputs.pop("image_size")
        output = self.model(**inputs, output_attentions=output_attentions)
        result = {"probabilities": self.model.probabilities(output.logits), "image_size": size}
        if output_attentions:
            result["attention"] = self.model.attention_map(output)
        return result

    def postprocess(self, outputs, top_k=5):
        probabilities = outputs["probabilities"][0].float()
        scores, labels = probabilities.topk(min(top_k, len(probabilities)))
        names = self.model.config.id2label
        answers = [{"score": s, "answer": names[i]} for s, i in zip(scores.tolist(), labels.tolist())]
        if "attention" in outputs:
            width, height = outputs["image_size"][0].tolist()
            box = self.processor.visible_box(width, height)
            answers[0]["attention"] = spread_attention(outputs["attention"][0].float().numpy(), width, height, box)
        return answers


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
    left, top, right, bottom = (round(edge) for edge in box)
    patches = Image.fromarray(np.asarray(attention, dtype=np.float32))
    spread = np.zeros((height, width), dtype=np.float32)
    spread[top:bottom, left:right] = np.asarray(patches.resize((right - left, bottom - top), Image.Resampling.BICUBIC))
    spread = spread.clip(min=0)
    return spread / max(spread.max(), 1e-12)

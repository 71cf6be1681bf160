"""Trained models that another one learns from: they answer its questions, and some that nobody asked."""

import torch

from .modeling_vqafusion import VqaFusionForVisualQuestionAnswering


class Teachers:
    """
    The mean of several models' probabilities (an ensemble, distilled as by Hinton et al., 2015, with temperature 1).

    Args:
        folders: of the models; they share one vocabulary.
        device: where they compute.
    """

    def __init__(self, folders, device):
        load = VqaFusionForVisualQuestionAnswering.from_pretrained
        self.models = [load(folder).eval().to(device) for folder in folders]

    @torch.no_grad()
    def __call__(self, inputs):
        """`(questions, answers)` probabilities, of what a model takes."""
        return sum(model.probabilities(model(**inputs).logits.float()) for model in self.models) / len(self.models)


def with_unasked(inputs):
    """
    Every question once more, about the image of another question of its batch. Nobody answered these, but teachers
    can, and of them there are more than a model could learn by heart (Beyer et al., CVPR 2022, who mix images).

    Args:
        inputs (`dict`): what the collator makes, without labels.

    Returns:
        `dict` of twice as many questions, about the same images; first those of `inputs`.
    """
    index = inputs["image_index"]
    others = index[torch.randperm(len(index)).to(index.device)]
    twice = {name: inputs[name].repeat(2, 1) for name in ("input_ids", "attention_mask")}
    return {**inputs, **twice, "image_index": torch.cat([index, others])}

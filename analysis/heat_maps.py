"""Where the model looked, in several ways that `faithfulness.py` compares."""

from math import isqrt

import torch
from captum.attr import IntegratedGradients

from ..pipeline_vqafusion import ablation_map

QUESTION = ("input_ids", "attention_mask")


def map_inputs(model, batch):
    """What [`heat_map`] takes, of a batch of a [`VqaCollator`]: each question's tokens and its image's states."""
    batch = {name: value.to(model.device) for name, value in batch.items()}
    states = batch.get("image_states")
    if states is None:
        states = model.vqafusion.encode_image(batch["pixel_values"])
    return {**{name: batch[name] for name in QUESTION}, "image_states": states[batch["image_index"]].float()}


def heat_map(model, features, variant, layer=None, head=None):
    """
    Args:
        model: a [`VqaFusionForVisualQuestionAnswering`] in eval mode.
        features (`dict`): `input_ids`, `attention_mask` `(batch, question)`, and `image_states`
            `(batch, patches, vision width)`, one image for each question.
        variant (`str`): one of `VARIANTS`.
        layer, head (`int`): for "attention" only, from 0; the mean over all where they are None.

    Returns:
        `(batch, rows, columns)` tensor, not negative, each map scaled to sum to 1; even where nothing is positive.

    Raises:
        ValueError: an unknown variant, or a layer or head that the model does not have.
    """
    if variant not in VARIANTS:
        raise ValueError(f"unknown heat map {variant!r}; known: {', '.join(VARIANTS)}")
    if variant == "attention":
        return _as_grid(_attention(model, features, layer, head))
    if (layer, head) != (None, None):
        raise ValueError(f"layer and head are for the variant 'attention', not {variant!r}")
    if variant == "ablation":
        return _scaled(ablation_map(model, **features))
    return _as_grid(VARIANTS[variant](model, features))


def _as_grid(maps):
    """`(batch, places)` of any sign to a grid; prefix tokens (CLS) are left out."""
    side = isqrt(maps.shape[-1])
    return _scaled(maps[:, -(side**2) :].detach().float().unflatten(-1, (side, side)))


def _scaled(grid):
    grid = grid.clamp(min=0) + 1e-12
    return grid / grid.sum(dim=(1, 2), keepdim=True)


@torch.no_grad()
def _attention(model, features, layer=None, head=None):
    weights = torch.stack(model(**features, output_attentions=True).question_to_image_attentions)
    layers, _, heads = weights.shape[:3]  # (layers, batch, heads, question, patches)
    for name, value, most in (("layer", layer, layers), ("head", head, heads)):
        if value is not None and not 0 <= value < most:
            raise ValueError(f"{name} must be from 0 to {most - 1}, not {value}")
    weights = weights[:, :, :, 0]
    weights = weights.mean(dim=0) if layer is None else weights[layer]
    return weights.mean(dim=1) if head is None else weights[:, head]


def _last_attention(model, features):
    return _attention(model, features, model.config.num_fusion_layers - 1, None)


@torch.no_grad()
def _rollout(model, features):
    """Attention rollout (Abnar & Zuidema, ACL 2020) over question tokens and patches as one sequence."""
    output = model(**features, output_attentions=True)
    looked = [looks.mean(dim=1) for looks in output.question_to_image_attentions]  # (batch, question, patches) each
    read = [reads.mean(dim=1) for reads in output.image_to_question_attentions]  # (batch, patches, question) each
    if output.alignment is not None:  # before the fusion only the words look
        looked, read = [output.alignment, *looked], [torch.zeros_like(read[0]), *read]
    joined = None
    for looks, reads in zip(looked, read):
        question, patches = looks.shape[1:]
        step = torch.eye(question + patches, device=looks.device).repeat(len(looks), 1, 1)
        step[:, :question, question:], step[:, question:, :question] = looks, reads
        step = step / step.sum(dim=-1, keepdim=True)
        joined = step if joined is None else step @ joined
    return joined[:, 0, question:]


def _relevance(model, features):
    """
    Attention weighted with the gradient of the best answer's score, positive parts only, carried through the fusion
    layers (Chefer et al., Generic Attention-model Explainability, ICCV 2021, equations 5 and 6).
    """
    weights = []
    hooks = [
        stream.attention.register_forward_hook(lambda module, inputs, output: weights.append(output[1]))
        for layer in model.vqafusion.fusion_layers
        for stream in (layer.question_to_image, layer.image_to_question)
    ]
    try:
        with torch.enable_grad():
            score = model(**features, output_attentions=True).logits.amax(dim=-1).sum()
            gradients = torch.autograd.grad(score, weights, materialize_grads=True)  # the last reads lead nowhere
    finally:
        for hook in hooks:
            hook.remove()
    steps = [(w * g).clamp(min=0).mean(dim=1).detach() for w, g in zip(weights, gradients)]
    question, patches = steps[0].shape[1:]
    joined = torch.eye(question + patches, device=steps[0].device).repeat(len(steps[0]), 1, 1)
    for looks, reads in zip(steps[::2], steps[1::2]):
        step = torch.zeros_like(joined)
        step[:, :question, question:], step[:, question:, :question] = looks, reads
        joined = joined + step @ joined
    return joined[:, 0, question:]


def _integrated_gradients(model, features, steps=8):
    """Integrated gradients (captum) of what the fusion sees, from its mean over the image, summed over its width."""
    states = features["image_states"].float()

    def score(states):
        question = {name: features[name].repeat(len(states) // len(features[name]), 1) for name in QUESTION}
        return model(**question, image_states=states).logits

    with torch.no_grad():
        target = score(states).argmax(dim=-1)
    prefix, grid = states.split([states.shape[1] - isqrt(states.shape[1]) ** 2, isqrt(states.shape[1]) ** 2], dim=1)
    empty = torch.cat([prefix, grid.mean(dim=1, keepdim=True).expand_as(grid)], dim=1)
    attribution = IntegratedGradients(score).attribute(states, baselines=empty, target=target, n_steps=steps)
    return attribution.sum(dim=-1)


VARIANTS = {
    "ablation": ablation_map,
    "attention": _attention,
    "last_attention": _last_attention,
    "rollout": _rollout,
    "relevance": _relevance,
    "integrated_gradients": _integrated_gradients,
}
DEFAULT = next(iter(VARIANTS))  # what the pipeline shows: one of the two that measure best

"""Every heat map's form, and that ablation and the faithfulness measure find the one place that matters."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from toy_model import tiny_config

from vqafusion import VqaFusionForVisualQuestionAnswering
from vqafusion.analysis.faithfulness import faithfulness
from vqafusion.analysis.heat_maps import VARIANTS, heat_map
from vqafusion.pipeline_vqafusion import ablation_map

PLACE = 6  # of 4 × 4, row by row


class Spotlight(nn.Module):
    """The first answer's score is the brightness of one place, the second's is always 1."""

    device = torch.device("cpu")

    def __init__(self):
        super().__init__()
        self.vqafusion = self

    def encode_image(self, pixels):
        return nn.functional.adaptive_avg_pool2d(pixels, 4).flatten(2).transpose(1, 2)  # (images, 16, 3)

    def forward(self, input_ids, attention_mask, image_states):
        score = image_states[:, PLACE].mean(dim=-1)
        return SimpleNamespace(logits=torch.stack([score, torch.ones_like(score)], dim=-1))

    def probabilities(self, logits):
        return logits.sigmoid()


def pictures(count, bright):
    pixels = 0.1 * torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    pixels[:, :, 8:16, 16:24] += bright
    return pixels


def question(count, tokens=4):
    ids = torch.arange(1, tokens + 1).repeat(count, 1)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


class Rows(list):
    def __getitem__(self, key):
        return [row[key] for row in self] if isinstance(key, str) else super().__getitem__(key)


def collate(rows):
    images = {row["image_id"]: row["pixels"] for row in rows}
    index = [list(images).index(row["image_id"]) for row in rows]
    return {
        **question(len(rows)), "pixel_values": torch.stack(list(images.values())), "image_index": torch.tensor(index)
    }  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("pool", [None, 2])
def test_every_variant_is_a_distribution_over_the_places_that_the_fusion_sees(variant, pool):
    torch.manual_seed(0)
    model = VqaFusionForVisualQuestionAnswering(tiny_config(image_pool_size=pool, alignment_weight=pool or 0)).eval()
    side = pool or 4
    features = {**question(3), "image_states": torch.randn(3, 1 + side**2, 32)}
    features["attention_mask"][1, 2:] = 0
    maps = heat_map(model, features, variant)
    assert maps.shape == (3, side, side) and (maps >= 0).all() and not maps.requires_grad
    torch.testing.assert_close(maps.sum(dim=(1, 2)), torch.ones(3))
    assert maps.std(dim=0).max() > 0  # not the same for every image
    one = {name: value[1:2] for name, value in features.items()}
    torch.testing.assert_close(heat_map(model, one, variant), maps[1:2], atol=1e-4, rtol=1e-3)


def test_attention_by_layer_and_head(model):
    features = {**question(2), "image_states": torch.randn(2, 17, 32)}
    weights = model(**features, output_attentions=True).question_to_image_attentions
    got = heat_map(model, features, "attention", layer=1, head=2)
    expected = weights[1][:, 2, 0, 1:]
    torch.testing.assert_close(got.flatten(1), (expected / expected.sum(-1, keepdim=True)).detach())
    last = heat_map(model, features, "attention", layer=2)
    torch.testing.assert_close(last, heat_map(model, features, "last_attention"))
    with pytest.raises(ValueError, match="layer must be from 0 to 2, not 3"):
        heat_map(model, features, "attention", layer=3)
    with pytest.raises(ValueError, match="head must be from 0 to 3, not -1"):
        heat_map(model, features, "attention", head=-1)
    with pytest.raises(ValueError, match="layer and head are for"):
        heat_map(model, features, "rollout", layer=1)
    with pytest.raises(ValueError, match="unknown heat map 'x'; known: ablation"):
        heat_map(model, features, "x")


@pytest.mark.parametrize("variant", ["rollout", "relevance"])
def test_what_is_carried_through_the_layers_by_hand(model, variant):
    features, weights = {**question(2), "image_states": torch.randn(2, 17, 32)}, []
    for layer in model.vqafusion.fusion_layers:
        for stream in (layer.question_to_image, layer.image_to_question):
            stream.attention.register_forward_hook(lambda *call: weights.append(call[2][1]))
    logits = model(**features, output_attentions=True).logits
    gradients = torch.autograd.grad(logits.amax(dim=-1).sum(), weights, materialize_grads=True)
    if variant == "relevance":
        weights = [(w * g).clamp(min=0) for w, g in zip(weights, gradients)]
    words, patches = torch.eye(21).repeat(2, 1, 1).split([4, 17], dim=1)
    for looks, reads in zip(weights[::2], weights[1::2]):
        words, patches = words + looks.mean(dim=1) @ patches, patches + reads.mean(dim=1) @ words
    expected = words[:, 0, 4 + 1 :].detach()
    found = heat_map(model, features, variant).flatten(1)
    torch.testing.assert_close(found, expected / expected.sum(dim=-1, keepdim=True), atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("variant", ["ablation", "integrated_gradients"])
def test_the_place_that_matters_is_found(variant):
    model = Spotlight()
    maps = heat_map(model, {**question(2), "image_states": model.encode_image(pictures(2, 5.0))}, variant)
    assert maps.flatten(1).argmax(-1).tolist() == [PLACE, PLACE] and maps.amax() > 0.99
    even = heat_map(model, {**question(1), "image_states": torch.full((1, 16, 3), 2.0)}, variant)
    torch.testing.assert_close(even, torch.full((1, 4, 4), 1 / 16))  # no place differs from the mean


def test_a_place_that_speaks_against_the_answer_is_not_shown():
    model = Spotlight()
    features = {**question(1), "image_states": model.encode_image(pictures(1, -5.0))}
    assert ablation_map(model, **features).abs().max() == 0  # the second answer is best, and rests on nothing


def test_ablation_by_hand():
    torch.manual_seed(0)
    model = VqaFusionForVisualQuestionAnswering(tiny_config(image_pool_size=2)).eval()
    states = model.vqafusion.encode_image(torch.randn(2, 3, 32, 32)).detach()
    features = {**question(2), "image_states": states}
    logits = model(**features).logits
    ablated = states.clone()
    ablated[:, 1 + 1] = states[:, 1:].mean(dim=1)  # the place at the upper right of 2 × 2; the first token is CLS
    best = logits.argmax(dim=-1, keepdim=True)
    fall = (logits - model(**{**features, "image_states": ablated}).logits).gather(1, best)[:, 0].clamp(min=0)
    torch.testing.assert_close(ablation_map(model, **features)[:, 0, 1], fall.detach(), atol=1e-5, rtol=1e-4)


def test_faithful_maps_beat_a_random_order_and_others_do_not():
    images = enumerate(pictures(20, 4.0))
    rows = Rows({"pixels": pixels, "image_id": str(number)} for number, pixels in images for question in range(2))
    result = faithfulness(Spotlight(), collate, rows, variants=("ablation",))
    ablation, random = result["ablation"], result["random"]
    # Without the place the probability is one half. A map that has it first loses it at the first step of a quarter,
    # and the mean of a random order is half-way.
    whole = 100 / (1 + np.exp(-4.05))
    assert ablation["deletion"] == pytest.approx(50 + 0.125 * (whole - 50), abs=0.5)
    assert ablation["insertion"] == pytest.approx(whole - 0.125 * (whole - 50), abs=0.5)
    assert random["deletion"] == pytest.approx((whole + 50) / 2, abs=4)
    assert result["centre"]["deletion"] == pytest.approx(ablation["deletion"], abs=0.5)  # where the place is
    for curve in ("deletion", "insertion"):
        low, high = ablation[f"{curve}_gain_interval"]
        assert 0 < low < ablation[f"{curve}_gain"] < high
    assert faithfulness(Spotlight(), collate, rows, variants=("ablation",)) == result  # the same seed, the same order

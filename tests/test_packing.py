"""Packed linear layers answer as the plain ones do, and say that they are for answering only."""

import pytest
import torch
from conftest import tiny_config
from torch import nn

from vqafusion import VqaFusionForVisualQuestionAnswering
from vqafusion.packing import PackedLinear, pack


@pytest.mark.parametrize("rows", [1, 9, 50, 400])
def test_a_packed_layer_gives_what_the_plain_one_gives(rows):
    torch.manual_seed(0)
    linear, states = nn.Linear(48, 40), torch.randn(2, rows, 48)
    with torch.no_grad():
        expected = linear(states)
        packed = pack(nn.Sequential(linear))
        assert isinstance(packed[0], PackedLinear)
        assert torch.allclose(packed(states), expected, atol=1e-5)


def test_a_packed_model_answers_alike(processor):
    torch.manual_seed(0)
    model = VqaFusionForVisualQuestionAnswering(tiny_config()).eval()
    inputs = {"input_ids": torch.randint(1, 200, (3, 7)), "pixel_values": torch.randn(3, 3, 32, 32)}
    inputs["attention_mask"] = torch.tensor([[1] * 7, [1] * 4 + [0] * 3, [1] * 5 + [0] * 2])
    with torch.inference_mode():
        expected = model(**inputs, output_attentions=True)
        found = pack(model)(**inputs, output_attentions=True)
    assert not any(type(module) is nn.Linear for module in model.modules())
    assert torch.allclose(found.logits, expected.logits, atol=1e-5)
    for maps in zip(found.question_to_image_attentions, expected.question_to_image_attentions):
        assert torch.allclose(*maps, atol=1e-5)


def test_without_onednn_nothing_changes(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    model = pack(nn.Sequential(nn.Linear(4, 4)))
    assert type(model[0]) is nn.Linear


def test_a_packed_model_is_not_saved_by_mistake(tmp_path):
    model = pack(VqaFusionForVisualQuestionAnswering(tiny_config()).eval())
    with pytest.raises(ValueError, match="packed"):
        model.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()

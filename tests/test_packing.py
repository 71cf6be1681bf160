"""Packed linear layers and folded batch norms answer as the plain ones do, and what cannot be does not change."""

import pytest
import torch
from torch import nn
from toy_model import tiny_config
from transformers import AutoModel, EfficientNetConfig, ResNetConfig
from transformers.modeling_outputs import BaseModelOutput

from vqafusion import VqaFusionForVisualQuestionAnswering
from vqafusion.packing import PackedLinear, folded, pack


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


def test_layers_that_onednn_has_not_stay_as_they_are():
    model = pack(nn.Sequential(nn.Linear(4, 4).half(), nn.Linear(4, 4).double()))
    assert not any(isinstance(layer, PackedLinear) for layer in model)


def test_a_packed_model_is_not_saved_by_mistake(tmp_path):
    model = pack(VqaFusionForVisualQuestionAnswering(tiny_config()).eval())
    with pytest.raises(ValueError, match="packed"):
        model.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()


RESNET = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2], layer_type="basic")
EFFICIENTNET = EfficientNetConfig(
    image_size=32, width_coefficient=0.25, depth_coefficient=0.1, hidden_dim=320, depthwise_padding=[2]
)


def with_statistics(encoder):
    """In eval mode, with batch norms that do something."""
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.weight, module.running_var):
                nn.init.uniform_(values, 0.5, 2)
            for values in (module.bias, module.running_mean):
                nn.init.normal_(values)
    return encoder.eval()


def norms(encoder):
    return sum(isinstance(module, nn.BatchNorm2d) for module in encoder.modules())


@pytest.mark.parametrize("config", [RESNET, EFFICIENTNET])
def test_folded_batch_norms_leave_the_states_as_they_are(config):
    torch.manual_seed(0)
    encoder, pixels = with_statistics(AutoModel.from_config(config)), torch.randn(2, 3, 32, 32)
    before = norms(encoder)
    with torch.inference_mode():
        expected = encoder(pixels).last_hidden_state
        assert expected.abs().max() > 0.1
        with folded(encoder, pixels):
            found = encoder(pixels).last_hidden_state
            assert norms(encoder) == 0
        assert torch.allclose(found, expected, rtol=0, atol=1e-4 * expected.abs().max())
        assert norms(encoder) == before > 0 and torch.equal(encoder(pixels).last_hidden_state, expected)


class ReadTwice(nn.Module):
    """Something beside the batch norm reads the convolution."""

    def __init__(self, share):
        super().__init__()
        self.share = share
        self.convolution, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

    def forward(self, pixel_values):
        states = self.convolution(pixel_values)
        return BaseModelOutput(last_hidden_state=self.share * states + self.norm(states))


class Normed(nn.Module):
    """A batch norm whose smallest numbers half precision cannot hold: folded, they are infinite."""

    def __init__(self):
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, eps=1e-8)
        self.norm.running_var[0] = 0

    def forward(self, pixel_values):
        return BaseModelOutput(last_hidden_state=self.norm(self.convolution(pixel_values)))


class Asks(Normed):
    """It reads its batch norm's settings."""

    def forward(self, pixel_values):
        return super().forward(pixel_values / self.norm.num_features)


def test_what_cannot_be_folded_is_left(model):
    torch.manual_seed(0)
    pixels = torch.randn(2, 3, 32, 32)
    for encoder in (
        *(with_statistics(ReadTwice(share)) for share in (1, 0.01)),
        model.vqafusion.vision_model.eval(),
        Normed().half().eval(),
    ):
        pixels = pixels.to(next(encoder.parameters()).dtype)
        before = list(encoder.modules())
        with folded(encoder, pixels):
            assert list(encoder.modules()) == before


def test_an_encoder_that_fails_when_folded_is_as_before():
    encoder = Asks().eval()
    before = list(encoder.modules())
    with pytest.raises(AttributeError), folded(encoder, torch.randn(2, 3, 32, 32)):
        pass
    assert list(encoder.modules()) == before and not any(module._forward_hooks for module in before)

"""The models that the benchmarks put side by side, random weights; questions and pictures for them."""

import torch
from transformers import (
    BlipConfig,
    BlipForQuestionAnswering,
    CLIPVisionConfig,
    DistilBertConfig,
    ViltConfig,
    ViltForQuestionAnswering,
)

from vqafusion import VqaFusionConfig, VqaFusionForVisualQuestionAnswering

TOKENS = 9  # of a question
ANSWERS = 1000


def vqafusion_model(layers=None):
    """CLIP ViT-B/32 and DistilBERT, with 224 × 224 pixels; of fewer layers in each encoder where they are given."""
    torch.manual_seed(0)
    names = {number: str(number) for number in range(ANSWERS)}
    config = VqaFusionConfig(
        vision_config=CLIPVisionConfig(patch_size=32, num_hidden_layers=layers or 12),
        text_config=DistilBertConfig(n_layers=layers or 6),
        id2label=names, label2id={name: number for number, name in names.items()},
    )  # fmt: skip
    return VqaFusionForVisualQuestionAnswering(config).eval()


def vilt_model(layers=None):
    """ViLT-B/32, for 384 × 512 pixels, the size of most COCO photos in it."""
    return ViltForQuestionAnswering(ViltConfig(num_labels=3129, num_hidden_layers=layers or 12)).eval()


def blip_model(layers=None):
    """BLIP-base, for 384 × 384 pixels."""
    vision = {"image_size": 384, "num_hidden_layers": layers or 12}
    text = {"num_hidden_layers": layers or 12}
    return BlipForQuestionAnswering(BlipConfig(vision_config=vision, text_config=text)).eval()


def question(batch):
    ids = torch.randint(1000, 20000, (batch, TOKENS))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def picture(images, dtype=torch.float32):
    return torch.randn(images, 3, 224, 224, dtype=dtype)


def vilt_inputs(batch, dtype=torch.float32):
    pixels, mask = torch.randn(batch, 3, 384, 512, dtype=dtype), torch.ones(batch, 384, 512).long()
    return {**question(batch), "pixel_values": pixels, "pixel_mask": mask}


def blip_inputs(batch, dtype=torch.float32):
    return {**question(batch), "pixel_values": torch.randn(batch, 3, 384, 384, dtype=dtype)}

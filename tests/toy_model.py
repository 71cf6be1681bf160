"""A model of width 32 over six answers, and inputs of random questions."""

import torch
from transformers import CLIPVisionConfig, DistilBertConfig

from vqafusion import VqaFusionConfig

ANSWERS = ["yes", "no", "red", "blue", "circle", "2"]
QUESTIONS = ["what color is the circle?", "is there a red shape in the image?", "how many shapes are there?"]
RESNET = {"embedding_size": 8, "hidden_sizes": [8, 24], "depths": [1, 1], "layer_type": "basic"}  # has batch norms
COLORS = {"color_levels": 4, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}  # of a model's configuration


def tiny_config(**changes):
    """Width 32, so that a forward pass takes milliseconds."""
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8
    )
    text = DistilBertConfig(vocab_size=200, dim=32, hidden_dim=64, n_layers=2, n_heads=2, max_position_embeddings=64)
    return VqaFusionConfig(
        **{
            "vision_config": vision,
            "text_config": text,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_attention_heads": 4,
            "id2label": dict(enumerate(ANSWERS)),
            "label2id": {answer: i for i, answer in enumerate(ANSWERS)},
            **changes,
        }
    )


def batch(questions=3, length=7, images=None, size=32):
    """Inputs of random questions, each about an image of its own unless `images` says how many there are."""
    torch.manual_seed(1)
    return {
        "input_ids": torch.randint(5, 200, (questions, length)),
        "attention_mask": torch.ones(questions, length, dtype=torch.long),
        "pixel_values": torch.randn(images or questions, 3, size, size),
    }

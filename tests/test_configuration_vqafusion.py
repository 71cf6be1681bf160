"""What a configuration is by default, and which are refused."""

import pytest
from toy_model import COLORS, tiny_config

from vqafusion import VqaFusionConfig


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": 33},
        {"num_attention_heads": 0},
        {"image_pool_size": 0},
        {"answer_loss": "mse"},
        {"num_fusion_layers": 0},
        {"frozen_text_layers": 3},
        {"frozen_text_layers": -1},
        {"alignment_weight": -1},
        {"intermediate_size": 0},
        {"hidden_size": -32},
        {"id2label": {0: "yes", 2: "no"}, "label2id": None},
        {"dropout": 1.5},
        {"power_normalization": 0},
        {"power_normalization": 1.1},
        {"power_normalization": float("nan")},
        {"initializer_range": float("nan")},
        {"answer_temperature": 0},
        {"color_levels": 4},
        {**COLORS, "color_levels": 1},
        {**COLORS, "color_levels": 99},
        {"vision_config": {"width": 1}},
    ],
)
def test_bad_configurations_are_refused(changes):
    with pytest.raises(ValueError):
        tiny_config(**changes)


@pytest.mark.parametrize("name, answers", [("id2label", {0: "yes", 1: "no"}), ("label2id", {"yes": 0, "no": 1})])
def test_one_list_of_answers_is_enough(name, answers):
    config = VqaFusionConfig(**{name: answers})
    assert config.id2label == {0: "yes", 1: "no"} and config.label2id == {"yes": 0, "no": 1} and config.num_labels == 2


def test_default_configuration_is_clip_and_distilbert_with_1000_answers():
    config = VqaFusionConfig()
    assert (config.vision_config.model_type, config.text_config.model_type) == ("clip_vision_model", "distilbert")
    assert config.num_labels == 1000 and config.num_fusion_layers == 3 and config.freeze_vision

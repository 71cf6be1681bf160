"""Configuration of VQAFusion: two encoder configurations, the sizes of the fusion, the answers."""

from os.path import isabs, isdir

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, CLIPVisionConfig, DistilBertConfig
from transformers.configuration_utils import PreTrainedConfig

# What the Auto classes load from a saved folder.
HUB_CLASSES = {
    "AutoConfig": "configuration_vqafusion.VqaFusionConfig",
    "AutoModel": "modeling_vqafusion.VqaFusionModel",
    "AutoModelForVisualQuestionAnswering": "modeling_vqafusion.VqaFusionForVisualQuestionAnswering",
    "AutoProcessor": "processing_vqafusion.VqaFusionProcessor",
}


@strict
class VqaFusionConfig(PreTrainedConfig):
    """
    Configuration of [`VqaFusionForVisualQuestionAnswering`]. The defaults are CLIP ViT-B/32 and DistilBERT.

    Args:
        vision_config (`dict` or `PreTrainedConfig`, *optional*):
            Any vision encoder that `AutoModel.from_config` builds. Default: `CLIPVisionConfig()`.
        text_config (`dict` or `PreTrainedConfig`, *optional*):
            Any text encoder likewise. Default: `DistilBertConfig()`.
        hidden_size (`int`): width of the fusion layers.
        num_fusion_layers (`int`): number of fusion layers, each with attention in both directions.
        num_attention_heads (`int`): heads of each cross-attention; must divide `hidden_size`.
        intermediate_size (`int`): width inside the feed-forward blocks.
        dropout (`float`): dropout in the fusion layers and the head.
        layer_norm_eps (`float`): epsilon of every layer norm written here.
        image_pool_size (`int`, *optional*):
            Average a larger patch grid down to `image_pool_size` x `image_pool_size`, before states are stored.
        color_levels (`int`, *optional*): give each patch a histogram of its colours, of 2 to 16 levels of red, green
            and blue each (of which each patch gets the cube), beside the encoder's states; for encoders that were
            trained to tell things apart whatever their colour is, such as classifiers of ImageNet.
        image_mean, image_std (`list[float]`, *optional*): what the image processor normalises red, green and blue by;
            needed with `color_levels`. `vqafusion.data_prep.image_features.normalization` finds out, since not every
            processor does what its settings say.
        power_normalization (`float`): each number of the image states is raised to this power, its sign kept, before
            they are projected; below 1 (and above 0) for encoders whose states are sparse, as those of convolutions.
        freeze_vision (`bool`): no gradient for the vision encoder, and eval mode even while training. When this or one
            of the next two is changed in a model that is there, its `freeze()` carries it out.
        freeze_text (`bool`): the same for the text encoder.
        frozen_text_layers (`int`): the same for the text encoder's embeddings and so many of its first layers.
        blind (`bool`): never look at the image; the baseline that shows what the questions alone give away.
        answer_loss (`str`): `"bce"`, soft-target binary cross-entropy, or `"ce"`, cross-entropy against the
            targets scaled to sum to one.
        alignment_weight (`float`): above 0, each word looks for its patches before the fusion, and how well it finds
            them speaks for some answers and against others. This is learned with a loss of this weight: telling which
            image a question is about, of those in the batch of one process, and whether each of them fits it. After
            training, its answers but yes, no and numbers are looked for in the same way (not with FSDP).
        answer_temperature (`float`): divides the logits before they become probabilities; eval.py fits it.
        initializer_range (`float`): standard deviation of the fusion's initial weights.
        num_labels, id2label, label2id: the answers; 1,000 unnamed ones by default. Of the last two one is enough here;
            to change a saved model's, give both.

    Raises:
        ValueError: sizes that do not fit together, more frozen layers than there are, `color_levels` without the
            other two, an unknown `answer_loss`, other values out of range, a nested configuration without `model_type`.
    """

    model_type = "vqafusion"
    sub_configs = {"vision_config": AutoConfig, "text_config": AutoConfig}
    # `Trainer` would gather them all beside the logits.
    keys_to_ignore_at_inference = [
        "pooler_output", "question_states", "image_states", "match", "shown", "alignment",
        "question_to_image_attentions", "image_to_question_attentions",
    ]  # fmt: skip
    has_no_defaults_at_init = True  # `to_diff_dict` must not build a default one: the encoders differ

    vision_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    hidden_size: int = 512
    num_fusion_layers: int = 3
    num_attention_heads: int = 8
    intermediate_size: int = 2048
    dropout: int | float = 0.1
    layer_norm_eps: int | float = 1e-5
    image_pool_size: int | None = None
    color_levels: int | None = None
    image_mean: list | tuple | None = None
    image_std: list | tuple | None = None
    power_normalization: int | float = 1.0
    freeze_vision: bool = True
    freeze_text: bool = False
    frozen_text_layers: int = 0
    blind: bool = False
    answer_loss: str = "bce"
    alignment_weight: int | float = 0.0
    answer_temperature: int | float = 1.0
    initializer_range: int | float = 0.02

    def __post_init__(self, **kwargs):
        # Not in `validate_…` methods, whose errors are no `ValueError`.
        for name in ("hidden_size", "intermediate_size", "num_fusion_layers", "num_attention_heads", "image_pool_size"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size ({self.hidden_size}) must be a multiple of num_attention_heads "
                f"({self.num_attention_heads})"
            )
        levels = self.color_levels
        if levels is not None and not (2 <= levels <= 16 and self.image_mean and self.image_std):
            raise ValueError(f"color_levels ({levels}) must be from 2 to 16, with image_mean and image_std")
        if self.answer_loss not in ("bce", "ce"):
            raise ValueError(f"answer_loss must be 'bce' or 'ce', not {self.answer_loss!r}")
        if not 0 < self.power_normalization <= 1:
            raise ValueError(f"power_normalization must be above 0, and at most 1, not {self.power_normalization}")
        if not 0 <= self.dropout <= 1:
            raise ValueError(f"dropout must be from 0 to 1, not {self.dropout}")
        for name in ("alignment_weight", "initializer_range", "layer_norm_eps"):
            if not getattr(self, name) >= 0:  # NaN neither
                raise ValueError(f"{name} must be at least 0, not {getattr(self, name)}")
        if not self.answer_temperature > 0:
            raise ValueError(f"answer_temperature must be above 0, not {self.answer_temperature}")
        self.vision_config = _encoder_config(self.vision_config, CLIPVisionConfig)
        self.text_config = _encoder_config(self.text_config, DistilBertConfig)
        frozen = self.frozen_text_layers
        layers = getattr(self.text_config, "num_hidden_layers", frozen)
        if not 0 <= frozen <= layers:
            raise ValueError(f"frozen_text_layers must be from 0 to the encoder's {layers}, not {frozen}")
        if self.id2label is None and self.label2id is not None:
            self.id2label = {index: answer for answer, index in self.label2id.items()}
        if self.id2label is None:
            kwargs.setdefault("num_labels", 1000)
        super().__post_init__(**kwargs)
        if sorted(self.id2label) != list(range(len(self.id2label))):
            raise ValueError("id2label must number the answers from 0 on, without a gap")
        self.label2id = {answer: index for index, answer in self.id2label.items()}

    def name_hub_classes(self):
        """Name the classes, of the code files beside a saved model, behind the Auto classes and the pipeline."""
        self.auto_map = {**HUB_CLASSES}
        self.custom_pipelines = {
            "visual-question-answering": {
                "impl": "pipeline_vqafusion.VqaFusionPipeline",
                "pt": ["AutoModelForVisualQuestionAnswering"],
            }
        }


def _encoder_config(config, default_class):
    if config is None:
        return default_class()
    if isinstance(config, dict):
        if "model_type" not in config:
            raise ValueError("a nested encoder configuration needs a 'model_type', e.g. 'clip_vision_model'")
        config = AutoConfig.for_model(**config)
    name = config.name_or_path or ""
    if isabs(name) or isdir(name):  # somebody's folder; a name on the Hub stays
        config.name_or_path = ""
    return config


# What an encoder's configuration says besides what it computes; it changes when a model is saved and loaded again.
_NOT_COMPUTED = {"_name_or_path", "architectures", "attn_implementation", "auto_map", "dtype", "transformers_version"}


def computed_by(config):
    """What an encoder's configuration, or another one that has `to_dict`, says of what it computes."""
    return {name: value for name, value in config.to_dict().items() if name not in _NOT_COMPUTED}


def hidden_width(config):
    """Width of an encoder's last hidden state, which transformers' configurations name in three ways."""
    for name in ("hidden_size", "hidden_sizes", "hidden_dim"):
        width = getattr(config, name, None)
        if width is not None:
            return width[-1] if isinstance(width, (list, tuple)) else width
    raise ValueError(f"a {config.model_type!r} configuration does not say how wide its last hidden state is")

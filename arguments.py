"""What train.py takes about the data and the model; that of the training is `VqaTrainingArguments`."""

import difflib
import json
from dataclasses import dataclass, field

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig

from vqafusion.data_prep.image_features import normalization

# Arguments that name or describe them, or what they are given.
ENCODERS = ("vision_model", "text_model", "vision_config", "text_config", "image_size")


@dataclass(kw_only=True)
class SourceArguments:
    """What train.py and eval.py both ask of the data."""

    dataset: str = field(
        metadata={"help": "easy_vqa, vqa_v2, own (your JSON Lines or CSV) or hub (parquet or WebDataset)"}
    )
    data_dir: str | None = field(
        default=None, metadata={"help": "folder of the data set, or its name on the Hub; easy_vqa needs none"}
    )
    skip_missing_images: bool = field(
        default=False, metadata={"help": "go on without the questions whose image is missing"}
    )
    preprocessing_num_workers: int = field(default=2, metadata={"help": "processes that encode questions and answers"})
    image_states_dir: str | None = field(
        default=None, metadata={"help": "store the frozen vision encoder's states there, once per image, and use them"}
    )


@dataclass(kw_only=True)
class DataArguments(SourceArguments):
    train_split: str | None = field(
        default=None,
        metadata={
            "help": "split to train on; of own data, the file's name; easy_vqa has train, vqa_v2 train2014 if not given"
        },
    )
    eval_split: str | None = field(
        default=None,
        metadata={"help": "split to choose the checkpoint on; easy_vqa has validation, vqa_v2 val2014 if not given"},
    )
    num_answers: int = field(default=1000, metadata={"help": "size of the answer vocabulary, at most"})
    answer_list: str | None = field(
        default=None,
        metadata={"help": "JSON list of answers to use as vocabulary instead, such as the published 3,129"},
    )
    streaming: bool = field(
        default=False,
        metadata={
            "help": "read the training split of hub data shard by shard, never all at once; needs --max_steps, and "
            "--save_strategy steps, --eval_strategy steps"
        },
    )
    max_train_samples: int | None = field(
        default=None, metadata={"help": "use at most so many questions, spread over the split"}
    )
    max_eval_samples: int | None = field(
        default=None, metadata={"help": "use at most so many questions, spread over the split"}
    )
    flip: bool = field(default=False, metadata={"help": "mirror images at random; not where left and right matter"})
    max_shift: int = field(default=0, metadata={"help": "move training images by up to so many pixels at random"})


@dataclass
class ModelArguments:
    vision_model: str = field(
        default="openai/clip-vit-base-patch32", metadata={"help": "vision encoder: name on the Hub or folder"}
    )
    text_model: str = field(
        default="distilbert/distilbert-base-uncased", metadata={"help": "text encoder: name on the Hub or folder"}
    )
    vision_config: dict | str | None = field(
        default=None, metadata={"help": "a configuration, as JSON, of a vision encoder to train from scratch instead"}
    )
    text_config: dict | str | None = field(
        default=None, metadata={"help": "the same for text; a WordPiece tokenizer is then learned from the questions"}
    )
    image_size: int | None = field(
        default=None,
        metadata={"help": "give the vision encoder images of N x N pixels, not of the size that its folder names"},
    )
    hidden_size: int = field(default=512, metadata={"help": "width of the fusion layers"})
    num_fusion_layers: int = field(default=3, metadata={"help": "number of fusion layers"})
    num_attention_heads: int = field(default=8, metadata={"help": "heads of each cross-attention"})
    intermediate_size: int = field(default=2048, metadata={"help": "width inside the feed-forward blocks"})
    dropout: float = field(default=0.1, metadata={"help": "dropout in fusion and head"})
    initializer_range: float = field(default=0.02, metadata={"help": "standard deviation of new weights"})
    image_pool_size: int | None = field(
        default=None, metadata={"help": "average the patch grid to N x N, if it is larger"}
    )
    color_levels: int | None = field(
        default=None,
        metadata={"help": "give each patch a histogram of its colours, of 2 to 16 levels of R, G and B"},
    )
    power_normalization: float = field(
        default=1.0, metadata={"help": "raise the image states' numbers to this power, from above 0 to 1"}
    )
    freeze_vision: bool = field(
        default=True, metadata={"help": "whether the vision encoder stays as it is, or is trained too"}
    )
    freeze_text: bool = field(default=False, metadata={"help": "do not train the text encoder"})
    frozen_text_layers: int = field(
        default=0, metadata={"help": "do not train the text encoder's embeddings and so many of its first layers"}
    )
    blind: bool = field(default=False, metadata={"help": "never look at the image: the baseline to beat"})
    answer_loss: str = field(default="bce", metadata={"help": "bce: sigmoid over soft targets; ce: softmax"})
    alignment_weight: float = field(
        default=0.0,
        metadata={"help": "above 0, let each word look for its patches first; weight of the loss that it learns with"},
    )
    attn_implementation: str | None = field(
        default=None,
        metadata={"help": "sdpa, or eager, faster for small models on CPU; default: sdpa wherever there is one"},
    )

    def fusion(self, image_processor):
        """The arguments that `VqaFusionConfig` takes under the same names, and what it must know of the pixels."""
        own = {name: value for name, value in vars(self).items() if name not in ENCODERS}
        return own | normalization(image_processor) if self.color_levels else own


def json_argument(arguments, name):
    """The value of an argument that is an object: as JSON on the command line, or as it is in a recipe."""
    value = getattr(arguments, name)
    try:
        value = json.loads(value) if isinstance(value, str) else value
        if value is not None and not isinstance(value, dict):
            raise ValueError(f"not an object: {value!r}")
    except ValueError as error:
        raise ValueError(f"--{name} must be a JSON object: {error}") from None
    return value


def encoder_config(model_arguments, name):
    """The configuration that `vision_config` or `text_config` gives, None if it is not given."""
    value = json_argument(model_arguments, name)
    try:
        if not value:
            return None
        config = AutoConfig.for_model(**value)
        known = dir(type(config)())
        for key in value:  # of a misspelled one transformers would say nothing; others are of its earlier versions
            if key not in known and (alike := difflib.get_close_matches(key, known, 1, 0.85)):
                raise ValueError(f"it has no {key}; did you mean {alike[0]}?")
        return config
    except StrictDataclassError as error:
        raise ValueError(f"--{name} is wrong: {error}") from None
    except (TypeError, ValueError) as error:
        raise ValueError(f"--{name} must have a known model_type, and values that it takes: {error}") from None

"""Saved models for this project's own scripts: the installed classes, never the code that lies in the folder."""

from contextlib import contextmanager
from pathlib import Path

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForVisualQuestionAnswering,
    AutoProcessor,
)

from .configuration_vqafusion import VqaFusionConfig
from .exported import FUSION, OnnxVqaFusion
from .modeling_vqafusion import VqaFusionForVisualQuestionAnswering, VqaFusionModel
from .processing_vqafusion import VqaFusionProcessor

VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt")  # of the tokenizer; one of them is there

# With these, the Auto classes need no `trust_remote_code` where the package is installed.
AutoConfig.register(VqaFusionConfig.model_type, VqaFusionConfig)
AutoModel.register(VqaFusionConfig, VqaFusionModel)
AutoModelForVisualQuestionAnswering.register(VqaFusionConfig, VqaFusionForVisualQuestionAnswering)
AutoProcessor.register(VqaFusionConfig, VqaFusionProcessor)


def load_model(name):
    """
    Args:
        name (`str`): a folder, or a name on the Hub.

    Returns:
        `(processor, model)`, the model in eval mode; of a folder that export.py wrote, an [`OnnxVqaFusion`].

    Raises:
        ValueError: the folder or repository holds no VQAFusion model, or a damaged one.
        HubError: there is no such repository, or it cannot be fetched; the message says what to do.
    """
    name = name if Path(name).is_dir() else _fetched(name)
    if not (Path(name) / "config.json").exists():
        raise ValueError(f"{name} holds no model: there is no config.json in it")
    own_code = {"trust_remote_code": False}  # left out, transformers asks on the terminal whether to run the folder's
    with _reading(f"config.json in {name}"):
        config = AutoConfig.from_pretrained(name, **own_code)
    if config.model_type != VqaFusionConfig.model_type:
        raise ValueError(f"{name} is a {config.model_type!r} model, not a VQAFusion model")
    if not any((Path(name) / file).exists() for file in VOCABULARIES):  # transformers may go on without any word
        raise ValueError(f"{VOCABULARIES[0]} is missing in {name}: copy the folder again")
    with _reading(f"the processor in {name}"):
        processor = VqaFusionProcessor.from_pretrained(name, **own_code)
    if (Path(name) / FUSION).exists():
        return processor, OnnxVqaFusion(config, name).eval()
    with _reading(f"the weights in {name}"):
        model, found = VqaFusionForVisualQuestionAnswering.from_pretrained(name, output_loading_info=True, **own_code)
    # transformers would go on with weights drawn by chance. Early versions did not save the last named.
    if lacking := [key for key in sorted(found["missing_keys"]) if not key.startswith("shown_answers.")]:
        raise ValueError(f"the weights in {name} lack {len(lacking)} of the model, such as {lacking[0]}")
    if unknown := sorted(found["unexpected_keys"]):  # whose configuration is another one
        raise ValueError(
            f"{name}: its config.json knows nothing of {len(unknown)} of its weights, such as {unknown[0]}"
        )
    return processor, model.eval()


@contextmanager
def _reading(what):
    """A damaged file makes transformers, and what it reads with, raise all kinds: as a `ValueError` that says where."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        raise ValueError(f"{what} cannot be loaded ({error}); is the folder whole?") from None


def _fetched(name):
    """The folder in the cache with a repository's weights and settings, without its code."""
    from huggingface_hub import snapshot_download

    from .sharing.retries import HubError, check_repo, patiently

    if name.count("/") != 1 or name.startswith(("/", ".")):
        raise ValueError(f"{name} is neither a folder nor a name on the Hub (user/name)")
    check_repo(name)
    wanted = ["*.json", "*.safetensors", "*.txt", "*.onnx"]
    try:
        return patiently(name, snapshot_download, name, allow_patterns=wanted)
    except HubError as error:
        raise HubError(f"there is no folder {name} here, and from the Hub: {error}") from None

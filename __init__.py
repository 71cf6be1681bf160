"""VQAFusion: ask a picture a question, get ranked answers and where the model looked."""

from importlib import import_module

_MODULES = {
    "VqaFusionConfig": "configuration_vqafusion",
    "VqaFusionModel": "modeling_vqafusion",
    "VqaFusionForVisualQuestionAnswering": "modeling_vqafusion",
    "VqaFusionProcessor": "processing_vqafusion",
    "VqaFusionPipeline": "pipeline_vqafusion",
    "load_model": "loading",
    "load_split": "data_prep",
    "build_vocabulary": "data_prep.answers",
    "encode": "data_prep.encode",
    "VqaCollator": "data_prep.encode",
    "cache_image_states": "data_prep.image_features",
    "VqaTrainer": "trainer",
    "VqaTrainingArguments": "trainer",
}
__all__ = list(_MODULES)


def __dir__():
    return sorted({*globals(), *__all__})


def __getattr__(name):
    """Public names are imported on first use, so that `import vqafusion` does not wait for torch."""
    if name not in _MODULES:
        raise AttributeError(f"module 'vqafusion' has no attribute {name!r}")
    import_module(".loading", __name__)  # registers the Auto classes
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)

"""A model that export.py wrote, run by ONNX Runtime: the calls of the PyTorch model, for infer.py and eval.py."""

import hashlib
from pathlib import Path

import torch
from torch import nn

from .modeling_vqafusion import (
    VqaFusionForVisualQuestionAnswering,
    VqaFusionModel,
    VqaFusionOutput,
    VqaFusionPreTrainedModel,
)

VISION, FUSION = "vision.onnx", "fusion.onnx"
PARTS = {  # inputs and output of each part
    VISION: (["pixel_values"], "image_states"),
    FUSION: (["input_ids", "attention_mask", "image_states", "image_index"], "logits"),
}


class OnnxVqaFusion(VqaFusionPreTrainedModel):
    """
    Answers as [`VqaFusionForVisualQuestionAnswering`] does, on the CPU, without gradients and attention weights.

    Args:
        config (`VqaFusionConfig`): of the model that was exported.
        folder: with `vision.onnx` and `fusion.onnx`.

    Raises:
        ValueError: a file that ONNX Runtime cannot run.
        ImportError: ONNX Runtime is not installed.
    """

    def __init__(self, config, folder):
        super().__init__(config)
        self.folder = Path(folder)
        self.sessions = {name: _session(self.folder / name) for name in PARTS}

    device, dtype = (
        torch.device("cpu"),
        torch.float32,
    )  # transformers reads them off the parameters, of which it has none
    probabilities = VqaFusionForVisualQuestionAnswering.probabilities
    pool_grid = VqaFusionModel.pool_grid

    @property
    def vqafusion(self):
        """What encodes images, as of the PyTorch model."""
        return self

    @property
    def vision_model(self):
        """Stands for the encoder's weights where stored states are named by them."""
        digest = hashlib.sha256((self.folder / VISION).read_bytes()).digest()
        stand_in = nn.Module()
        stand_in.register_buffer("digest", torch.frombuffer(bytearray(digest), dtype=torch.uint8))
        return stand_in

    def save_pretrained(self, *args, **kwargs):
        """Not of an exported model: raises `ValueError`."""
        raise ValueError("an exported model cannot be saved or pushed; take the one that it was exported from")

    def encode_image(self, pixel_values):
        """
        Args:
            pixel_values: `(images, 3, height, width)`, of the size that the encoder was exported with.

        Returns:
            `(images, patches, vision width)`, averaged to `config.image_pool_size` already.
        """
        return self._run(VISION, pixel_values=pixel_values.float())

    def forward(self, input_ids, attention_mask=None, pixel_values=None, image_states=None, image_index=None):
        """As [`VqaFusionForVisualQuestionAnswering`], without labels and attention weights."""
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        if image_states is None:
            image_states = self.encode_image(pixel_values)
        if image_index is None:
            image_index = torch.arange(len(input_ids)) % len(image_states)
        return VqaFusionOutput(
            logits=self._run(
                FUSION,
                input_ids=input_ids,
                attention_mask=attention_mask,
                image_states=image_states.float(),
                image_index=image_index,
            )
        )

    def _run(self, part, **inputs):
        feeds = {name: tensor.contiguous().numpy() for name, tensor in inputs.items()}
        return torch.from_numpy(self.sessions[part].run(None, feeds)[0])


def _session(file):
    try:
        import onnxruntime
    except ImportError:
        raise ImportError(f"{file} is run by ONNX Runtime: pip install 'vqafusion[onnx]'") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own classes, which share no other base
        raise ValueError(f"{file} cannot be run: {' '.join(str(error).split())[:300]}") from None

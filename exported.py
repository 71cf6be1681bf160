"""A model that export.py wrote, run without PyTorch: the calls of the PyTorch model, for infer.py and eval.py."""

import hashlib
import importlib.util
import threading
from pathlib import Path

import torch
from torch import nn

from .command_line import read_json
from .modeling_vqafusion import (
    VqaFusionForVisualQuestionAnswering,
    VqaFusionOutput,
    VqaFusionPreTrainedModel,
    image_of_each,
)

VISION, FUSION, EXPORT = "vision.onnx", "fusion.onnx", "export.json"
PARTS = {  # inputs and output of each part
    VISION: (["pixel_values"], "image_states"),
    FUSION: (["input_ids", "attention_mask", "image_states", "image_index"], "logits"),
}


class OnnxVqaFusion(VqaFusionPreTrainedModel):
    """
    Answers as [`VqaFusionForVisualQuestionAnswering`] does, on the CPU, without gradients and attention weights.

    Args:
        config (`VqaFusionConfig`): of the model that was exported.
        folder: with `vision.onnx`, `fusion.onnx`, and `export.json`, which says whether they are in 8 bits.

    Raises:
        ValueError: a file that cannot be read or run, or nothing installed that runs it.
    """

    def __init__(self, config, folder):
        super().__init__(config)
        self.folder = Path(folder)
        try:
            int8 = read_json(self.folder / EXPORT)["int8"]
        except (OSError, ValueError, TypeError, KeyError):
            raise ValueError(f"{self.folder / EXPORT} is not as vqafusion-export writes it; export anew") from None
        self.sessions = {name: _session(self.folder / name, int8) for name in PARTS}

    # transformers reads these off the parameters, of which there are none.
    device = torch.device("cpu")
    dtype = torch.float32
    probabilities = VqaFusionForVisualQuestionAnswering.probabilities
    ranked_answers = VqaFusionForVisualQuestionAnswering.ranked_answers

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
            `(images, patches, vision width)`, as of [`VqaFusionModel`].
        """
        return self._run(VISION, pixel_values=pixel_values.float())

    def forward(self, input_ids, attention_mask=None, pixel_values=None, image_states=None, image_index=None):
        """As [`VqaFusionForVisualQuestionAnswering`], without labels and attention weights."""
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        if image_states is None:
            image_states = self.encode_image(pixel_values)
        if image_index is None:
            image_index = image_of_each(len(input_ids), len(image_states))
        elif not ((image_index >= 0) & (image_index < len(image_states))).all():
            raise ValueError(f"image_index must be from 0 to {len(image_states) - 1}: {image_index.tolist()}")
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
        feeds = {name: tensor.cpu().contiguous().numpy() for name, tensor in inputs.items()}
        return torch.from_numpy(self.sessions[part].run(feeds))


class OpenVinoSession:
    """A part in OpenVINO, which multiplies the few rows of one image and question faster than ONNX Runtime does."""

    def __init__(self, file):
        import openvino

        core = openvino.Core()
        # Not bfloat16, which it takes by default where the processor has it.
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        self.model = core.compile_model(file, "CPU", {"PERFORMANCE_HINT": "LATENCY", **settings})
        self.requests = threading.local()  # one request answers one thread at a time

    def run(self, feeds):
        if not hasattr(self.requests, "own"):
            self.requests.own = self.model.create_infer_request()
        return self.requests.own.infer(feeds)[0]


class OnnxRuntimeSession:
    """A part in ONNX Runtime, which has fast products of 8-bit numbers."""

    def __init__(self, file):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        # Else the threads of one part take processor time for a while after its answer, while the other part works.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])

    def run(self, feeds):
        return self.session.run(None, feeds)[0]


def _session(file, int8):
    faster = OnnxRuntimeSession if int8 or importlib.util.find_spec("openvino") is None else OpenVinoSession
    try:
        return faster(file)
    except ImportError:
        raise ValueError(f"{file} is run by ONNX Runtime: pip install 'vqafusion[onnx]'") from None
    except Exception as error:  # each runtime's own classes, which share no other base
        raise ValueError(f"{file} cannot be run: {' '.join(str(error).split())[:300]}") from None

"""Write a trained model as ONNX, for fast answers on a CPU; infer.py and eval.py take the folder as a model.

python export.py runs/demo/model runs/demo/onnx --format onnx [--int8]

Two files: vision.onnx makes the states of an image, fusion.onnx answers any number of questions about them.
"""

import argparse
import copy
import logging
import os
import shutil
import tempfile
import warnings
from contextlib import contextmanager
from pathlib import Path

import torch
from PIL import Image
from torch import nn
from torch.export import Dim

from vqafusion.command_line import one_line_errors, whole_file, writable_folder, write_json
from vqafusion.exported import EXPORT, FUSION, PARTS, VISION, OnnxVqaFusion
from vqafusion.loading import load_model

TOLERANCE = 1e-3  # of a logit, in float32; more is an error of the export


def arguments():
    parser = argparse.ArgumentParser(description="Write a trained model for fast answers on a CPU.")
    parser.add_argument("model", help="name on the Hub or folder")
    parser.add_argument("output", help="new folder for the exported model")
    parser.add_argument("--format", choices=["onnx"], default="onnx", help="the one there is")
    parser.add_argument("--int8", action="store_true", help="quantise dynamically to 8 bits")
    return parser


@one_line_errors
def main(argv=None):
    args = arguments().parse_args(argv)
    output = Path(args.output).resolve()
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"{args.output} is there already and not an empty folder; name a new one")
    _check_installed()
    writable_folder(output.parent)
    processor, model = load_model(args.model)
    model = model.float()  # whatever it was saved in
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as folder:
        folder = Path(folder) / "export"
        export_onnx(model, processor, folder, args.int8)
        made = Path(model.config.name_or_path) / "training.json"  # from which eval.py knows what it was chosen on
        if made.is_file():
            shutil.copyfile(made, folder / made.name)
        if output.exists():  # empty, and not to be replaced on Windows
            output.rmdir()
        os.replace(folder, output)
    size = sum(file.stat().st_size for file in output.iterdir()) / 1e6
    print(f"written: {output} ({size:,.0f} MB); as a model: python infer.py --model {args.output} …")


def _check_installed():
    try:
        import onnxruntime.quantization  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ValueError(f"export needs ONNX: pip install 'vqafusion[onnx]' ({error})") from None


def export_onnx(model, processor, folder, int8=False):
    """
    Args:
        model: a [`VqaFusionForVisualQuestionAnswering`] in eval mode; processor: its [`VqaFusionProcessor`].
        folder: a new one; it gets `vision.onnx`, `fusion.onnx`, `export.json`, the configuration and the processor.
        int8 (`bool`): weights of the linear layers in 8 bits.

    Raises:
        ValueError: a model that cannot be exported, or an export whose logits are not the model's.
    """
    if isinstance(model, OnnxVqaFusion):
        raise ValueError("the model is an exported one already; export the one that was trained")
    if model.config.blind:
        raise ValueError("the model is blind: it has no vision part to export")
    folder.mkdir(parents=True)
    config = copy.deepcopy(model.config)
    for name in ("auto_map", "custom_pipelines"):  # of the classes that read a folder with weights and code
        vars(config).pop(name, None)
    config.save_pretrained(folder)
    processor.save_pretrained(folder)
    # Two images and three questions of different lengths: a count of one would be taken for a constant.
    pictures = [Image.radial_gradient("L").convert("RGB"), Image.linear_gradient("L").convert("RGB")]
    inputs = dict(
        processor(images=pictures, text=["what is this?", "is it red?", "how many are there in the picture?"])
    )
    inputs["image_index"] = torch.tensor([0, 1, 1])
    with torch.no_grad():
        expected = model(**inputs).logits
        pixels = inputs.pop("pixel_values")
        vision = Vision(model.vqafusion).eval()
        inputs["image_states"] = vision(pixels)
        images, batch, length = Dim("images"), Dim("batch"), Dim("question", min=2)
        _write(folder / VISION, vision, {"pixel_values": pixels}, {"pixel_values": {0: images}})
        axes = {"input_ids": {0: batch, 1: length}, "attention_mask": {0: batch, 1: length}}
        axes |= {"image_states": {0: images}, "image_index": {0: batch}}
        _write(folder / FUSION, Fusion(model).eval(), {name: inputs[name] for name in axes}, axes)
        write_json(folder / EXPORT, {"format": "onnx", "int8": False})
        exported = OnnxVqaFusion(config, folder)
        found = exported(
            inputs["input_ids"], inputs["attention_mask"], pixels, image_index=inputs["image_index"]
        ).logits
    difference = (found - expected).abs().max().item()
    if not difference <= TOLERANCE:
        raise ValueError(f"the exported model's logits differ by {difference:.2g} from the model's: it is not kept")
    if int8:
        _quantize(folder / VISION)
        _quantize(folder / FUSION)
        write_json(folder / EXPORT, {"format": "onnx", "int8": True})


class Vision(nn.Module):
    """From pixels to what the fusion reads of an image."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, pixel_values):
        return self.model.encode_image(pixel_values)


class Fusion(nn.Module):
    """From an image's states and a question to the logits."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask, image_states, image_index):
        return self.model(input_ids, attention_mask, image_states=image_states, image_index=image_index).logits


def _write(file, module, inputs, axes):
    """One part as an ONNX file; `axes` names the sizes that stay free."""
    if sum(tensor.nbytes for tensor in module.state_dict().values()) >= 2**31:
        raise ValueError(f"{file.name} would have more than 2 GiB, which an ONNX file cannot hold")
    names, output = PARTS[file.name]
    with _quietly():
        torch.onnx.export(
            module, kwargs=inputs, f=file, input_names=names, output_names=[output], dynamic_shapes=axes,
            dynamo=True, external_data=False, verbose=False,
        )  # fmt: skip


@contextmanager
def _quietly():
    """Without what the exporters say of their own inside, and of torchvision, which nothing here needs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


def _quantize(file):
    """
    Linear layers in 8 bits, each output with a scale of its own. Convolutions stay as they are: ONNX Runtime's 8-bit
    ones are slower on a CPU.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with whole_file(file) as temporary, _quietly():
        quantize_dynamic(
            file, temporary, op_types_to_quantize=["MatMul", "Gemm"], per_channel=True, weight_type=QuantType.QInt8
        )


if __name__ == "__main__":
    main()

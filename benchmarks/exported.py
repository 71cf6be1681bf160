"""An exported model beside PyTorch: questions per second of ONNX and of its 8-bit form.

python benchmarks/exported.py

CLIP ViT-B/32 and DistilBERT sizes, random weights, questions of 9 tokens; `pytorch` is the model as `from_pretrained`
gives it, `packed` after `vqafusion.packing.pack`. What the export costs in accuracy, eval.py measures on its folder.
"""

import copy
import tempfile
from pathlib import Path

import torch
from models import picture, question, vilt_inputs, vilt_model, vqafusion_model
from results import arguments, rates, ratios_shown, record, sides_shown, take_turns, times_as_fast
from transformers import CLIPImageProcessorPil

from vqafusion import VqaFusionProcessor, load_model
from vqafusion.command_line import keep_freed_memory, peak_memory
from vqafusion.data_prep.encode import train_tokenizer
from vqafusion.export import export_onnx
from vqafusion.packing import pack

OTHERS = ("pytorch", "packed", "vilt")


def main(argv=None):
    parser = arguments(__doc__, "exported")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    args = parser.parse_args(argv)
    keep_freed_memory()
    model, vilt = vqafusion_model(), vilt_model()
    models = {"pytorch": model, "packed": pack(copy.deepcopy(model))}
    sizes = {"pytorch": sum(p.nbytes for p in model.parameters()) / 1e6}
    with tempfile.TemporaryDirectory() as folder:
        processor = VqaFusionProcessor(CLIPImageProcessorPil(), train_tokenizer(["what is this?"]))
        for name, int8 in (("onnx", False), ("int8", True)):
            part = Path(folder) / name
            export_onnx(model, processor, part, int8)
            models[name] = load_model(str(part))[1]
            sizes[name] = sum(file.stat().st_size for file in part.glob("*.onnx")) / 1e6
    result, lines = {"megabytes": {name: round(size) for name, size in sizes.items()}, "cases": {}}, []
    with torch.inference_mode():
        for batch in args.batches:
            sides = {
                name: (lambda model=model, n=batch: model(**question(n), pixel_values=picture(n)))
                for name, model in models.items()
            }
            sides["vilt"] = lambda n=batch: vilt(**vilt_inputs(n))
            seconds = take_turns(sides, args.rounds, repeats=4 if batch == 1 else 1)
            speeds = rates(seconds, batch)
            ratios = {
                name: {other: times_as_fast(seconds, name, other) for other in OTHERS} for name in ("onnx", "int8")
            }
            result["cases"][f"batch {batch}"] = {"questions_per_second": speeds, "times_as_fast_as": ratios}
            said = "; ".join(f"{name}: {ratios_shown(others)}" for name, others in ratios.items())
            lines.append((f"batch {batch}", sides_shown(speeds), said))
    result["peak_memory_gib"] = peak_memory()
    record(args, "exported", result, lines)


if __name__ == "__main__":
    main()

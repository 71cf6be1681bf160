"""How soon things are there: the package, a script's help, the first answer of a saved model.

python benchmarks/start_up.py

CPU seconds of `import vqafusion` and `vqafusion-infer --help`, each a process of its own; and wall-clock seconds of
infer.py on a saved CLIP ViT-B/32 and DistilBERT model, beside a process that imports torch and transformers (with what
any model of theirs needs) and makes one forward pass with random weights that are there already.
"""

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from models import picture, question, vqafusion_model
from PIL import Image
from results import arguments, record, shown, spread
from transformers import CLIPImageProcessorPil

from vqafusion import VqaFusionProcessor
from vqafusion.command_line import keep_freed_memory
from vqafusion.data_prep.encode import train_tokenizer

ROOT = Path(__file__).resolve().parent.parent
IMPORTS = "import torch, transformers; from transformers import AutoModel, AutoTokenizer, AutoImageProcessor, Pipeline"


def run(*command):
    """Wall-clock and CPU seconds of a process."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *map(str, command)], check=True, capture_output=True, cwd=ROOT)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter() - start, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main(argv=None):
    parser = arguments(__doc__, "start_up")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args(argv)
    keep_freed_memory()
    model = vqafusion_model()
    inputs = {**question(1), "pixel_values": picture(1)}
    passes = []
    for _ in range(5):
        start = time.perf_counter()
        model(**inputs)
        passes.append(time.perf_counter() - start)
    forward = statistics.median(passes)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        model.save_pretrained(folder / "model")
        VqaFusionProcessor(CLIPImageProcessorPil(), train_tokenizer(["what is this?"])).save_pretrained(
            folder / "model"
        )
        pixels = np.random.default_rng(0).integers(0, 255, (480, 640, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "photo.jpg")
        ask = ("infer.py", "--model", folder / "model", "--image", folder / "photo.jpg", "--question", "what is this?")
        commands = {
            "python": ("-c", "pass"),
            "import vqafusion": ("-c", "import vqafusion"),
            "infer.py --help": ("infer.py", "--help"),
            "first answer": ask,
            "imports alone": ("-c", "import torch, transformers"),
            "imports of any model": ("-c", IMPORTS),
        }
        seconds = {name: [] for name in commands}
        for turn in range(args.rounds + 1):
            for name, command in commands.items():
                found = run(*command)
                if turn:
                    seconds[name].append(found)
    wall = {name: spread([each[0] for each in values]) for name, values in seconds.items()}
    cpu = {name: spread([each[1] for each in values]) for name, values in seconds.items()}
    ratios = {}
    for name in ("imports alone", "imports of any model"):
        each = [a[0] / (b[0] + forward) for a, b in zip(seconds["first answer"], seconds[name])]
        ratios[name] = round(statistics.median(each), 2)
    result = {
        "wall_seconds": wall,
        "cpu_seconds": cpu,
        "forward_seconds": round(forward, 3),
        "first_answer_over": ratios,
    }
    said = ", ".join(f"{value} × {name} and a forward pass" for name, value in ratios.items())
    lines = [
        (
            "import vqafusion, CPU time",
            shown(cpu["import vqafusion"], " s"),
            f"bare python {shown(cpu['python'], ' s')}",
        ),
        ("infer.py --help, CPU time", shown(cpu["infer.py --help"], " s"), ""),
        ("first answer of a saved model", shown(wall["first answer"], " s"), said),
    ]
    record(args, "start_up", result, lines)


if __name__ == "__main__":
    main()

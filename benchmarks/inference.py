"""Questions per second of VQAFusion beside ViLT and BLIP, and its share of the machine's matrix-product rate.

python benchmarks/inference.py [--dtype bfloat16]

CLIP ViT-B/32 and DistilBERT (224 × 224 pixels), ViLT-B/32 (384 × 512), BLIP-base (384 × 384, answers of one token and
the end), random weights, questions of 9 tokens, the same threads. `packed` is VQAFusion after `vqafusion.packing.pack`,
as the page answers; `plain` as `from_pretrained` gives it.
"""

import copy
import statistics
import time

import torch
from models import blip_inputs, blip_model, picture, question, vilt_inputs, vilt_model, vqafusion_model
from results import arguments, rates, ratios_shown, record, sides_shown, take_turns, times_as_fast
from torch.utils.flop_counter import FlopCounterMode

from vqafusion.command_line import keep_freed_memory, peak_memory
from vqafusion.packing import pack

SIDE = 4096  # of the machine's matrices


def build(dtype, layers=None):
    """`{name: function (questions, images) -> answers}`; each question is about one of the images."""
    plain = vqafusion_model(layers).to(dtype)
    packed = pack(copy.deepcopy(plain))
    vilt, blip = vilt_model(layers).to(dtype), blip_model(layers).to(dtype)

    def answer(model):
        def function(batch, images):
            index = torch.arange(batch) % images
            return model(**question(batch), pixel_values=picture(images, dtype), image_index=index).logits

        return function

    return {
        "packed": answer(packed),
        "plain": answer(plain),
        "vilt": lambda batch, images: vilt(**vilt_inputs(batch, dtype)).logits,
        "blip": lambda batch, images: blip.generate(**blip_inputs(batch, dtype), max_new_tokens=2, min_new_tokens=2),
    }


def matrix_rate(dtype):
    """A function that multiplies two large matrices, and how many operations that is."""
    left, right = (torch.randn(SIDE, SIDE, dtype=dtype) for _ in range(2))
    return lambda: left @ right, 2 * SIDE**3


def operations_of(call):
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def measure(sides, questions, images, dtype, rounds):
    multiply, product = matrix_rate(dtype)
    calls = {name: (lambda side=side: side(questions, images)) for name, side in sides.items()}
    work = {name: operations_of(call) for name, call in calls.items() if name != "packed"}  # whose it cannot count
    seconds = take_turns({**calls, "matrix": multiply}, rounds)
    rate = product / statistics.median(seconds.pop("matrix"))
    return {
        "questions_per_second": rates(seconds, questions),
        "times_as_fast_as": {
            name: {other: times_as_fast(seconds, name, other) for other in seconds if other not in ("packed", "plain")}
            for name in ("packed", "plain")
        },
        "gflop_per_question": {name: round(each / questions / 1e9, 2) for name, each in work.items()},
        "matrix_gflop_per_second": round(rate / 1e9, 1),
        "share_of_matrix_rate": {
            name: round(work["plain"] / statistics.median(seconds[name]) / rate, 2) for name in ("packed", "plain")
        },
    }  # fmt: skip


def main(argv=None):
    parser = arguments(__doc__, "inference")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 8, 32])
    parser.add_argument("--questions", type=int, nargs="*", default=[1, 10, 100], help="about one image")
    parser.add_argument("--layers", type=int, help="of every encoder; default: those of the models' own sizes")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    args = parser.parse_args(argv)
    if args.table and args.dtype != "float32":
        parser.error("--table is for float32, whose lines it would replace")
    keep_freed_memory()
    dtype = getattr(torch, args.dtype)
    sides = build(dtype, args.layers)
    without_blip = {name: side for name, side in sides.items() if name != "blip"}
    cases = [(f"batch {n}", sides, n, n) for n in args.batches]
    cases += [(f"one image, {n} questions", without_blip, n, 1) for n in args.questions]
    result = {"dtype": args.dtype, "threads": torch.get_num_threads(), "cases": {}}
    lines, start = [], time.perf_counter()
    with torch.inference_mode():
        for case, functions, questions, images in cases:
            rounds = args.rounds * (3 if questions == 1 else 1)  # short ones vary more
            found = measure(functions, questions, images, dtype, rounds)
            result["cases"][case] = found
            print(f"{time.perf_counter() - start:.0f} s: {case}: {found}", flush=True)
            share = found["share_of_matrix_rate"]
            said = "; ".join(
                f"{name}: {ratios_shown(others)}, {share[name]:.0%} of matrix rate"
                for name, others in found["times_as_fast_as"].items()
            )
            lines.append((case, sides_shown(found["questions_per_second"]), said))
    result["peak_memory_gib"] = peak_memory()
    record(args, "inference", result, lines)


if __name__ == "__main__":
    main()

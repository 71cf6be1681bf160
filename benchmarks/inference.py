"""Questions per second of VQAFusion beside ViLT and BLIP, and of the rate that the machine's matrix product allows.

python benchmarks/inference.py [--dtype bfloat16]

VQAFusion of CLIP ViT-B/32 and DistilBERT (224 × 224 pixels), ViLT-B/32 (384 × 512), BLIP-base (384 × 384, an answer of
one token and the end), random weights, questions of 9 tokens, the same threads; the sides take turns in every round.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    BlipConfig,
    BlipForQuestionAnswering,
    CLIPVisionConfig,
    DistilBertConfig,
    ViltConfig,
    ViltForQuestionAnswering,
)

from vqafusion import VqaFusionConfig, VqaFusionForVisualQuestionAnswering
from vqafusion.command_line import keep_freed_memory, peak_memory, write_json

TOKENS, SIDE = 9, 4096  # of a question; of the machine's matrices


def build(dtype):
    """`{name: function of the batch size that answers as many questions about as many images}`."""
    torch.manual_seed(0)
    answers = {"id2label": {n: str(n) for n in range(1000)}, "label2id": {str(n): n for n in range(1000)}}
    vision, text = CLIPVisionConfig(patch_size=32), DistilBertConfig()
    ours = VqaFusionForVisualQuestionAnswering(VqaFusionConfig(vision_config=vision, text_config=text, **answers))
    vilt = ViltForQuestionAnswering(ViltConfig(num_labels=3129))
    blip = BlipForQuestionAnswering(BlipConfig(vision_config={"image_size": 384}))
    for model in (ours, vilt, blip):
        model.to(dtype).eval()

    def question(batch):
        return {
            "input_ids": torch.randint(1000, 20000, (batch, TOKENS)),
            "attention_mask": torch.ones(batch, TOKENS).long(),
        }

    def answer(batch, images=None):
        images = images or batch
        pixels = torch.randn(images, 3, 224, 224, dtype=dtype)
        index = torch.arange(batch) % images
        return ours(**question(batch), pixel_values=pixels, image_index=index).logits

    def answer_vilt(batch):
        pixels, mask = torch.randn(batch, 3, 384, 512, dtype=dtype), torch.ones(batch, 384, 512).long()
        return vilt(**question(batch), pixel_values=pixels, pixel_mask=mask).logits

    def answer_blip(batch):
        pixels = torch.randn(batch, 3, 384, 384, dtype=dtype)
        return blip.generate(**question(batch), pixel_values=pixels, max_new_tokens=2, min_new_tokens=2)

    return {"vqafusion": answer, "vilt": answer_vilt, "blip": answer_blip}


def matrix_rate(dtype, repeats=3):
    """Operations per second of the machine's own large matrix product."""
    left, right = (torch.randn(SIDE, SIDE, dtype=dtype) for _ in range(2))
    best = 0
    for _ in range(repeats):
        start = time.perf_counter()
        left @ right
        best = max(best, 2 * SIDE**3 / (time.perf_counter() - start))
    return best


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--questions", type=int, nargs="+", default=[1, 10, 100], help="about one image")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--output", default="runs/inference.json")
    args = parser.parse_args(argv)
    keep_freed_memory()
    dtype = getattr(torch, args.dtype)
    sides = build(dtype)
    cases = {
        f"batch {n}": {name: (lambda side=side, n=n: side(n)) for name, side in sides.items()} for n in args.batches
    }
    for n in args.questions:
        several = {"vqafusion": lambda n=n: sides["vqafusion"](n, images=1), "vilt": lambda n=n: sides["vilt"](n)}
        cases[f"one image, {n} questions"] = several
    result = {"dtype": args.dtype, "threads": torch.get_num_threads(), "cases": {}}
    with torch.inference_mode():
        for case, functions in cases.items():
            questions = next(int(word) for word in case.replace(",", "").split() if word.isdigit())
            seconds, peaks = {name: [] for name in functions}, []
            for turn in range(args.rounds + 1):
                for name, function in functions.items():
                    times = 5 if questions == 1 and name != "blip" else 1
                    start = time.perf_counter()
                    for _ in range(times):
                        function()
                    if turn:  # the first round warms up
                        seconds[name].append((time.perf_counter() - start) / times)
                peaks.append(matrix_rate(dtype))
            with FlopCounterMode(display=False) as counter:
                functions["vqafusion"]()
            median = {name: statistics.median(values) for name, values in seconds.items()}
            result["cases"][case] = {
                "questions_per_second": {name: round(questions / value, 2) for name, value in median.items()},
                "spread": {
                    name: [round(questions / slowest, 2) for slowest in (max(values), min(values))]
                    for name, values in seconds.items()
                },
                "times_as_fast_as": {
                    name: round(statistics.median(b / a for a, b in zip(seconds["vqafusion"], seconds[name])), 2)
                    for name in functions if name != "vqafusion"
                },
                "gflop_per_question": round(counter.get_total_flops() / questions / 1e9, 2),
                "share_of_matrix_rate": round(
                    counter.get_total_flops() / median["vqafusion"] / statistics.median(peaks), 3
                ),
            }  # fmt: skip
            print(case, json.dumps(result["cases"][case]), flush=True)
    result["peak_memory_gib"] = peak_memory()
    Path(args.output).parent.mkdir(parents=True, exist_ok=True)
    write_json(args.output, result)


if __name__ == "__main__":
    main()

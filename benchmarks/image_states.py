"""What storing the vision encoder's states costs and saves.

python benchmarks/image_states.py --data_dir DATA --split minitrain2014 --vision_model DIR --text_model DIR

Two ratios, each from sides that take turns in one run:
- images per second of storing states (reading, decoding, encoding, writing) against the bare encoder on tensors that
  are in memory already, at its best batch size and memory format;
- seconds of a training step of the mini recipe from stored states against one that encodes the pixels.
"""

import json
import statistics
import tempfile
import time
from itertools import product
from pathlib import Path

import torch
from results import arguments, record, shown, spread

from vqafusion.arguments import DataArguments, ModelArguments
from vqafusion.command_line import keep_freed_memory, parse
from vqafusion.data_prep import load_split
from vqafusion.data_prep.encode import VqaCollator, encode
from vqafusion.data_prep.image_features import cache_image_states, pixel_values
from vqafusion.data_prep.sampling import QuestionSampler
from vqafusion.train import build
from vqafusion.trainer import VqaTrainingArguments

RECIPE = Path(__file__).resolve().parent.parent / "recipes" / "vqa_v2_mini.yaml"


def bare_rate(encoder, pixels, batch, memory_format, seconds):
    """Images per second of the encoder alone."""
    encoder.to(memory_format=memory_format)
    batches = [part.contiguous(memory_format=memory_format) for part in pixels.split(batch)]
    done, start = 0, time.perf_counter()
    with torch.inference_mode():
        while time.perf_counter() - start < seconds:
            done += len(encoder(batches[done // batch % len(batches)]).last_hidden_state)
    return done / (time.perf_counter() - start)


def storing_rate(model, image_processor, rows):
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        states = cache_image_states(rows, model, image_processor, folder)
        return len(states) / (time.perf_counter() - start)


def step_seconds(model, collator, batches):
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5, fused=True)
    start = time.perf_counter()
    for rows in batches:
        with torch.autocast("cpu", torch.bfloat16, enabled=bool(torch.cpu.get_capabilities().get("avx512_bf16"))):
            loss = model(**collator(rows)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return (time.perf_counter() - start) / len(batches)


def main(argv=None):
    parser = arguments(__doc__, "image_states")
    for name in ("data_dir", "split", "vision_model", "text_model"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=3072, help="stored in each round")
    parser.add_argument("--steps", type=int, default=8, help="training steps of each side in each round")
    parser.add_argument("--seconds", type=float, default=10, help="of the bare encoder in each round")
    parser.add_argument("--batch_size", type=int, help="questions per training step; default: the recipe's")
    args = parser.parse_args(argv)
    keep_freed_memory()
    own = [f"--{name}={getattr(args, name)}" for name in ("data_dir", "vision_model", "text_model")]
    data, model_arguments, training = parse(
        [str(RECIPE), *own, "--output_dir=unused"], __doc__, DataArguments, ModelArguments, VqaTrainingArguments
    )
    rows = load_split("vqa_v2", args.split, args.data_dir)
    images = set(list(dict.fromkeys(rows["image_id"][:]))[: args.images])
    rows = rows.select([i for i, image_id in enumerate(rows["image_id"][:]) if image_id in images])
    processor, model = build(data, model_arguments, rows)
    core = model.vqafusion

    first = rows.select(range(min(128, len(rows))))
    pixels = pixel_values([row["image"] for row in first], processor.image_processor)
    formats = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
    rates = {
        (batch, name): bare_rate(core.vision_model, pixels, batch, formats[name], args.seconds / 3)
        for batch, name in product((4, 8, 16, 32), formats)
    }
    best = max(rates, key=rates.get)
    bare, storing = [], []
    for _ in range(args.rounds):
        bare.append(bare_rate(core.vision_model, pixels, best[0], formats[best[1]], args.seconds))
        storing.append(storing_rate(core, processor.image_processor, rows))

    encoded = encode(rows, processor.tokenizer, model.config.label2id)
    size = args.batch_size or training.per_device_train_batch_size
    order = list(QuestionSampler(encoded, size, seed=0, group_by_length=True))  # as the recipe does
    batches = [[encoded[i] for i in order[at : at + size]] for at in range(0, len(order), size)][: args.steps]
    plain = VqaCollator(processor, model.config.num_labels)
    from_pixels, from_states = [], []
    with tempfile.TemporaryDirectory() as folder:
        states = cache_image_states(encoded, core, processor.image_processor, folder)
        stored = VqaCollator(processor, model.config.num_labels, states)
        model.train()
        for _ in range(args.rounds):
            from_states.append(step_seconds(model, stored, batches))
            from_pixels.append(step_seconds(model, plain, batches))
    result = {
        "bare": {"batch": best[0], "memory_format": best[1], "images_per_second": bare},
        "storing": {"images_per_second": storing},
        "storing_over_bare": statistics.median(a / b for a, b in zip(storing, bare)),
        "step_from_pixels_seconds": from_pixels,
        "step_from_states_seconds": from_states,
        "pixels_over_states": statistics.median(a / b for a, b in zip(from_pixels, from_states)),
    }
    print(json.dumps(result, indent=1))
    figures = [shown(spread(values, 1), "/s") for values in (storing, bare)]
    steps = [shown(spread(values), " s") for values in (from_states, from_pixels)]
    ratios = result["storing_over_bare"], result["pixels_over_states"]
    lines = [
        (
            "storing states of images",
            f"{figures[0]}, bare encoder {figures[1]}",
            f"{ratios[0]:.2f} of the bare encoder",
        ),
        ("a step of the mini recipe", f"states {steps[0]}, pixels {steps[1]}", f"{ratios[1]:.1f} × pixels"),
    ]
    record(args, "image_states", result, lines)


if __name__ == "__main__":
    main()

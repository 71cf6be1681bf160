"""Questions per second of a training step: from stored image states, from pixels, and of fine-tuning ViLT.

python benchmarks/training.py

CLIP ViT-B/32 (frozen) and DistilBERT against ViLT-B/32, random weights, an image for each question, the same batch,
AdamW, float32. What stored states save with the mini recipe's encoders is measured by image_states.py.
"""

import torch
from models import ANSWERS, picture, question, vilt_inputs, vilt_model, vqafusion_model
from results import arguments, rates, ratios_shown, record, sides_shown, take_turns, times_as_fast

from vqafusion.command_line import keep_freed_memory, peak_memory


def stepper(model, inputs):
    """A function that takes one optimizer step."""
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5, fused=True)

    def step():
        model(**inputs()).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def main(argv=None):
    parser = arguments(__doc__, "training")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--layers", type=int, help="of every encoder; default: those of the models' own sizes")
    args = parser.parse_args(argv)
    keep_freed_memory()
    batch = args.batch_size
    model, vilt = vqafusion_model(args.layers), vilt_model(args.layers)
    with torch.no_grad():
        states = model.vqafusion.encode_image(picture(batch)).to(torch.float16)  # as they are stored
    labels, vilt_labels = torch.rand(batch, ANSWERS), torch.rand(batch, vilt.config.num_labels)
    sides = {
        "states": stepper(model, lambda: {**question(batch), "image_states": states, "labels": labels}),
        "pixels": stepper(model, lambda: {**question(batch), "pixel_values": picture(batch), "labels": labels}),
        "vilt": stepper(vilt, lambda: {**vilt_inputs(batch), "labels": vilt_labels}),
    }
    seconds = take_turns(sides, args.rounds)
    speeds = rates(seconds, batch)
    ratios = {name: times_as_fast(seconds, "states", name) for name in ("pixels", "vilt")}
    result = {"batch_size": batch, "questions_per_second": speeds, "states_times_as_fast_as": ratios}
    result["peak_memory_gib"] = peak_memory()
    case = f"step of {batch} questions, CLIP ViT-B/32 size"
    record(args, "training", result, [(case, sides_shown(speeds), f"states: {ratios_shown(ratios)}")])


if __name__ == "__main__":
    main()

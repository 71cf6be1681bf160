"""Questions about one image against the same number of images with a question each, through the pipeline.

python benchmarks/questions_per_image.py

CLIP ViT-B/32 and DistilBERT sizes, random weights, batches of 8 images; the sides take turns in one run.
"""

import numpy as np
from models import vqafusion_model
from PIL import Image
from results import arguments, record, shown, spread, take_turns, times_as_fast
from transformers import CLIPImageProcessorPil

from vqafusion import VqaFusionPipeline, VqaFusionProcessor
from vqafusion.command_line import keep_freed_memory
from vqafusion.data_prep.encode import train_tokenizer


def main(argv=None):
    parser = arguments(__doc__, "questions_per_image")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--questions", type=int, default=20)
    args = parser.parse_args(argv)
    keep_freed_memory()
    questions = [f"what is the color of thing number {n} in the picture?" for n in range(args.questions)]
    pixels = np.random.default_rng(0).integers(0, 255, (args.questions, 480, 640, 3), dtype=np.uint8)
    images = [Image.fromarray(one) for one in pixels]
    pipe = VqaFusionPipeline(
        model=vqafusion_model(),
        processor=VqaFusionProcessor(CLIPImageProcessorPil(), train_tokenizer(questions)),
    )
    pairs = [{"image": image, "question": question} for image, question in zip(images, questions)]
    sides = {
        "one_image": lambda: pipe(images[0], questions),
        "separate_images": lambda: pipe(pairs, batch_size=8),
    }
    seconds = take_turns(sides, args.rounds)
    rates = {name: [args.questions / each for each in values] for name, values in seconds.items()}
    ratio = times_as_fast(seconds, "one_image", "separate_images")
    result = {"questions": args.questions, "questions_per_second": rates, "one_image_over_separate": ratio}
    figures = ", ".join(f"{name.replace('_', ' ')} {shown(spread(each, 1), '/s')}" for name, each in rates.items())
    record(args, "questions_per_image", result, [(f"{args.questions} questions, pipeline", figures, f"{ratio} ×")])


if __name__ == "__main__":
    main()

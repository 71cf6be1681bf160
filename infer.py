"""Ask a picture a question.

python infer.py --model runs/demo/model --image photo.jpg --question "What is this?" --output result.png
"""

import argparse
import json
import sys
from pathlib import Path

from vqafusion.command_line import one_line_errors, whole_file, writable_folder

PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp")


def arguments():
    parser = argparse.ArgumentParser(description="Ask a picture a question.")
    parser.add_argument("--model", required=True, help="name on the Hub or folder")
    parser.add_argument("--image", required=True, help="file or address of the picture")
    parser.add_argument("--question", required=True, help="the question")
    parser.add_argument("--output", help="where to write the picture with its heat map, such as result.png")
    parser.add_argument("--top_k", type=int, default=5, help="how many answers (default 5)")
    parser.add_argument(
        "--abstain_below", type=float, default=0.0, help="'not sure' comes first where the best answer is less probable"
    )
    parser.add_argument("--json", action="store_true", help="print the answers as JSON")
    return parser


@one_line_errors
def main(argv=None):
    args = arguments().parse_args(argv)
    if args.top_k < 1:
        raise ValueError(f"--top_k must be at least 1, not {args.top_k}")
    if not 0 <= args.abstain_below <= 1:
        raise ValueError(f"--abstain_below must be from 0 to 1, not {args.abstain_below}")
    if not args.question.strip():
        raise ValueError("--question is empty")
    args.question.encode()  # what is no text in the terminal's encoding is a `ValueError` here, and odd errors later
    if args.output and Path(args.output).suffix.lower() not in PICTURE_ENDINGS:
        raise ValueError(f"--output {args.output}: the name must end in one of {', '.join(PICTURE_ENDINGS)}")

    # After the arguments, so that --help and a wrong argument do not wait for torch.
    from transformers.utils import logging

    from vqafusion.loading import load_model
    from vqafusion.pipeline_vqafusion import VqaFusionPipeline
    from vqafusion.processing_vqafusion import load_image, max_question_length

    logging.disable_progress_bar()
    image = load_image(args.image)
    if args.output:
        writable_folder(Path(args.output).resolve().parent)
    processor, model = load_model(args.model)
    if args.output and model.config.blind:
        raise ValueError(f"--output: {args.model} is a blind model, so there is no heat map to draw")
    longest = max_question_length(model.config, processor.tokenizer)
    if len(processor.tokenizer(args.question, truncation=False)["input_ids"]) > longest:
        raise ValueError(f"--question is longer than the {longest} tokens that the model reads; shorten it")
    pipe = VqaFusionPipeline(model=model, processor=processor)
    answers = pipe(
        image, args.question, top_k=args.top_k, return_attention=bool(args.output), abstain_below=args.abstain_below
    )
    attention = answers[0].pop("attention", None)
    overlay = answers[0].pop("overlay", None)
    if args.output:
        from vqafusion.analysis.overlay import draw_result

        with whole_file(args.output) as temporary:
            draw_result(image, overlay, args.question, answers).save(temporary)
    if args.json:
        ascii_only = str(sys.stdout.encoding).lower() != "utf-8"
        print(
            json.dumps({"question": args.question, "answers": answers, "output": args.output}, ensure_ascii=ascii_only)
        )
    else:
        print(answers[0]["answer"])
        for answer in answers:
            print(f"  {answer['score']:7.2%}  {answer['answer']}")
        if args.output:
            nothing = "" if attention.any() else " (empty: no place in the image speaks for this answer)"
            print(f"heat map: {args.output}{nothing}")
    return answers


if __name__ == "__main__":
    main()

"""Evaluate a model with the official VQA accuracy.

python eval.py --model runs/demo/model --dataset easy_vqa --split test --output_dir runs/demo
python eval.py --model DIR --dataset vqa_v2 --data_dir DIR --split val2014 --output_dir runs/val
python eval.py --baseline prior --train_split train2014 --dataset vqa_v2 --data_dir DIR --split val2014 --output_dir OUT
"""

from dataclasses import dataclass, field

import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from vqafusion.command_line import keep_freed_memory, one_line_errors, parse, writable_folder, write_json
from vqafusion.data_prep import check_answered, load_split
from vqafusion.data_prep.answers import ceiling, prior_answers
from vqafusion.data_prep.encode import VqaCollator, encode
from vqafusion.data_prep.image_features import cache_image_states
from vqafusion.loading import load_model
from vqafusion.metrics.vqa_accuracy.vqa_accuracy import TOP_K, vqa_accuracy
from vqafusion.processing_vqafusion import max_question_length


@dataclass
class EvalArguments:
    dataset: str = field(metadata={"help": "easy_vqa, vqa_v2, own (your JSON Lines or CSV) or hub (parquet)"})
    split: str = field(metadata={"help": "such as test, or val2014; of own data, the file's name"})
    output_dir: str = field(metadata={"help": "where metrics.json and predictions.json go"})
    model: str | None = field(default=None, metadata={"help": "name on the Hub or folder"})
    baseline: str | None = field(
        default=None, metadata={"help": "instead of a model: prior, the most frequent answer of each question type"}
    )
    train_split: str | None = field(default=None, metadata={"help": "where the prior is counted"})
    data_dir: str | None = field(
        default=None, metadata={"help": "folder of the data set, or its name on the Hub; easy_vqa needs none"}
    )
    skip_missing_images: bool = field(
        default=False, metadata={"help": "go on without the questions whose image is missing"}
    )
    batch_size: int = field(default=64, metadata={"help": "questions per forward pass"})
    max_samples: int | None = field(default=None, metadata={"help": "use only the first ones"})
    image_states_dir: str | None = field(
        default=None, metadata={"help": "store the frozen vision encoder's states there, once per image, and use them"}
    )
    preprocessing_num_workers: int = field(default=2, metadata={"help": "processes that encode questions"})


def answer(args, dataset):
    """Ranked answers of every row, and the best accuracy that the model's vocabulary allows."""
    processor, model = load_model(args.model)
    length = max_question_length(model.config, processor.tokenizer)
    encoded = encode(dataset, processor.tokenizer, model.config.label2id, length, args.preprocessing_num_workers)
    states = None
    if args.image_states_dir:
        states = cache_image_states(encoded, model.vqafusion, processor.image_processor, args.image_states_dir)
    # Sorted by image, so that each image is encoded once for all its questions.
    order = sorted(range(len(encoded)), key=list(encoded["image_id"]).__getitem__)
    collator = VqaCollator(processor, model.config.num_labels, states, blind=model.config.blind)
    loader = DataLoader(encoded.select(order), args.batch_size, collate_fn=collator)
    answers = dict(zip(order, predict(model.to("cuda" if torch.cuda.is_available() else "cpu"), loader)))
    return [answers[index] for index in range(len(dataset))], {"vocabulary_ceiling": ceiling(encoded)}


def predict(model, loader):
    """
    Args:
        model: a [`VqaFusionForVisualQuestionAnswering`]; loader: batches of [`VqaCollator`].

    Returns:
        `list[list[str]]`: the best `TOP_K` answers of every question, best first, in the loader's order.
    """
    ranked = []
    with torch.inference_mode():
        for batch in tqdm(loader, desc="Answering", unit="batch"):
            batch.pop("labels")
            logits = model(**{name: value.to(model.device) for name, value in batch.items()}).logits
            ranked += logits.topk(min(TOP_K, logits.shape[-1])).indices.tolist()
    return [[model.config.id2label[label] for label in labels] for labels in ranked]


def print_table(metrics):
    rows = [
        ("overall", metrics["overall"]),
        *metrics["per_answer_type"].items(),
        (f"top-{TOP_K}", metrics[f"top_{TOP_K}"]),
    ]
    print(f"\n{'official accuracy':<20}{'%':>8}")
    for name, value in rows:
        print(f"{name:<20}{value:>8.2f}")
    print(f"{'questions':<20}{metrics['questions']:>8}")


@one_line_errors
def main(argv=None):
    (args,) = parse(argv, EvalArguments)
    keep_freed_memory()
    output_dir = writable_folder(args.output_dir)
    if (args.model is None) == (args.baseline is None):
        raise ValueError("give either --model or --baseline")
    if args.baseline not in (None, "prior") or (args.baseline and not args.train_split):
        raise ValueError("the one baseline is --baseline prior, with --train_split")
    if args.batch_size < 1:
        raise ValueError(f"--batch_size must be at least 1, not {args.batch_size}")
    dataset = load_split(args.dataset, args.split, args.data_dir, args.skip_missing_images)
    dataset = dataset.select(range(min(args.max_samples or len(dataset), len(dataset))))
    check_answered(dataset, args.split)
    if args.baseline:
        train_rows = load_split(args.dataset, args.train_split, args.data_dir, args.skip_missing_images)
        ranked, extra = prior_answers(train_rows, dataset, TOP_K), {}
    else:
        ranked, extra = answer(args, dataset)

    metrics = vqa_accuracy(ranked, dataset["answers"], dataset["answer_type"], dataset["question_type"])
    metrics.update(extra, questions=len(dataset), dataset=args.dataset, split=args.split)
    predictions = [{"question_id": key, "answer": best[0]} for key, best in zip(dataset["question_id"], ranked)]
    write_json(output_dir / "metrics.json", metrics)
    write_json(output_dir / "predictions.json", predictions)
    print_table(metrics)
    print(f"\nwritten: {output_dir / 'metrics.json'}, {output_dir / 'predictions.json'}")
    return metrics


if __name__ == "__main__":
    main()

"""Evaluate a model with the official VQA accuracy, and explain what it gets wrong.

python eval.py --model runs/demo/model --dataset easy_vqa --split test --output_dir runs/demo
python eval.py --model DIR --dataset vqa_v2 --data_dir DIR --split val2014 --output_dir runs/val
python eval.py --baseline prior --train_split train2014 --dataset vqa_v2 --data_dir DIR --split val2014 --output_dir OUT
python eval.py --predictions FILE --dataset vqa_v2 --data_dir DIR --split val2014 --output_dir OUT
"""

import webbrowser
from dataclasses import dataclass, field
from pathlib import Path

from vqafusion.analysis.calibration import TEMPERATURES
from vqafusion.analysis.failures import FAILED_BELOW, categories, count_categories
from vqafusion.analysis.faithfulness import faithfulness
from vqafusion.analysis.model_run import ModelRun
from vqafusion.analysis.records import RECORDS, make_records, read_predictions, read_run, same_questions, write_lines
from vqafusion.analysis.report import interval_text, shown, write_report
from vqafusion.analysis.scores import p_text, paired_difference
from vqafusion.analysis.summary import abstaining, summarize
from vqafusion.analysis.words import Words
from vqafusion.arguments import SourceArguments
from vqafusion.command_line import keep_freed_memory, one_line_errors, parse, writable_folder, write_json
from vqafusion.data_prep import check_answered, load_split, split_size, spread
from vqafusion.data_prep.answers import ceiling, own_answer_text, prior_answers, vocabulary_best
from vqafusion.loading import load_model
from vqafusion.metrics.vqa_accuracy.vqa_accuracy import TOP_K

EXPLAINED = ("categories", "heat_map", "blind")  # what failures.jsonl has beyond the records of all questions


@dataclass(kw_only=True)
class EvalArguments(SourceArguments):
    split: str = field(metadata={"help": "such as test, or val2014; of own data, the file's name"})
    output_dir: str = field(metadata={"help": "where report.html, metrics.json and the rest go"})
    model: str | None = field(default=None, metadata={"help": "name on the Hub or folder"})
    predictions: str | None = field(
        default=None, metadata={"help": "instead of a model: answers of any system, in the official result format"}
    )
    baseline: str | None = field(
        default=None, metadata={"help": "instead of a model: prior, the most frequent answer of each question type"}
    )
    train_split: str | None = field(default=None, metadata={"help": "where the prior is counted"})
    batch_size: int = field(default=64, metadata={"help": "questions per forward pass"})
    max_samples: int | None = field(
        default=None, metadata={"help": "use at most so many questions, spread over the split"}
    )
    blind_run: str | None = field(
        default=None,
        metadata={"help": "--output_dir of the blind model's run, to compare with"},
    )
    prior_run: str | None = field(default=None, metadata={"help": "--output_dir of the prior's run, to compare with"})
    fit_temperature: bool = field(
        default=False,
        metadata={"help": "temperature scaling: fit it on half of the images and keep it in the model's folder"},
    )
    abstain_below: float | None = field(
        default=None, metadata={"help": "below this probability the answer is 'not sure': what would that be worth?"}
    )
    wordnet: str | None = field(
        default=None, metadata={"help": "folder of WordNet's files; default: where Debian keeps them"}
    )
    heat_map_questions: int = field(
        default=0, metadata={"help": "test the heat maps on so many questions, by deletion and insertion"}
    )
    heat_maps: bool = field(
        default=True, metadata={"help": "draw the heat maps of the report; without them small runs end much sooner"}
    )
    open: bool = field(default=False, metadata={"help": "open the report in the browser"})


def check(args):
    """Raise `ValueError` for arguments that do not go together."""
    if sum(value is not None for value in (args.model, args.baseline, args.predictions)) != 1:
        raise ValueError("give one of --model, --baseline and --predictions")
    if args.baseline not in (None, "prior"):
        raise ValueError(f"the one baseline is --baseline prior, not {args.baseline}")
    if args.baseline and not args.train_split:
        raise ValueError("--baseline prior needs --train_split, the split to count answers on")
    for name, least in (("batch_size", 1), ("max_samples", 1), ("heat_map_questions", 0)):
        if getattr(args, name) is not None and getattr(args, name) < least:
            raise ValueError(f"--{name} must be at least {least}, not {getattr(args, name)}")
    if args.abstain_below is not None and not 0 <= args.abstain_below <= 1:
        raise ValueError(f"--abstain_below must be from 0 to 1, not {args.abstain_below}")
    for name in ("fit_temperature", "heat_map_questions", "image_states_dir"):
        if getattr(args, name) and not args.model:
            raise ValueError(f"--{name} needs a --model")
    if args.baseline and args.abstain_below is not None:
        raise ValueError("--abstain_below needs probabilities, and the prior has none")
    if args.fit_temperature and not Path(args.model).is_dir():
        raise ValueError("--fit_temperature writes to the model's config.json, so --model must be a folder")


def read_baselines(args, rows):
    """`{"blind" or "prior": (metrics, records in the order of the rows)}` of the runs that were named."""
    runs = {}
    for name, folder in (("blind", args.blind_run), ("prior", args.prior_run)):
        if folder:
            metrics, records = read_run(folder)
            if metrics.get("run") != name:
                raise ValueError(
                    f"--{name}_run {folder} is a run of {metrics.get('run')!r}, not of the {name} baseline"
                )
            try:
                asked = rows.select_columns(["question_id", "image_id", "question", "answers"]).to_list()
                runs[name] = metrics, same_questions(asked, records)
            except ValueError as error:
                raise ValueError(f"--{name}_run {folder}: {error}") from None
    return runs


def answer(args, rows, loaded):
    """Ranked answers of every row, and the run of the `loaded` model (None of a baseline or of another system)."""
    if args.predictions:
        ranked = read_predictions(args.predictions, rows["question_id"][:])
        for (best,), normalized in zip(ranked, rows["normalized"][:]):
            if normalized:
                best["answer"] = own_answer_text(best["answer"])
        return ranked, None
    if args.baseline:
        train_rows = load_split(
            args.dataset, args.train_split, args.data_dir, args.skip_missing_images, check_images=False
        )
        check_answered(train_rows, args.train_split)
        return [[{"answer": each} for each in ranked] for ranked in prior_answers(train_rows, rows, TOP_K)], None
    if args.heat_map_questions and not hasattr(loaded[1], "attention_map"):
        raise ValueError(
            "--heat_map_questions needs gradients and attention weights: give the model that this one was exported from"
        )
    if args.heat_map_questions and loaded[1].config.blind:
        raise ValueError(f"--heat_map_questions: {args.model} is blind, so there is nothing that it looks at")
    run = ModelRun(loaded, rows, args.batch_size, args.image_states_dir, args.preprocessing_num_workers)
    if args.fit_temperature:
        run.extra["temperature"] = run.fit_temperature()
    return run.ranked(), run


def explain(records, maps, best, blind, words):
    """
    Put into the records of wrong answers their `categories` and the blind model's answer, and into all their heat map
    of `maps`, by index, where there is one; count the categories. `best` is what the vocabulary allows, of a model.
    """
    rules = [None] * len(records)
    for index, record in enumerate(records):
        record["heat_map"] = maps.get(index)
        if record["accuracy"] < FAILED_BELOW:
            record["blind"] = blind and blind[index]["ranked"][0]["answer"]
            known = best and best[index], record["blind"], record["heat_map"]
            rules[index] = categories(record, words, *known)
            record["categories"] = [name for name, holds in rules[index].items() if holds]
    return count_categories(records, rules)


def compare(records, runs):
    """`{name: {metrics and paired difference to these records}}` of the baselines' runs."""
    result = {}
    for name, (metrics, others) in runs.items():
        accuracy = [[record["accuracy"] for record in each] for each in (records, others)]
        difference = paired_difference(*accuracy, [record["image_id"] for record in records])
        kept = ("overall", "per_answer_type", "per_question_type", f"top_{TOP_K}", "exact_match", "intervals")
        result[name] = {key: metrics[key] for key in kept if key in metrics} | difference
    return result


def print_table(metrics):
    intervals = metrics["intervals"]
    rows = [
        ("overall", metrics["overall"], intervals["overall"]),
        *(
            (kind or "(none)", value, intervals["per_answer_type"][kind])
            for kind, value in metrics["per_answer_type"].items()
        ),
    ]
    if f"top_{TOP_K}" in metrics:
        rows.append((f"top-{TOP_K}", metrics[f"top_{TOP_K}"], intervals[f"top_{TOP_K}"]))
    print(f"\n{'official accuracy':<20}{'%':>8}   95 % interval")
    for name, value, interval in rows:
        print(f"{name:<20}{value:>8.2f}   {interval_text(interval)}")
    for name, other in metrics["compared"].items():
        interval = interval_text(other["interval"])
        print(f"above {name:<14}{other['difference']:>8.2f}   {interval}   p {p_text(other['p_value'])}")
    print(f"{'questions':<20}{metrics['questions']:>8}")


@one_line_errors
def main(argv=None):
    (args,) = parse(argv, __doc__, EvalArguments)
    check(args)
    keep_freed_memory()
    words = Words(args.wordnet)
    loaded = load_model(args.model) if args.model else None
    looks = loaded is not None and not loaded[1].config.blind
    rows = load_split(args.dataset, args.split, args.data_dir, args.skip_missing_images, check_images=looks)
    output_dir = writable_folder(args.output_dir)  # not before, so that a mistake in the above leaves none
    in_split, rows = split_size(rows), spread(rows, args.max_samples)
    if not any(rows["answers"]):
        return submit(args, rows, output_dir, loaded)
    check_answered(rows, args.split)
    baselines = read_baselines(args, rows)
    ranked, run = answer(args, rows, loaded)
    if run and not run.process.is_main_process:
        return None  # the answers are together; the rest is one process's work
    records = make_records(rows, ranked)
    metrics = {"run": args.baseline or ("blind" if run and run.model.config.blind else "model")}
    metrics |= summarize(records) | {"dataset": args.dataset, "split": args.split}
    if args.baseline and args.train_split == args.split:
        metrics["trained_on_this_split"] = True
    if len(rows) < in_split:
        metrics["questions_in_split"] = in_split
    metrics["compared"] = compare(records, baselines)
    if args.abstain_below is not None:
        metrics["abstaining"] = abstaining(records, args.abstain_below)
    best = vocabulary_best(run.encoded, run.model.config.id2label) if run else None
    maps = run.heat_maps(shown(records)) if run and args.heat_maps else {}
    metrics["failures"] = explain(records, maps, best, baselines["blind"][1] if "blind" in baselines else None, words)
    if run:
        metrics |= run.extra | {"vocabulary_ceiling": ceiling(best)} | run.seen(args.dataset, args.split)
    if args.heat_map_questions:
        sample = run.encoded.shuffle(seed=0).select(range(min(args.heat_map_questions, len(records))))
        metrics["heat_maps"] = {"questions": len(sample), **faithfulness(run.model, run.pixel_collator, sample)}

    write_predictions(args, records, output_dir)
    write_lines(output_dir / RECORDS, ({k: v for k, v in r.items() if k not in EXPLAINED} for r in records))
    write_lines(output_dir / "failures.jsonl", (record for record in records if "categories" in record))
    write_json(output_dir / "metrics.json", metrics)
    title = f"{args.model or args.predictions or args.baseline} on {args.dataset}, {args.split}"
    write_report(output_dir, title, metrics, records, rows, run)
    if args.fit_temperature:
        run.save_temperature()
        fitted = run.extra["temperature"]
        print(
            f"\ntemperature {fitted['temperature']:.2f}, kept in the model's folder; calibration error on "
            f"{fitted['questions']} questions about images that it was not fitted on: {fitted['error_at_1']:.2f} % at "
            f"temperature 1, {fitted['error']:.2f} % at this one"
        )
        low, high = fitted["difference_interval"]
        if low > 0:
            print("which is worse: fit it on more questions, or put it back to 1 in the folder's config.json")
        elif high >= 0:
            print("which is no difference that so many questions can tell")
        if fitted["temperature"] in TEMPERATURES:
            print("it is at the end of the range that is looked through: these probabilities say little")
    print_table(metrics)
    print(f"\nwritten: {output_dir / 'report.html'}, metrics.json, failures.jsonl and more beside it")
    if args.open:
        webbrowser.open((output_dir / "report.html").resolve().as_uri())
    return metrics


def submit(args, rows, output_dir, loaded):
    """A split without human answers: write what the evaluation server takes, or check it."""
    for name in ("fit_temperature", "abstain_below", "heat_map_questions", "blind_run", "prior_run"):
        if getattr(args, name):
            raise ValueError(f"--{name}: {args.split} has no human answers to compare with")
    if not args.predictions and (output_dir / RECORDS).exists():
        raise ValueError(
            f"{output_dir} holds the report of other questions, beside which these predictions would be taken for its "
            "own: choose another --output_dir"
        )
    ranked, run = answer(args, rows, loaded)
    if run and not run.process.is_main_process:
        return
    if args.predictions:
        print(f"{args.predictions}: every question of {args.split} is answered once, in the official format")
        return
    answered = [{"question_id": key, "ranked": best} for key, best in zip(rows["question_id"][:], ranked)]
    write_predictions(args, answered, output_dir)
    print(f"{args.split} has no human answers to compare with; written: {output_dir / 'predictions.json'}")


def write_predictions(args, records, output_dir):
    """The answers in the official result format, unless the file is the one that they come from."""
    file = output_dir / "predictions.json"
    if not args.predictions or file.resolve() != Path(args.predictions).resolve():
        write_json(file, [{"question_id": r["question_id"], "answer": r["ranked"][0]["answer"]} for r in records])


if __name__ == "__main__":
    main()

"""The metric on as many predictions as VQA v2's validation split has, beside a plain reading of the official algorithm.

python benchmarks/metric.py

Invented questions with ten answers each, drawn as unevenly as people's are, in their spelling too. The other side takes
the official steps one by one, as they are published: each question is scored by itself, its answers are normalised for
it, and each annotator is left out in turn.
"""

import random
import re
import time

from results import arguments, record, shown, spread

from vqafusion.command_line import peak_memory
from vqafusion.metrics.vqa_accuracy import vqa_accuracy as ours

QUESTIONS = 214_354
KINDS = ("yes/no", "number", "other")


def plain_accuracy(predictions, references, answer_types):
    """Overall accuracy and that of each answer type, in percent, by the published steps."""
    scores, by_type = [], {}
    for prediction, answers, kind in zip(predictions, references, answer_types):
        answers = [{"answer": plain_clean(answer), "answer_id": number} for number, answer in enumerate(answers)]
        prediction = plain_clean(prediction)
        if len({answer["answer"] for answer in answers}) > 1:
            for answer in answers:
                answer["answer"] = plain_words(plain_marks(answer["answer"]))
            prediction = plain_words(plain_marks(prediction))
        each = []
        for left_out in answers:
            others = [answer for answer in answers if answer != left_out]
            agreeing = [answer for answer in others if answer["answer"] == prediction]
            each.append(min(1, len(agreeing) / 3))
        scores.append(sum(each) / len(each))
        by_type.setdefault(kind, []).append(scores[-1])
    return {
        "overall": round(100 * sum(scores) / len(scores), 2),
        "per_answer_type": {kind: round(100 * sum(each) / len(each), 2) for kind, each in by_type.items()},
    }


def plain_clean(answer):
    return answer.replace("\n", " ").replace("\t", " ").strip()


def plain_marks(text):
    result = text
    for mark in ours._MARKS:
        spaced = mark + " " in text or " " + mark in text
        if spaced or re.search(r"(\d)(\,)(\d)", text) is not None:
            result = result.replace(mark, "")
        else:
            result = result.replace(mark, " ")
    return re.sub(r"(?!<=\d)(\.)(?!\d)", "", result, count=32)


def plain_words(text):
    words = []
    for word in text.lower().split():
        word = ours._NUMBERS.get(word, word)
        if word not in ours._ARTICLES:
            words.append(word)
    for number, word in enumerate(words):
        if word in ours._CONTRACTIONS:
            words[number] = ours._CONTRACTIONS[word]
    return " ".join(words)


def invent(questions, seed=0):
    """Predictions, human answers and answer types, as lists."""
    rng = random.Random(seed)
    words = [
        f"{first}{last}" for first in ("", "the ", "red ", "A big ") for last in (f"thing {n}" for n in range(3000))
    ]
    words += ["Don't know!", "1,000", "3.5", "p.m.", "black/white", "new york, usa", "two", "on table", "isnt", "yes."]
    weights = [1 / (rank + 1) for rank in range(len(words))]  # few answers are given often, as Zipf's law says
    pools = {"yes/no": (["yes", "no", "Yes"], [6, 4, 0.2]), "number": ([*map(str, range(12)), "two"], None)}
    pools["other"] = (words, weights)
    predictions, references = [], []
    kinds = rng.choices(KINDS, [0.38, 0.12, 0.5], k=questions)
    for kind in kinds:
        pool, pool_weights = pools[kind]
        main = rng.choices(pool, pool_weights)[0]
        others = rng.choices(pool, pool_weights, k=10)
        references.append([main if rng.random() < 0.65 else other for other in others])
        predictions.append(rng.choice(references[-1] + others))
    return predictions, references, kinds


def main(argv=None):
    parser = arguments(__doc__, "metric")
    parser.add_argument("--questions", type=int, default=QUESTIONS)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args(argv)
    data = invent(args.questions)
    seconds, results = {"vqa_accuracy": [], "plain": []}, {}
    for _ in range(args.rounds):
        for name, function in (("vqa_accuracy", ours.vqa_accuracy), ("plain", plain_accuracy)):
            for remembering in (ours.clean, ours.normalize_answer):
                remembering.cache_clear()  # what one run remembers is no merit of the next
            start = time.perf_counter()
            results[name] = function(*data)
            seconds[name].append(time.perf_counter() - start)
    for key, expected in results["plain"].items():
        if results["vqa_accuracy"][key] != expected:
            raise SystemExit(f"the scores differ: {key} is {results['vqa_accuracy'][key]}, and {expected} plainly")
    sides = {name: spread(values) for name, values in seconds.items()}
    ratios = spread([b / a for a, b in zip(seconds["vqa_accuracy"], seconds["plain"])], 1)
    result = {"questions": args.questions, "seconds": sides, "times_as_fast": ratios, "peak_memory_gib": peak_memory()}
    result["scores"] = results["plain"]
    figures = f"{shown(sides['vqa_accuracy'], ' s')}; plain reading {shown(sides['plain'], ' s')}"
    record(args, "metric", result, [(f"{args.questions:,} predictions, equal scores", figures, f"{shown(ratios)} ×")])


if __name__ == "__main__":
    main()

"""Why an answer is wrong: one or more categories for each, by rules that fit on a screen.

A failure is an answer with an official score below 50: fewer than two of ten people gave it. The error that a
category holds is what its answers fall short of 100, as a share of that of all answers.
"""

import math
from collections import Counter

from ..data_prep.own_data import answer_type
from ..metrics.vqa_accuracy.vqa_accuracy import normalize_answer
from .records import most_common_answer

FAILED_BELOW = 50  # percent
DISAGREE_BITS = 2.0  # such as two times four and two single answers, or less unity than that
LOW_CONFIDENCE = 0.3
DIFFUSE = 0.95  # of the entropy of an even map

CATEGORIES = {
    "not in vocabulary": "no answer of the model's list would score 50 or more",
    "wrong answer type": "yes or no, a number, or another answer, where people gave one of another kind",
    "yes/no flipped": "yes where most people said no, or the other way round",
    "near miss": "another form, a synonym, a broader or narrower word, a word in common, or a number off by one",
    "annotators disagree": f"the ten human answers have an entropy of {DISAGREE_BITS:g} bits or more",
    "same as blind": "the blind model, which does not see the image, gives the same answer",
    "colour": "the question asks for a colour",
    "counting": "the question asks how many",
    "reading": "the question asks for something written: words, a name, a number, a time, a brand",
    "position": "the question asks where something is, or on which side",
    "low confidence": f"the probability of the answer is below {LOW_CONFIDENCE:g}",
    "diffuse heat map": f"the heat map, where one was drawn, has {100 * DIFFUSE:g} % of an even one's entropy or more",
}

_READING = {
    "say", "says", "written", "write", "word", "words", "letter", "letters", "sign", "brand", "logo", "text", "read",
    "number", "numbers", "time", "name", "initials", "company", "license",
}  # fmt: skip
_POSITION = {"where", "left", "right", "above", "below", "behind", "under", "front", "side", "next", "top", "bottom"}


def categories(record, words, vocabulary_best=None, blind=None, heat_map=None):
    """
    Args:
        record: of [`make_records`].
        words: a [`Words`].
        vocabulary_best (`float`, *optional*): the best official score, in percent, that an answer of the model's list
            has for this question.
        blind (`str`, *optional*): the blind model's answer.
        heat_map: `(rows, columns)` nested list that sums to 1, *optional*.

    Returns:
        `list[str]`: those of `CATEGORIES` that hold, in their order. Rules whose input is None do not hold.
    """
    given = normalize_answer(record["ranked"][0]["answer"])
    counts = Counter(map(normalize_answer, record["answers"]))
    expected, confidence = most_common_answer(record["answers"]), record["ranked"][0].get("score")
    asked = record["question"].lower().replace("?", " ").replace(",", " ").split()
    rules = {
        "not in vocabulary": vocabulary_best is not None and vocabulary_best < FAILED_BELOW,
        "wrong answer type": answer_type(given) != answer_type(expected),
        "yes/no flipped": {given, expected} == {"yes", "no"},
        "near miss": any(words.near(given, answer) for answer in counts),
        "annotators disagree": entropy(counts.values()) >= DISAGREE_BITS,
        "same as blind": blind is not None and normalize_answer(blind) == given,
        "colour": bool({"color", "colour", "colors", "colours"} & set(asked)),
        "counting": asked[:2] == ["how", "many"] or "number of" in " ".join(asked),
        "reading": answer_type(expected) != "yes/no" and bool(_READING & set(asked)),
        "position": bool(_POSITION & set(asked)),
        "low confidence": confidence is not None and confidence < LOW_CONFIDENCE,
        "diffuse heat map": heat_map is not None and evenness(heat_map) >= DIFFUSE,
    }
    return [name for name in CATEGORIES if rules[name]]


def entropy(counts):
    """Of shares in proportion to `counts`, in bits."""
    counts = [count for count in counts if count > 0]
    total = sum(counts)
    return sum(-count / total * math.log2(count / total) for count in counts)


def evenness(heat_map):
    """Entropy of a heat map over that of an even one: 1 where it says nothing."""
    cells = [cell for row in heat_map for cell in row]
    return entropy(cells) / math.log2(len(cells)) if len(cells) > 1 else 1.0


def count_categories(records):
    """
    Args:
        records: all records of the run; those of failures have `categories`.

    Returns:
        list of dicts, most error first: `category`, `failures`, `error` (what mending them would return, in percent of
        all error) and `points` (the same in points of overall accuracy).
    """
    lost = [100 - record["accuracy"] for record in records]
    table = []
    for name in CATEGORIES:
        inside = [loss for loss, record in zip(lost, records) if name in record.get("categories", ())]
        table.append({
            "category": name, "failures": len(inside), "error": round(100 * sum(inside) / max(sum(lost), 1e-9), 1),
            "points": round(sum(inside) / len(records), 2),
        })  # fmt: skip
    return sorted(table, key=lambda row: -row["error"])

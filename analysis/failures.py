"""Why an answer is wrong: one or more categories for each, by rules that fit on a screen.

A failure is an answer with an official score below 50: fewer than two of ten people gave it. The error that a
category holds is what its answers fall short of 100, as a share of that of all answers.
"""

import math
from collections import Counter

from ..data_prep.answers import answer_type
from ..metrics.vqa_accuracy.vqa_accuracy import normalize_answer, soft_scores
from .records import most_common_answer

FAILED_BELOW = 50  # percent
DISAGREE_BITS = 2.0  # such as 4, 2, 2, 1 and 1 of ten people
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
    "diffuse heat map": f"the heat map has {100 * DIFFUSE:g} % of an even one's entropy or more",
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
        dict: of `CATEGORIES`, in their order, whether each holds; without those whose input is None.
    """
    given = normalize_answer(record["ranked"][0]["answer"])
    counts = Counter(map(normalize_answer, record["answers"]))
    expected, confidence = most_common_answer(record["answers"]), record["ranked"][0].get("score")
    asked = record["question"].lower().replace("?", " ").replace(",", " ").split()
    rules = {
        "not in vocabulary": None if vocabulary_best is None else vocabulary_best < FAILED_BELOW,
        "wrong answer type": answer_type(given) != answer_type(expected),
        "yes/no flipped": {given, expected} == {"yes", "no"},
        "near miss": any(words.near(given, answer) for answer in counts),
        "annotators disagree": entropy(counts.values()) >= DISAGREE_BITS,
        "same as blind": None if blind is None else normalize_answer(blind) == given,
        "colour": bool({"color", "colour", "colors", "colours"} & set(asked)),
        "counting": asked[:2] == ["how", "many"] or "number of" in " ".join(asked),
        "reading": answer_type(expected) != "yes/no" and bool(_READING & set(asked)),
        "position": bool(_POSITION & set(asked)),
        "low confidence": None if confidence is None else confidence < LOW_CONFIDENCE,
        "diffuse heat map": None if heat_map is None else evenness(heat_map) >= DIFFUSE,
    }
    return {name: rules[name] for name in CATEGORIES if rules[name] is not None}


def entropy(counts):
    """Of shares in proportion to `counts`, in bits."""
    counts = [count for count in counts if count > 0]
    total = sum(counts)
    return sum(-count / total * math.log2(count / total) for count in counts)


def evenness(heat_map):
    """Entropy of a heat map over that of an even one: 1 where it says nothing."""
    cells = [cell for row in heat_map for cell in row]
    return entropy(cells) / math.log2(len(cells)) if len(cells) > 1 else 1.0


def count_categories(records, rules):
    """
    Args:
        records: all records of the run.
        rules: for each, what [`categories`] says of it if it is a failure, else None.

    Returns:
        list of dicts, most error first: `category`, `failures`, `judged` (of how many failures it is known whether they
        are in it; heat maps are drawn for a random part), `error` (what mending them would return, in percent of all
        that answers lose to the best human one) and `points` (the same in points of overall accuracy), both as if the
        others were like those judged. Categories of which nothing is known are left out.
    """
    # Where people disagree, no answer has 100.
    lost = [100 * max(soft_scores(record["answers"]).values()) - record["accuracy"] for record in records]
    failed = sum(loss for loss, found in zip(lost, rules) if found is not None)
    table = []
    for name in CATEGORIES:
        judged = [(loss, found[name]) for loss, found in zip(lost, rules) if found and name in found]
        if judged:
            inside = [loss for loss, holds in judged if holds]
            error = sum(inside) * failed / (sum(loss for loss, _ in judged) or 1)
            table.append({
                "category": name, "failures": len(inside), "judged": len(judged),
                "error": round(100 * error / (sum(lost) or 1), 1), "points": round(error / len(records), 2),
            })  # fmt: skip
    return sorted(table, key=lambda row: -row["error"])

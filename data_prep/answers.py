"""Human answers: how many, of which type; the vocabulary, from the training split only; soft targets."""

import math
import re
import unicodedata
from collections import Counter, defaultdict

import torch

from ..command_line import read_json
from ..metrics.vqa_accuracy.vqa_accuracy import answer_text, normalize_answer, question_score, soft_scores
from . import FEW_ANSWERS

MIN_ANSWERS = 10


def build_vocabulary(answers, size):
    """
    The most frequent human answers, as the metric's normaliser writes them.

    Args:
        answers: iterable of lists of human answers, of the training split and no other.
        size (`int`): how many answers to keep.

    Returns:
        `list[str]`, most frequent first; ties in alphabetical order, so that it does not depend on the data's order.

    Raises:
        ValueError: no answer at all, or a size below 1.
    """
    if size < 1:
        raise ValueError(f"the vocabulary must hold at least 1 answer, not {size}")
    counts = Counter(answer for group in answers for answer in _written(group))
    if not counts:
        raise ValueError("the training split holds no answers, so there is no vocabulary to build")
    return [answer for answer, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:size]]


def read_vocabulary(file):
    """
    Args:
        file (`str`): a JSON list of answers, such as the 3,129 that published VQA v2 models share, or an object that
            has each answer's number, as they are also published.

    Returns:
        `list[str]`, normalised, each once, in the file's order; empty ones are left out.

    Raises:
        ValueError: not a JSON list of answers; `OSError`: no such file.
    """
    answers = read_json(file)
    if isinstance(answers, dict) and all(isinstance(number, int) for number in answers.values()):
        answers = sorted(answers, key=answers.get)
    texts = isinstance(answers, list) and all(isinstance(answer, str) for answer in answers)
    if not texts or not any(map(str.strip, answers)):
        raise ValueError(f"{file} must be a JSON list of answers, or an object of their numbers")
    return list(dict.fromkeys(answer_text(answer) for answer in answers if answer.strip()))


def vocabulary_best(rows, names):
    """
    Args:
        rows: encoded rows.
        names: the vocabulary, by label.

    Returns:
        `list[float]`: for each row the official score, in percent, of the best answer that the vocabulary has.
    """
    columns = (rows[name][:] for name in ("label_ids", "label_scores", "answers"))
    return [
        # Not the target: where all people wrote the same, but not as it is normalised, no answer of ours scores.
        100 * question_score(names[labels[scores.index(max(scores))]], answers) if labels else 0.0
        for labels, scores, answers in zip(*columns)
    ]


def ceiling(best):
    """Official accuracy, in percent, of always choosing the best answer: the mean of what [`vocabulary_best`] found."""
    return round(sum(best) / len(best), 2)


def answer_frequencies(rows, num_answers):
    """`(num_answers,)` tensor: the mean soft target of every answer over encoded rows."""
    totals = torch.zeros(num_answers)
    for ids, scores in zip(rows["label_ids"][:], rows["label_scores"][:]):
        totals[ids] += torch.tensor(scores)
    return totals / len(rows)


def prior_answers(train_rows, rows, top_k):
    """
    The baseline that reads only the first words of a question: the most frequent answers of its question type.

    Args:
        train_rows, rows: columns of `FEATURES`.
        top_k (`int`): how many answers.

    Returns:
        `list[list[str]]`: ranked answers of every row; of the whole training split where it lacks a type.
    """
    counts, overall = defaultdict(Counter), Counter()
    for question_type, answers in zip(train_rows["question_type"][:], train_rows["answers"][:]):
        written = _written(answers)
        counts[question_type].update(written)
        overall.update(written)
    ranked = {kind: [answer for answer, _ in counter.most_common(top_k)] for kind, counter in counts.items()}
    fallback = [answer for answer, _ in overall.most_common(top_k)]
    return [ranked.get(kind) or fallback for kind in rows["question_type"][:]]


def _written(answers):
    """
    The answers of one question, normalised. One that would be left empty, such as "A", counts only where nobody says
    anything else, which the metric compares as it is written.
    """
    written = map(answer_text if len(set(answers)) == 1 else normalize_answer, answers)
    return [answer for answer in written if answer]


def soft_targets(answers, label2id):
    """
    Args:
        answers (`list[str]`): the human answers of one question.
        label2id (`dict[str, int]`): the vocabulary.

    Returns:
        ids and their official scores, two lists of equal length; empty if no answer is in the vocabulary.
    """
    found = {}
    for answer, score in soft_scores(answers).items():
        # Where all humans agree, the metric compares raw strings; the vocabulary is normalised.
        label = label2id.get(answer, label2id.get(answer_text(answer)))
        if label is not None and score > 0:
            found[label] = max(score, found.get(label, 0.0))
    return list(found), list(found.values())


def ten_answers(answers):
    """
    Answers (`list[str]`) for which the official accuracy says what it should, although nobody asked ten people: it
    counts agreement among ten, so up to five are repeated until there are ten or more, as those of OK-VQA are (Marino
    et al., CVPR 2019); from six on the formula is taken for so many people. Where all are the same it compares them as
    they are written, and no model answers "Red" or "two", so they are normalised. So must be what is compared
    with them, by [`own_answer_text`].
    """
    times = -(-MIN_ANSWERS // len(answers)) if 0 < len(answers) <= FEW_ANSWERS else 1
    return [own_answer_text(answer) for answer in answers] * times


def own_answer_text(answer):
    """An answer to questions of one's own, normalised, and accents in one form, however a keyboard writes them."""
    return answer_text(unicodedata.normalize("NFC", answer))


def answer_texts(given):
    """Answers in the shapes that files have, one or several texts or numbers, as a list; `ValueError` for others."""
    several = given if isinstance(given, list) else [given]
    texts = [_number_text(answer) if type(answer) in (int, float) else answer for answer in several]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"an answer must be a text or a number, not {given!r:.100}")
    for text in texts:
        if re.fullmatch(r"""\s*\[\s*(['"]).*\1\s*\]\s*""", text, re.DOTALL):  # as pandas and JSON write one
            raise ValueError(f"an answer is a list that is written as a text: {text!r:.100}")
    return texts


def _number_text(number):
    """As people write it: a column of whole numbers in which one is missing is of 2.0, and NaN, to pandas."""
    if not math.isfinite(number):
        raise ValueError(f"an answer is {number}, which is no number: leave such a question out")
    return str(int(number)) if number == int(number) else str(number)


def answer_type(answer):
    """`"yes/no"`, `"number"` or `"other"`, by the answer's text."""
    answer = normalize_answer(answer)
    if answer in ("yes", "no"):
        return "yes/no"
    return "number" if answer.replace(".", "", 1).isdecimal() else "other"

"""Answer vocabulary, from the training split only, and soft targets."""

from collections import Counter

from ..metrics.vqa_accuracy.vqa_accuracy import normalize_answer, soft_scores


def build_vocabulary(answers, size):
    """
    The most frequent human answers, as the metric's normaliser writes them.

    Args:
        answers: iterable of lists of human answers, of the training split and no other.
        size (`int`): how many answers to keep.

    Returns:
        `list[str]`, most frequent first; ties in alphabetical order, so that it does not depend on the data's order.

    Raises:
        ValueError: no answer at all.
    """
    counts = Counter(normalize_answer(answer) for group in answers for answer in group)
    counts.pop("", None)
    if not counts:
        raise ValueError("the training split holds no answers, so there is no vocabulary to build")
    return [answer for answer, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:size]]


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
        label = label2id.get(answer, label2id.get(normalize_answer(answer)))
        if label is not None and score > 0:
            found[label] = max(score, found.get(label, 0.0))
    return list(found), list(found.values())

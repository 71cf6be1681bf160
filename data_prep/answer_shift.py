"""How much more frequent an answer is in one part of the training questions than where the model will be asked."""

from collections import defaultdict

import torch

from . import DataError

PRIOR_QUESTIONS = 30  # as so many questions of a part count the frequencies of what it belongs to
SEEN_MORE = 2  # of an answer type, as so many questions more does every answer count, in both parts at the same rate


def answer_shifts(rows, reference, num_answers):
    """
    A training set may be put together from parts that were chosen by their answers: only questions that somebody
    answered "yes", or as many "kite" as "white". Training then adds these shifts to the logits of such questions
    (logit adjustment, Menon et al., ICLR 2021), so that what the model itself learns are the frequencies of the
    reference.

    The shift is the difference of an answer's log odds among the other and among the reference questions: for yes/no
    of the same question type, since parts may be chosen type by type; else of the same answer type. A few rare answers
    shift little, since a little is added to both frequencies.

    Args:
        rows (`datasets.Dataset`): encoded rows.
        reference (`list[str]`): values of `provenance`; of these questions the answers are as frequent as in use.
        num_answers (`int`): size of the vocabulary.

    Returns:
        `(shifts, num_answers)` tensor, its first row 0; and for every question of `rows` which row is its own.

    Raises:
        DataError: a provenance that no question has, or none of another one.
    """
    provenance = [origin or "" for origin in rows["provenance"]]
    if unknown := set(reference) - set(provenance):
        known = ", ".join(sorted(set(provenance) - {""})) or "none"
        raise DataError(f"no training question has the provenance {', '.join(sorted(unknown))}; known: {known}")
    if not set(provenance) - set(reference):
        raise DataError("every training question is of a reference provenance: leave out --reference_provenance")
    parts, fine = {}, {}  # each: to (questions, summed targets) of the other and of the reference questions
    kinds = list(zip(rows["answer_type"], rows["question_type"]))
    for kind, origin, ids, scores in zip(kinds, provenance, rows["label_ids"], rows["label_scores"]):
        for sums, key in ((parts, kind[0]), (fine, kind)):
            if key not in sums:
                sums[key] = [[0, torch.zeros(num_answers)] for _ in range(2)]
            part = sums[key][origin in reference]
            part[0] += 1
            part[1][ids] += torch.tensor(scores)
    table, row_of = [torch.zeros(num_answers)], defaultdict(int)
    for answer_type, (other, refer) in parts.items():
        questions, summed = other[0] + refer[0], other[1] + refer[1]
        coarse = [_frequencies(part, summed / questions) + SEEN_MORE / questions for part in (other, refer)]
        for kind in sorted(kind for kind in fine if kind[0] == answer_type):
            frequencies = coarse
            if answer_type == "yes/no":
                frequencies = [_frequencies(part, whole) for part, whole in zip(fine[kind], coarse)]
            log_odds = [frequency.clamp(1e-5, 1 - 1e-5).logit() for frequency in frequencies]
            row_of[kind] = len(table)
            table.append(log_odds[0] - log_odds[1])
    of_question = [0 if origin in reference else row_of[kind] for kind, origin in zip(kinds, provenance)]
    return torch.stack(table), of_question


def _frequencies(part, expected):
    questions, summed = part
    return (summed + PRIOR_QUESTIONS * expected) / (questions + PRIOR_QUESTIONS)

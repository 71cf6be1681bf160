"""How much more frequent an answer is in one part of the training questions than where the model will be asked."""

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
    provenance = rows["provenance"][:]
    if unknown := set(reference) - set(provenance):
        known = ", ".join(sorted(set(provenance) - {""})) or "none"
        raise DataError(f"no training question has the provenance {', '.join(sorted(unknown))}; known: {known}")
    if not set(provenance) - set(reference):
        raise DataError("every training question is of a reference provenance: leave out --reference_provenance")
    # Of each kind of question, how many others and how many reference ones there are, and their targets summed up.
    kinds = [
        (answer_type, question_type if answer_type == "yes/no" else "")
        for answer_type, question_type in zip(rows["answer_type"][:], rows["question_type"][:])
    ]
    count = {kind: torch.zeros(2, 1) for kind in sorted(set(kinds))}
    total = {kind: torch.zeros(2, num_answers) for kind in count}
    for kind, origin, ids, scores in zip(kinds, provenance, rows["label_ids"][:], rows["label_scores"][:]):
        part = int(origin in reference)
        count[kind][part] += 1
        total[kind][part, ids] += torch.tensor(scores)
    table, row_of = [torch.zeros(num_answers)], {}
    for kind in count:
        alike = [other for other in count if other[0] == kind[0]]
        questions, summed = sum(count[other] for other in alike), sum(total[other] for other in alike)
        frequencies = _frequencies(summed, questions, summed.sum(0) / questions.sum()) + SEEN_MORE / questions.sum()
        if kind[0] == "yes/no":
            frequencies = _frequencies(total[kind], count[kind], frequencies)
        log_odds = frequencies.clamp(1e-5, 1 - 1e-5).logit()
        row_of[kind] = len(table)
        table.append(log_odds[0] - log_odds[1])
    of_question = [0 if origin in reference else row_of[kind] for kind, origin in zip(kinds, provenance)]
    return torch.stack(table), of_question


def _frequencies(summed, questions, expected):
    return (summed + PRIOR_QUESTIONS * expected) / (questions + PRIOR_QUESTIONS)

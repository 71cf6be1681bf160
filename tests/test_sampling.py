"""Every question of an epoch once, in groups, in shares, in another order every time."""

from collections import Counter

import pytest
from datasets import Dataset

from vqafusion.data_prep.sampling import QuestionSampler


def rows(kinds, images=None, lengths=None):
    count = len(kinds)
    return Dataset.from_dict(
        {
            "answer_type": kinds,
            "image_id": images or [str(i) for i in range(count)],
            "length": lengths or [1] * count,
        }
    )


def test_every_question_once_in_another_order_every_epoch():
    sampler = QuestionSampler(rows(["a"] * 50), 8, seed=0)
    first, second = list(sampler), list(sampler)
    assert sorted(first) == sorted(second) == list(range(50)) and len(sampler) == 50 and first != second
    sampler.set_epoch(0)
    assert list(sampler) == first
    assert list(QuestionSampler(rows(["a"] * 50), 8, seed=1)) not in (first, second)


def test_questions_of_an_image_stay_together():
    images = list("abacbadeaab")
    sampler = QuestionSampler(rows(["a"] * 11, images), 4, seed=0, questions_per_image=2)
    for order in (list(sampler), list(sampler)):
        assert sorted(order) == list(range(11))
        # a stands 5 times and b 3 times: groups of 2, 2, 1 and 2, 1; c, d, e alone: 8 groups at the most
        assert sum(images[one] != images[other] for one, other in zip(order, order[1:])) <= 7
    order = list(QuestionSampler(rows(["a"] * 100, list("ab") * 50), 4, seed=0, questions_per_image=2))
    assert sum(one % 2 != other % 2 for one, other in zip(order, order[1:])) > 10  # groups of both images mixed


def test_batches_are_of_similar_length():
    lengths = [3 + i * 7919 % 20 for i in range(1003)]  # the last batch is not full
    order = list(QuestionSampler(rows(["a"] * 1003, lengths=lengths), 10, seed=0, group_by_length=True))
    batches = [[lengths[i] for i in order[at : at + 10]] for at in range(0, 1000, 10)]
    assert sorted(order) == list(range(1003))
    assert sum(max(batch) - min(batch) for batch in batches) / 100 < 2  # 16 and more in a random order
    tops = [max(batch) for batch in batches]
    assert tops != sorted(tops) and tops != sorted(tops, reverse=True)


def test_shares_by_answer_type():
    kinds = ["yes/no"] * 40 + ["number"] * 20 + ["other"] * 10
    sampler = QuestionSampler(rows(kinds), 8, seed=0, answer_type_sampling={"yes/no": 0.29, "number": 0.6, "other": 1})
    epochs = [list(sampler) for _ in range(30)]
    for order in epochs:
        assert Counter(kinds[i] for i in order) == {"yes/no": 12, "number": 12, "other": 10}
        assert len(set(order)) == len(order) == len(sampler) == 34 and len({kinds[i] for i in order[:10]}) > 1
    assert {i for order in epochs for i in order} == set(range(70))  # all have their turn
    few = QuestionSampler(rows(["number"] * 3), 8, 0, group_by_length=True, answer_type_sampling={"number": 0.1})
    assert len(list(few)) == 1


@pytest.mark.parametrize("share", [0, -1, 1.5, "half"])
def test_bad_shares_are_refused(share):
    with pytest.raises(ValueError, match="share of 'number'"):
        QuestionSampler(rows(["number"]), 1, 0, answer_type_sampling={"number": share})
    with pytest.raises(ValueError, match="no question is of type 'numbers', only of number"):
        QuestionSampler(rows(["number"]), 1, 0, answer_type_sampling={"numbers": 0.5})
    with pytest.raises(ValueError, match="not both"):
        QuestionSampler(rows(["yes"]), 1, 0, questions_per_image=2, group_by_length=True)

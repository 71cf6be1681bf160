"""Splits by their names, without what is missing, or a part of them."""

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_data import SPLIT, rows_of

from vqafusion.data_prep import DataError, check_answered, load_split, split_size, spread


@pytest.mark.parametrize(
    "arguments,words",
    [
        (("easy_vqa", "val"), "train, validation, test"),
        (("coco", "train"), "unknown data set"),
        (("vqa_v2", "val2014"), "--data_dir"),
        (("vqa_v2", "val2014", "/nowhere"), "/nowhere"),
    ],
)
def test_unknown_names(arguments, words):
    with pytest.raises(DataError, match=words):
        load_split(*arguments)


def test_questions_with_few_answers_are_counted(capsys):
    check_answered(rows_of([["a"] * 6, ["a"] * 10] * 4), "some")
    assert capsys.readouterr().out == ""
    check_answered(rows_of([["a"], ["a"] * 5, ["a"] * 6, ["a"] * 10]), "some")
    assert "2 questions of some have 5 answers or fewer" in capsys.readouterr().out
    with pytest.raises(DataError, match="question 1 has no human answers"):
        check_answered(rows_of([["a"], [], ["a"], ["a"]]), "some")


def test_missing_images_are_left_out_on_request(official, capsys):
    (official / SPLIT / f"COCO_{SPLIT}_{2:012d}.jpg").unlink()
    rows = load_split("vqa_v2", SPLIT, official, skip_missing_images=True)
    assert set(rows["image_id"]) == {f"{SPLIT}/1"} and (len(rows), split_size(rows)) == (3, 6)
    assert "1 images are missing" in capsys.readouterr().out
    (official / SPLIT / f"COCO_{SPLIT}_{1:012d}.jpg").unlink()  # the rows are in the cache by now
    with pytest.raises(DataError, match="2 images are missing"):
        load_split("vqa_v2", SPLIT, official, skip_missing_images=True)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 700), st.integers(1, 800))
def test_a_part_of_a_split_is_spread_over_it(questions, most):
    rows = Dataset.from_dict({"question_id": list(range(questions))})
    kept = spread(rows, most)["question_id"][:]
    assert kept == sorted(set(kept)) and len(kept) == min(most, questions)
    gaps = [end - start for start, end in zip([-1, *kept], [*kept, questions])]
    assert max(gaps) <= 2 * questions / min(most, 100) + 2


def test_a_part_of_a_split_keeps_neighbours_together_and_all_is_all():
    rows = Dataset.from_dict({"question_id": list(range(1000))})
    assert spread(rows, 200)["question_id"][:6] == [0, 1, 10, 11, 20, 21]
    assert spread(rows, None) is rows

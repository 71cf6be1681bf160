"""Vocabulary, soft targets, ceiling and prior."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_data import SPLIT, write_json

from vqafusion.data_prep import load_split
from vqafusion.data_prep.answers import (
    answer_frequencies,
    build_vocabulary,
    ceiling,
    prior_answers,
    read_vocabulary,
    soft_targets,
    vocabulary_best,
)
from vqafusion.data_prep.encode import encode
from vqafusion.metrics.vqa_accuracy.vqa_accuracy import normalize_answer, question_score


def test_vocabulary_is_normalised_frequent_first_and_reproducible():
    answers = [["Red.", "red", "two"], ["2", "blue", "the"], ["Blue"]]
    assert build_vocabulary(answers, 10) == ["2", "blue", "red"]
    assert build_vocabulary(reversed(answers), 2) == ["2", "blue"]
    for arguments, words in ((([], 10), "no answers"), ((answers, 0), "at least 1")):
        with pytest.raises(ValueError, match=words):
            build_vocabulary(*arguments)


def test_published_vocabularies_are_read(tmp_path):
    write_json(tmp_path, "answers.json", ["Yes", "yes", "", "two", "net", "A"])
    assert read_vocabulary(tmp_path / "answers.json") == ["yes", "2", "net", "a"]
    (tmp_path / "answers.json").write_text('["yes"]', encoding="utf-8-sig")  # as Windows' editors write it
    assert read_vocabulary(tmp_path / "answers.json") == ["yes"]
    write_json(tmp_path, "answers.json", {"blue": 1, "Red": 0})
    assert read_vocabulary(tmp_path / "answers.json") == ["red", "blue"]
    for text in ("{}", '{"a": "b"}', "[1]", "[", "[]", '[" "]'):
        write_json(tmp_path, "answers.json", text)
        with pytest.raises(ValueError, match="answers.json"):
            read_vocabulary(tmp_path / "answers.json")


def test_ceiling_and_prior(official, processor):
    rows = load_split("vqa_v2", SPLIT, official)
    assert ceiling(vocabulary_best(encode(rows, processor.tokenizer, {"red": 0}), ["red"])) == 90
    assert ceiling(vocabulary_best(encode(rows, processor.tokenizer, {"cat": 0}), ["cat"])) == 0
    two = encode(rows.map(lambda row: {"answers": ["two"] * 10}), processor.tokenizer, {"2": 0})
    assert two["label_scores"][0] == [1]
    assert ceiling(vocabulary_best(two, ["2"])) == 0  # which the metric compares as it stands
    encoded = encode(rows, processor.tokenizer, {"red": 0, "cat": 1, "yes": 2})
    assert answer_frequencies(encoded, 3).tolist() == pytest.approx([0.9, 0, 1])
    assert prior_answers(rows, rows, 1) == [["yes"]] * 6
    other = rows.map(lambda row: {"question_type": "unseen"})
    assert prior_answers(rows, other, 5)[0] == ["yes", "red"]
    rare_first = encode(
        rows.map(lambda row: {"answers": row["answers"][::-1]}), processor.tokenizer, {"yes": 0, "red": 1}
    )
    assert ceiling(vocabulary_best(rare_first, ["yes", "red"])) == 100
    two_types = {
        "question_type": ["is it", "how many", "which"] * 2,
        "answers": [["yes"] * 10, ["2", "3", "2"] * 4, ["a", "the"]] * 2,
    }
    assert prior_answers(two_types, two_types, 2) == [["yes"], ["2", "3"], ["yes", "2"]] * 2


@given(st.lists(st.sampled_from(["yes", "no", "Red.", "red", "2", "two", "dog"]), min_size=10, max_size=10))
def test_soft_targets_are_the_official_scores(answers):
    vocabulary = ["yes", "no", "red", "2"]
    ids, scores = soft_targets(answers, {answer: i for i, answer in enumerate(vocabulary)})
    assert len(ids) == len(set(ids))
    for label, score in zip(ids, scores):
        raw = next(a for a in answers if normalize_answer(a) == vocabulary[label])
        assert score == question_score(raw, answers) > 0
    assert {vocabulary[i] for i in ids} == {normalize_answer(a) for a in answers} & set(vocabulary)

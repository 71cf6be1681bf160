"""The metric against the official evaluator's own results, and its interface."""

import doctest
import json

import evaluate
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vqafusion.metrics import VQA_ACCURACY
from vqafusion.metrics.vqa_accuracy import vqa_accuracy as module
from vqafusion.metrics.vqa_accuracy.vqa_accuracy import normalize_answer, question_score, soft_scores


@pytest.fixture(scope="module")
def golden(shared):
    return json.loads((shared / "golden" / "vqa_accuracy.json").read_text())


@pytest.fixture(scope="module")
def metric():
    return evaluate.load(VQA_ACCURACY)


def test_matches_the_official_scores(golden, metric):
    cases = golden["cases"]
    result = metric.compute(
        predictions=[case["prediction"] for case in cases],
        references=[case["answers"] for case in cases],
        answer_types=[case["answer_type"] for case in cases],
        question_types=[case["question_type"] for case in cases],
        per_question=True,
    )
    wrong = [case for case, score in zip(cases, result["scores"]) if abs(score - case["official_accuracy"]) > 0.005]
    assert wrong == []
    assert result["overall"] == golden["official"]["overall"]
    assert result["per_answer_type"] == golden["official"]["perAnswerType"]
    assert result["per_question_type"] == golden["official"]["perQuestionType"]


def test_matches_the_official_normalisation(golden):
    assert [pair for pair in golden["normalised"] if normalize_answer(pair[0]) != pair[1]] == []


def test_oddities_kept_from_the_official_evaluator():
    assert question_score("Black.", ["black"] * 10) == 0  # identical answers are compared raw
    assert question_score("Black.", ["black"] * 9 + ["red"]) == 1
    assert normalize_answer("1,000 a/b") == "1000 ab"  # a digit comma digit deletes every mark
    assert normalize_answer("3.5 p.m.") == "3.5 pm"
    assert normalize_answer("x." * 33) == "x" * 33 + "."  # only the first 32 periods go
    assert normalize_answer("None of the dont") == "0 of don't"
    assert question_score("Black.", ["black"] * 9 + ["black "]) == 0  # identical but for a space at the end
    assert question_score("hot\tdog", ["hot dog"] * 10) == 1
    assert normalize_answer("somebody'd") == "somebodyd"


@pytest.mark.parametrize("matches,score", [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (9, 1)])
def test_score_by_matches(matches, score):
    answers = ["cat"] * matches + [f"other {i}" for i in range(10 - matches)]
    assert question_score("cat", answers) == pytest.approx(score)


def test_top_5_takes_the_best_of_the_first_five(metric):
    answers = [["cat"] * 9 + ["dog"]]
    ranked = ["cow", "pig", "hen", "fox", "cat", "dog"]
    result = metric.compute(predictions=[ranked], references=answers)
    assert (result["overall"], result["top_5"]) == (0.0, 100.0)
    result = metric.compute(predictions=[["cow", "pig", "hen", "fox", "ox", "cat"]], references=answers)
    assert result["top_5"] == 0.0
    assert result["per_answer_type"] == {} and "scores" not in result


@pytest.mark.parametrize(
    "arguments,words",
    [
        (dict(predictions=[], references=[]), "empty"),
        (dict(predictions=["a"], references=[["a"], ["b"]]), "1 predictions but 2 references"),
        (dict(predictions=["a"], references=[[]]), "references[0]"),
        (dict(predictions=["a", []], references=[["a"], ["b"]]), "predictions[1]"),
        (dict(predictions=["a"], references=[["a"]], answer_types=[]), "0 answer_types"),
        (dict(predictions="a", references=[["a"]]), "predictions must be a list"),
        (dict(predictions=["a"], references=["a"]), "references[0] must be the list of the human answers"),
    ],
)
def test_bad_input_is_named(arguments, words):
    with pytest.raises(ValueError) as error:
        module.vqa_accuracy(**arguments)
    assert words in str(error.value)


@given(st.lists(st.text(max_size=12), min_size=1, max_size=10), st.text(max_size=12))
def test_soft_scores_agree_with_the_score_of_each_answer(answers, other):
    scores = soft_scores(answers)
    for answer in [*answers, other]:
        compared = module.clean(answer) if len(set(map(module.clean, answers))) == 1 else normalize_answer(answer)
        assert question_score(answer, answers) == scores.get(compared, 0)
        assert 0 <= question_score(answer, answers) <= 1


def test_documented_examples_run(monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)
    examples = doctest.DocTestParser().get_doctest(module._KWARGS_DESCRIPTION, {}, "vqa_accuracy", None, 0)
    assert doctest.DocTestRunner().run(examples) == (0, len(examples.examples))

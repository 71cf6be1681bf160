"""What a run keeps, summed up; runs read back; answers of other systems in the official format."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toy_data import rows_of

from vqafusion.analysis.calibration import (
    abstention,
    error_by_chance,
    expected_calibration_error,
    in_first_half,
    reliability,
)
from vqafusion.analysis.records import (
    confidences,
    make_records,
    read_predictions,
    read_run,
    same_questions,
    write_lines,
)
from vqafusion.analysis.scores import accuracy_interval, rounded
from vqafusion.analysis.summary import abstaining, notes, summarize
from vqafusion.command_line import write_json
from vqafusion.metrics.vqa_accuracy.vqa_accuracy import vqa_accuracy

WORDS = ["yes", "no", "2", "red", "a dog", "The Dog."]


def a_run(count=40, seed=0):
    """Random answers with random probabilities about random human answers."""
    rng = np.random.default_rng(seed)
    rows = rows_of([rng.choice(WORDS, 10).tolist() for _ in range(count)])
    ranked = [
        [{"answer": str(a), "score": float(s)} for a, s in zip(rng.permutation(WORDS), np.sort(rng.random(6))[::-1])]
        for _ in range(count)
    ]
    return rows, ranked


def test_a_summary_has_the_metrics_own_scores_within_their_intervals():
    rows, ranked = a_run()
    records = make_records(rows, ranked)
    summary = summarize(records)
    answers = [[each["answer"] for each in candidates] for candidates in ranked]
    metric = vqa_accuracy(answers, rows["answers"], rows["answer_type"], rows["question_type"])
    for name, value in metric.items():
        assert summary[name] == pytest.approx(value, abs=0.011), name
    assert list(summary["per_answer_type"]) == ["yes/no", "number", "other"]
    for name in ("overall", "top_5", "exact_match"):
        low, high = summary["intervals"][name]
        assert low <= summary[name] <= high and low < high
    assert summary["questions_per_question_type"] == {"is it": 20, "what is": 20} and summary["questions"] == 40
    columns = ("accuracy", "image_id", "answer_type", "question_type")
    accuracy, images, *types = (np.array([record[name] for record in records]) for name in columns)
    for name, groups in zip(("per_answer_type", "per_question_type"), types):
        for kind, interval in summary["intervals"][name].items():
            within = groups == kind
            assert interval == rounded(accuracy_interval(accuracy[within], images[within]))


def test_probabilities_are_judged_on_the_images_that_no_temperature_is_fitted_on():
    records = make_records(*a_run())
    summary, confidence = summarize(records), np.array(confidences(records))
    right = np.array([record["accuracy"] / 100 for record in records])
    assert summary["abstention"] == abstention(confidence, right, [record["image_id"] for record in records])
    fitted = in_first_half([record["image_id"] for record in records])
    assert 0 < fitted.sum() < 40
    assert summary["calibration"] == {
        "expected_calibration_error": round(100 * expected_calibration_error(confidence[~fitted], right[~fitted]), 2),
        "by_chance": round(100 * error_by_chance(confidence[~fitted]), 2),
        "questions": (~fitted).sum(),
        "bins": reliability(confidence[~fitted], right[~fitted]),
    }


def test_what_not_sure_would_be_worth():
    ranked = [("cat", 0.8)] * 6 + [("dog", 0.8)] * 4 + [("cat", 0.3)] * 10
    records = make_records(rows_of([["cat"] * 10] * 20), [[{"answer": a, "score": s}] for a, s in ranked])
    assert abstaining(records, 0.8) == {
        "threshold": 0.8, "coverage": 50, "accuracy": 60, "overall": 30, "effective_reliability": 10,
    }  # fmt: skip


@pytest.mark.parametrize("dataset, said", [("own", True), ("hub", True), ("vqa_v2", False)])
def test_repeated_answers_are_told(dataset, said):
    assert any("their answers are repeated" in note for note in notes({"dataset": dataset})) is said


def test_a_split_that_chose_the_model_was_not_trained_on():
    (note,) = notes({"chosen_on_this_split": True})
    assert "was chosen on a split of this name" in note


def test_perfect_constant_and_silent_runs():
    rows = rows_of([["cat"] * 10] * 20)
    perfect = summarize(make_records(rows, [[{"answer": "cat", "score": 1.0}]] * 20))
    assert perfect["overall"] == perfect["exact_match"] == 100 and perfect["intervals"]["overall"] == [66.15, 100]
    assert perfect["calibration"]["expected_calibration_error"] == 0 and "top_5" not in perfect
    some = [[{"answer": "dog"}, {"answer": "cat"}], *[[{"answer": "cat"}]] * 19]
    assert summarize(make_records(rows, some))["top_5"] == 100
    assert perfect["abstention"]["coverage_at_risk"] == {"1": 100, "5": 100, "10": 100}
    wrong = make_records(rows, [[{"answer": "dog", "score": 0.9}]] * 20)
    assert summarize(wrong)["overall"] == 0
    assert abstaining(wrong, 0.95) == {
        "threshold": 0.95, "coverage": 0, "accuracy": None, "overall": 0, "effective_reliability": 0,
    }  # fmt: skip
    assert abstaining(wrong, 0.5)["effective_reliability"] == -100
    records = make_records(*a_run(2))
    assert confidences(records) == [max(each["score"] for each in record["ranked"]) for record in records]
    del records[1]["ranked"][0]["score"]
    assert confidences(records) is None
    silent = make_records(rows, [[{"answer": "cat"}]] * 20)
    assert "calibration" not in summarize(silent)
    with pytest.raises(ValueError, match="needs probabilities"):
        abstaining(silent, 0.5)


def test_one_image_tells_nothing_about_others():
    summary = summarize(make_records(*a_run(2)))
    assert summary["intervals"]["overall"] is None and summary["calibration"]["questions"] == 2


def test_exact_match_normalises_and_takes_the_most_frequent_answer():
    rows = rows_of([["a dog"] * 6 + ["cat"] * 4] * 2)
    first, second = make_records(rows, [[{"answer": "The dog."}], [{"answer": "cat"}]])
    assert (first["exact"], first["accuracy"]) == (True, 100) and (second["exact"], second["accuracy"]) == (False, 100)


def test_a_run_is_read_back(tmp_path):
    records = make_records(*a_run(6))
    records[0]["question"] = "one line\u2028or two\x85?"
    write_json(tmp_path / "metrics.json", summarize(records))
    write_lines(tmp_path / "answers.jsonl", records)
    metrics, again = read_run(tmp_path)
    assert again == json.loads(json.dumps(records)) and metrics["questions"] == 6
    assert same_questions(records, again[::-1]) == again
    with pytest.raises(ValueError, match="other questions: 5 where 6 are asked for and question 5 is not among them"):
        same_questions(records, again[:5])
    with pytest.raises(ValueError, match="about other questions: 6 where 5 are asked for"):
        same_questions(records[:5], again)
    for name, value in (("question", "is it?"), ("answers", ["no"] * 10), ("image_id", "9")):
        with pytest.raises(ValueError, match="its question 0 is"):
            same_questions([{**records[0], name: value}, *records[1:]], again)
    (tmp_path / "answers.jsonl").write_text('{"question_id": 1}\n')
    with pytest.raises(ValueError, match="cannot be read: KeyError"):
        read_run(tmp_path)
    with pytest.raises(ValueError, match="is not the --output_dir of an eval.py run: no metrics.json"):
        read_run(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"accuracy": 140}, "an accuracy of 140"),
        ({"accuracy": None}, "cannot be read: TypeError"),
        ({"ranked": []}, "cannot be read: IndexError"),
        ({"question_id": 0}, "stands more than once"),
    ],
)
def test_a_run_that_somebody_changed_is_refused(tmp_path, changes, words):
    records = make_records(*a_run(6))
    write_json(tmp_path / "metrics.json", summarize(records))
    write_lines(tmp_path / "answers.jsonl", [*records[:5], records[5] | changes])
    with pytest.raises(ValueError, match=words):
        read_run(tmp_path)


def predictions_file(folder, content):
    file = folder / "predictions.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


def test_predictions_in_the_official_format(tmp_path):
    entries = [{"question_id": 2, "answer": "No", "score": 0}, {"question_id": 1, "answer": "yes", "score": 1}]
    file = predictions_file(tmp_path, entries)
    assert read_predictions(file, [1, 2]) == [[{"answer": "yes", "score": 1}], [{"answer": "No", "score": 0}]]


@pytest.mark.parametrize(
    "content, said",
    [
        ("[", "is not valid JSON"),
        ({"1": "yes"}, "must be a JSON list"),
        ([{"question_id": 1}], "entry 0 needs question_id, a number, and answer, a text"),
        ([{"question_id": True, "answer": "a"}], "entry 0 needs"),
        ([{"question_id": "1", "answer": "a"}], "entry 0 needs"),
        ([{"question_id": 1, "answer": "\ud83d"}], "entry 0 needs"),
        ("[" * 100_000, "is not valid JSON"),
        ([{"question_id": 1, "answer": "a", "score": 1}, {"question_id": 2, "answer": "a"}], "some have none"),
        ([{"question_id": 1, "answer": 5}], "entry 0 needs"),
        ([{"question_id": 1, "answer": "a", "score": 2}], "score of question 1 must be from 0 to 1, not 2"),
        ([{"question_id": 1, "answer": "a", "score": True}], "must be from 0 to 1, not True"),
        ([{"question_id": 1, "answer": "a"}] * 2, "question 1 is answered twice"),
        ([{"question_id": 1, "answer": "a"}], "1 questions are not answered, such as 2"),
        ([{"question_id": k, "answer": "a"} for k in (1, 2, 3)], "1 questions are not of this split, such as 3"),
    ],
)
def test_what_the_evaluation_server_would_refuse_is_named(content, said, tmp_path):
    with pytest.raises(ValueError, match=said) as error:
        read_predictions(predictions_file(tmp_path, content), [1, 2])
    assert "predictions.json" in str(error.value)


KEYS = ["question_id", "answer", "score"]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner),
    max_leaves=6,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(json_values)
def test_any_file_is_read_or_refused(tmp_path, content):
    try:
        (answers,) = read_predictions(predictions_file(tmp_path, json.dumps(content)), [1])
    except ValueError as error:
        assert "predictions.json" in str(error)
    else:
        assert isinstance(answers[0]["answer"], str)

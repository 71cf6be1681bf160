"""eval.py as a user runs it, with all it can explain; and what it says of bad input."""

import html
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from commands import evaluate, in_process, refused, run
from toy_data import SPLIT, annotations_file, rows_of, write_vqa_v2
from toy_runs import evaluate_in, metrics_of

from vqafusion import eval as evaluation
from vqafusion.analysis import compare as comparison
from vqafusion.analysis.model_run import ModelRun
from vqafusion.analysis.records import make_records
from vqafusion.analysis.scores import p_text
from vqafusion.analysis.words import Words


def test_eval_scores_as_the_metric_does(trained, tmp_path):
    arguments = ("--dataset", "vqa_v2", "--data_dir", trained / "data", "--split", SPLIT)
    result = run("eval.py", "--model", trained / "model", *arguments, "--output_dir", tmp_path, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    predictions = json.loads((tmp_path / "predictions.json").read_text())
    assert {p["question_id"] for p in predictions} == {1000 * i + n for i in range(1, 5) for n in range(3)}
    worth = {"yes": 100.0, "red": 90.0}
    expected = sum(worth[p["answer"]] for p in predictions) / 12
    assert metrics["overall"] == pytest.approx(expected, abs=0.005) and metrics["top_5"] == 100
    assert metrics["per_answer_type"] == {"yes/no": metrics["overall"]} == {"yes/no": metrics["overall"]}
    assert metrics["per_question_type"] == {"is it": metrics["overall"]} and metrics["questions"] == 12
    assert f"{metrics['overall']:.2f}" in result.stdout
    assert metrics["chosen_on_this_split"]
    for report in ("report.html", "report.md"):
        assert "was chosen on a split of this name" in (tmp_path / report).read_text()


def test_baselines_need_no_images(trained, tmp_path):
    shutil.copytree(trained / "data", tmp_path / "data", ignore=shutil.ignore_patterns(SPLIT))
    data = ("--dataset", "vqa_v2", "--data_dir", tmp_path / "data")
    arguments = (*data, "--split", SPLIT)
    prior = evaluate(tmp_path / "prior", "--baseline", "prior", "--train_split", SPLIT, *arguments)
    assert prior["overall"] == 100 and prior["per_question_type"] == {"is it": 100}
    train = ("train.py", trained / "recipe.yaml", *data, "--output_dir", tmp_path / "model", "--max_steps", 2)
    result = run(*train, "--blind", 1)
    assert result.returncode == 0, result.stderr[-3000:]
    assert json.loads((tmp_path / "model" / "config.json").read_text())["blind"] is True
    assert evaluate(tmp_path / "blind", "--model", tmp_path / "model", *arguments)["questions"] == 12
    predictions = tmp_path / "blind" / "predictions.json"
    assert evaluate(tmp_path / "said", "--predictions", predictions, *arguments)["questions"] == 12
    refused(run(*train, "--output_dir", tmp_path / "seeing"), "no image folder")
    refused(run("eval.py", "--model", trained / "model", *arguments, "--output_dir", tmp_path / "out"), "no image")
    result = run("eval.py", "--baseline", "luck", *arguments, "--output_dir", tmp_path / "out")
    refused(result, "--baseline prior")


def test_a_run_holds_all_that_was_asked_for(runs):
    metrics = metrics_of(runs, "run")
    assert 0 < metrics["overall"] < 100 and metrics["questions"] == 24 and metrics["vocabulary_ceiling"] == 100
    for name in ("blind", "prior"):
        assert metrics["compared"][name]["overall"] == metrics_of(runs, name)["overall"]
        expected = metrics["overall"] - metrics["compared"][name]["overall"]
        assert metrics["compared"][name]["difference"] == pytest.approx(expected, abs=0.01)
    assert metrics["abstaining"]["threshold"] == 0.4 and metrics["heat_maps"]["questions"] == 3
    saved = json.loads((runs / "model" / "config.json").read_text())
    assert saved["answer_temperature"] == metrics["temperature"]["temperature"] != 1
    lines = (runs / "run" / "failures.jsonl").read_text().splitlines()
    failures = [json.loads(line) for line in lines]
    answers = [json.loads(line) for line in (runs / "run" / "answers.jsonl").read_text().splitlines()]
    assert len(answers) == 24 and len(failures) == sum(a["accuracy"] < 50 for a in answers) > 0
    assert all(len(failure["heat_map"]) == 4 for failure in failures)
    assert all(("same as blind" in f["categories"]) == (f["blind"] == f["ranked"][0]["answer"]) for f in failures)
    table = {row["category"]: row for row in metrics["failures"]}
    assert table["same as blind"]["judged"] == len(failures) and "trained_on_this_split" not in metrics
    assert not {"same as blind", "low confidence"} & {row["category"] for row in metrics_of(runs, "prior")["failures"]}
    printed = (runs / "printed.txt").read_text()
    assert f"{metrics['overall']:.2f}" in printed and "above prior" in printed
    assert f"p {p_text(metrics['compared']['prior']['p_value'])}" in printed


def test_the_fitted_temperature_changes_probabilities_and_no_answers(runs):
    first, second = (
        [json.loads(line) for line in (runs / name / "answers.jsonl").read_text().splitlines()]
        for name in ("other", "run")
    )
    for before, after in zip(first, second):
        assert [a["answer"] for a in before["ranked"]] == [a["answer"] for a in after["ranked"]]
        assert before["ranked"][0]["score"] != after["ranked"][0]["score"]


def test_a_model_saved_before_there_was_a_temperature_loads(runs, tmp_path):
    shutil.copytree(runs / "model", tmp_path / "old")
    config = json.loads((tmp_path / "old" / "config.json").read_text())
    assert config.pop("answer_temperature") != 1
    (tmp_path / "old" / "config.json").write_text(json.dumps(config))
    evaluate_in(runs, "old", "--model", tmp_path / "old")
    assert metrics_of(runs, "old")["overall"] == metrics_of(runs, "run")["overall"]


def test_answers_of_another_system_are_evaluated_without_its_model(runs):
    evaluate_in(runs, "again", "--predictions", runs / "run" / "predictions.json")
    metrics, expected = metrics_of(runs, "again"), metrics_of(runs, "run")
    for name in ("overall", "per_answer_type", "per_question_type", "exact_match", "questions"):
        assert metrics[name] == expected[name]
    assert "top_5" not in metrics and "calibration" not in metrics and "vocabulary_ceiling" not in metrics
    report = (runs / "again" / "report.html").read_text()
    assert 'id="maps"' not in report and "surest first" not in report  # of which there are none
    kept = [(runs / name / "predictions.json").read_text() for name in ("run", "again")]
    assert kept[0] == kept[1]
    (runs / "again" / "predictions.json").write_text(kept[1] + "\n")
    evaluate_in(runs, "again", "--predictions", runs / "again" / "predictions.json")
    assert (runs / "again" / "predictions.json").read_text() == kept[1] + "\n"


def test_heat_maps_can_be_left_out(runs):
    evaluate_in(runs, "plain", "--model", runs / "model", "--heat_maps", "False")
    names = [{row["category"] for row in metrics_of(runs, name)["failures"]} for name in ("run", "plain")]
    assert "diffuse heat map" in names[0] and "diffuse heat map" not in names[1]
    assert 'id="maps"' in (runs / "run" / "report.html").read_text()
    assert 'id="maps"' not in (runs / "plain" / "report.html").read_text()


def test_a_split_without_answers_gets_a_submission_and_is_checked(runs, tmp_path, capsys):
    write_vqa_v2(tmp_path / "data", images=8, split="test2015")
    (tmp_path / "data" / "v2_mscoco_test2015_annotations.json").unlink()
    where = ("--dataset", "vqa_v2", "--data_dir", tmp_path / "data", "--split", "test2015")
    where += ("--output_dir", tmp_path / "out")
    result = run("eval.py", "--model", runs / "model", *where)
    assert result.returncode == 0 and "no human answers" in result.stdout, result.stderr[-2000:]
    entries = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert len(entries) == 24 and all(set(entry) == {"question_id", "answer"} for entry in entries)
    assert all(isinstance(e["question_id"], int) and isinstance(e["answer"], str) for e in entries)
    result = run("eval.py", "--predictions", tmp_path / "out" / "predictions.json", *where)
    assert result.returncode == 0 and "answered once" in result.stdout
    result = run("eval.py", "--model", runs / "model", *where, "--fit_temperature", "True")
    refused(result, "--fit_temperature: test2015 has no human answers")
    for name, value in (
        ("abstain_below", 0.5),
        ("heat_map_questions", 3),
        ("blind_run", runs),
        ("prior_run", runs),
    ):
        arguments = ("--model", runs / "model", *where, f"--{name}", value)
        refused(in_process(capsys, *arguments, script=evaluation), f"--{name}: test2015 has no human answers")
    other = ("--model", runs / "model", *where[:-1], runs / "run")
    refused(in_process(capsys, *other, script=evaluation), "holds the report of other questions")
    (tmp_path / "short.json").write_text(json.dumps(entries[1:]))
    result = run("eval.py", "--predictions", tmp_path / "short.json", *where)
    refused(result, "short.json: 1 questions are not answered")


def test_two_runs_are_compared(runs, tmp_path, capsys):
    compare = Path(sys.executable).with_name("vqafusion-compare")
    result = run(compare, runs / "run", runs / "prior", "--json", start=())
    assert result.returncode == 0, result.stderr[-2000:]
    rows = json.loads(result.stdout)
    assert list(rows) == ["overall", "number", "other", "yes/no"] and rows["overall"]["questions"] == 24
    expected = metrics_of(runs, "run")["compared"]["prior"]
    assert rows["overall"]["difference"] == pytest.approx(expected["difference"])
    assert rows["overall"]["p_value"] == expected["p_value"]
    shutil.copytree(runs / "prior", tmp_path / "reversed")
    lines = (runs / "prior" / "answers.jsonl").read_text().strip().split("\n")
    (tmp_path / "reversed" / "answers.jsonl").write_text("\n".join(lines[::-1]))
    comparison.main([str(runs / "run"), str(tmp_path / "reversed"), "--json"])
    assert json.loads(capsys.readouterr().out) == rows  # whatever the order of the questions
    comparison.main([str(runs / "run"), str(runs / "prior")])
    overall = "{a:>8.2f}{b:>8.2f}{difference:>+8.2f}   of too few images".format(**rows["overall"])
    assert f"overall     {overall}" in capsys.readouterr().out
    result = run(compare, runs / "run", tmp_path, start=())
    refused(result, "is not the --output_dir of an eval.py run")


@pytest.mark.parametrize(
    "arguments, words",
    [
        ((), ["one of --model, --baseline and --predictions"]),
        (("--model", "m", "--predictions", "p"), ["one of --model, --baseline and --predictions"]),
        (("--predictions", "p.json", "--fit_temperature", "True"), ["--fit_temperature needs a --model"]),
        (("--predictions", "p.json", "--heat_map_questions", "9"), ["--heat_map_questions needs a --model"]),
        (("--model", "m", "--max_samples", "0"), ["--max_samples must be at least 1"]),
        (("--model", "m", "--batch_size", "0"), ["--batch_size must be at least 1"]),
        (("--baseline", "prior"), ["--baseline prior needs --train_split"]),
        (("--model", "m", "--heat_map_questions", "-3"), ["--heat_map_questions must be at least 0"]),
        (("--model", "user/name", "--fit_temperature", "True"), ["must be a folder"]),
        (("--model", "m", "--abstain_below", "2"), ["--abstain_below", "from 0 to 1"]),
        (("--model", "m", "--wordnet", "/nowhere"), ["/nowhere", "data.noun"]),
    ],
)
def test_bad_usage_is_named_before_anything_runs(arguments, words, tmp_path, capsys):
    where = ("--dataset", "vqa_v2", "--split", "x", "--output_dir", tmp_path / "out")
    refused(in_process(capsys, *arguments, *where, script=evaluation), *words)


def test_eval_names_bad_input(trained, tmp_path, capsys):
    data = write_vqa_v2(tmp_path / "data")
    model = ("--model", trained / "model", "--dataset", "vqa_v2", "--data_dir", data)
    result = run("eval.py", *model, "--split", "val", "--output_dir", tmp_path / "out")
    refused(result, "'val'", SPLIT)
    assert not (tmp_path / "out").exists()
    for place in ("/proc/none", "/proc"):  # there, and still not to be written to
        result = in_process(capsys, *model, "--split", SPLIT, "--output_dir", place, script=evaluation)
        refused(result, f"cannot write to {place}:")
    annotations_file(data).write_text("{")
    result = run("eval.py", *model, "--split", SPLIT, "--output_dir", tmp_path / "out")
    refused(result, "not valid JSON", "annotations.json")


def test_a_wrong_baseline_is_refused_before_anything_is_written(runs, tmp_path, capsys):
    where = ("--dataset", "vqa_v2", "--data_dir", runs / "data", "--split", SPLIT, "--output_dir", tmp_path / "out")
    before = (runs / "model" / "config.json").read_bytes()
    for more, words in (
        (("--blind_run", runs / "prior"), ["--blind_run", "'prior'", "not of the blind baseline"]),
        (("--prior_run", tmp_path), ["is not the --output_dir of an eval.py run"]),
        (("--prior_run", runs / "prior", "--max_samples", 5), ["--prior_run", "24 where 5 are asked for"]),
    ):
        arguments = ("--model", runs / "model", *where, *more, "--fit_temperature", "True")
        refused(in_process(capsys, *arguments, script=evaluation), *words)
    assert list((tmp_path / "out").iterdir()) == [] and (runs / "model" / "config.json").read_bytes() == before


def test_a_picture_that_cannot_be_read_does_not_cost_the_report(runs, tmp_path):
    shutil.copytree(runs / "data", tmp_path / "data")
    next((tmp_path / "data" / SPLIT).iterdir()).write_bytes(b"rubbish")
    predictions = ("--predictions", runs / "run" / "predictions.json")
    where = ("--dataset", "vqa_v2", "--data_dir", tmp_path / "data", "--split", SPLIT, "--output_dir", tmp_path / "out")
    result = run("eval.py", *predictions, *where)
    assert result.returncode == 0 and (tmp_path / "out" / "report.html").is_file(), result.stderr[-2000:]


def test_questions_left_out_are_counted(runs, tmp_path):
    shutil.copytree(runs / "data", tmp_path / "data")
    next((tmp_path / "data" / SPLIT).iterdir()).unlink()
    where = ("--dataset", "vqa_v2", "--data_dir", tmp_path / "data", "--split", SPLIT, "--output_dir", tmp_path / "out")
    result = run("eval.py", "--baseline", "prior", "--train_split", SPLIT, *where, "--skip_missing_images", "True")
    assert result.returncode == 0, result.stderr[-2000:]
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["questions"] < metrics["questions_in_split"] == 24


def test_what_a_score_must_not_be_taken_for_is_said(runs, tmp_path, capsys):
    shutil.copytree(runs / "model", tmp_path / "model")
    made = {"dataset": "vqa_v2", "train_split": SPLIT, "eval_split": SPLIT}
    (tmp_path / "model" / "training.json").write_text(json.dumps(made))
    evaluate_in(runs, "part", "--model", tmp_path / "model", "--max_samples", "10")
    metrics = metrics_of(runs, "part")
    assert metrics["trained_on_this_split"] is metrics["chosen_on_this_split"] is True
    assert (metrics["questions"], metrics["questions_in_split"]) == (10, 24)
    assert ModelRun.seen(SimpleNamespace(training=made), "own", SPLIT) == {}
    for name in ("training.json", "trainer_state.json"):  # found before the questions are answered, not after it
        (tmp_path / "model" / name).write_text('{"cut')
        where = ("--dataset", "vqa_v2", "--data_dir", runs / "data", "--split", SPLIT, "--output_dir", tmp_path / "out")
        result = in_process(capsys, "--model", tmp_path / "model", *where, script=evaluation)
        assert (
            result.returncode == 2 and f"{name} is not valid JSON" in result.stderr and "Answering" not in result.stderr
        )
        (tmp_path / "model" / name).write_text(json.dumps(made))
    for name in ("report.md", "report.html"):
        text = (runs / "part" / name).read_text()
        assert "Only 10 of the split's 24 questions" in html.unescape(text) and "what is remembered" in text
    assert "what is remembered" in (runs / "prior" / "report.md").read_text()  # counted on the split itself
    assert "what is remembered" not in (runs / "run" / "report.md").read_text()


def test_each_failure_is_explained_by_what_is_known_of_its_question():
    records = make_records(rows_of([["red"] * 10] * 3), [[{"answer": each}] for each in ("blue", "red", "blue")])
    blind = [{"ranked": [{"answer": each}]} for each in ("red", "red", "blue")]
    table = evaluation.explain(records, {}, [100, 0, 0], blind, Words())
    assert [record.get("categories") for record in records] == [[], None, ["not in vocabulary", "same as blind"]]
    assert {row["category"]: row["failures"] for row in table if row["failures"]} == {
        "not in vocabulary": 1, "same as blind": 1,
    }  # fmt: skip

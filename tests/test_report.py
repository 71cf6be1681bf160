"""eval.py with all it can explain, and its report in a real browser."""

import base64
import html
import io
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ANSWERS, QUESTIONS, draw, tiny_config
from datasets import Dataset
from matplotlib.figure import Figure
from PIL import Image
from test_command_line import Printed, in_process, refused, run
from test_data_prep import SPLIT, write_vqa_v2
from test_records import rows_of

from vqafusion import VqaFusionForVisualQuestionAnswering
from vqafusion import eval as evaluation
from vqafusion.analysis import compare as comparison
from vqafusion.analysis.calibration import in_first_half
from vqafusion.analysis.model_run import ModelRun
from vqafusion.analysis.plots import plots
from vqafusion.analysis.records import make_records
from vqafusion.analysis.report import _gallery, _map, heat_map_table, judged, shown, table, write_report
from vqafusion.analysis.summary import summarize
from vqafusion.analysis.words import Words
from vqafusion.data_prep import FEATURES

STRANGE = "<b>is it</b> <!-- <script> </script> & “red” $a_$ ç?"  # must come out as it is


@pytest.fixture(scope="module")
def folder(processor, tmp_path_factory):
    """A model, data of which it gets a part right, and eval.py runs of the model, of itself as blind, of the prior."""
    folder = tmp_path_factory.mktemp("report")
    torch.manual_seed(0)
    VqaFusionForVisualQuestionAnswering(tiny_config()).save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    log = [{"step": 1, "loss": 9.0}, {"step": 1, "eval_overall": 20.0}, {"step": 2, "eval_overall": 30.0}]
    (folder / "model" / "trainer_state.json").write_text(json.dumps({"log_history": log}))
    shutil.copytree(folder / "model", folder / "blind-model")
    change_config(folder / "blind-model", blind=True)
    write_vqa_v2(folder / "data", images=8)
    change(folder / f"data/v2_mscoco_{SPLIT}_annotations.json", "annotations", annotate)
    change(folder / f"data/v2_OpenEnded_mscoco_{SPLIT}_questions.json", "questions", ask)
    evaluate(folder, "prior", "--baseline", "prior", "--train_split", SPLIT)
    evaluate(folder, "other", "--model", folder / "model")
    evaluate(folder, "blind", "--model", folder / "blind-model")
    baselines = ("--blind_run", folder / "blind", "--prior_run", folder / "prior")
    more = ("--fit_temperature", "True", "--abstain_below", "0.4", "--heat_map_questions", "3")
    (folder / "printed.txt").write_text(evaluate(folder, "run", "--model", folder / "model", *baselines, *more))
    return folder


def change_config(folder, **values):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))


def change(file, key, with_each):
    content = json.loads(file.read_text())
    for number, entry in enumerate(content[key]):
        with_each(number, entry)
    file.write_text(json.dumps(content))


def annotate(number, entry):
    for each in entry["answers"]:
        each["answer"] = ANSWERS[number % 6]
    entry["answer_type"] = ["yes/no", "yes/no", "other", "other", "other", "number"][number % 6]
    entry["question_type"] = ["is it", "what color"][number % 2]


def ask(number, entry):
    if number == 1:
        entry["question"] = STRANGE


def evaluate(folder, name, *arguments):
    where = ("--dataset", "vqa_v2", "--data_dir", folder / "data", "--split", SPLIT, "--output_dir", folder / name)
    result = run("eval.py", *arguments, *where)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def metrics_of(folder, name):
    return json.loads((folder / name / "metrics.json").read_text())


def test_a_run_holds_all_that_was_asked_for(folder):
    metrics = metrics_of(folder, "run")
    assert 0 < metrics["overall"] < 100 and metrics["questions"] == 24 and metrics["vocabulary_ceiling"] == 100
    for name in ("blind", "prior"):
        assert metrics["compared"][name]["overall"] == metrics_of(folder, name)["overall"]
        expected = metrics["overall"] - metrics["compared"][name]["overall"]
        assert metrics["compared"][name]["difference"] == pytest.approx(expected, abs=0.01)
    assert metrics["abstaining"]["threshold"] == 0.4 and metrics["heat_maps"]["questions"] == 3
    saved = json.loads((folder / "model" / "config.json").read_text())
    assert saved["answer_temperature"] == metrics["temperature"]["temperature"] != 1
    lines = (folder / "run" / "failures.jsonl").read_text().splitlines()
    failures = [json.loads(line) for line in lines]
    answers = [json.loads(line) for line in (folder / "run" / "answers.jsonl").read_text().splitlines()]
    assert len(answers) == 24 and len(failures) == sum(a["accuracy"] < 50 for a in answers) > 0
    assert all(len(failure["heat_map"]) == 4 for failure in failures)
    assert all(("same as blind" in f["categories"]) == (f["blind"] == f["ranked"][0]["answer"]) for f in failures)
    table = {row["category"]: row for row in metrics["failures"]}
    assert table["same as blind"]["judged"] == len(failures) and "trained_on_this_split" not in metrics
    assert not {"same as blind", "low confidence"} & {
        row["category"] for row in metrics_of(folder, "prior")["failures"]
    }
    printed = (folder / "printed.txt").read_text()
    assert f"{metrics['overall']:.2f}" in printed and "above prior" in printed and "p = " in printed


def test_the_fitted_temperature_changes_probabilities_and_no_answers(folder):
    first, second = (
        [json.loads(line) for line in (folder / name / "answers.jsonl").read_text().splitlines()]
        for name in ("other", "run")
    )
    for before, after in zip(first, second):
        assert [a["answer"] for a in before["ranked"]] == [a["answer"] for a in after["ranked"]]
        assert before["ranked"][0]["score"] != after["ranked"][0]["score"]


def test_a_model_saved_before_there_was_a_temperature_loads(folder, tmp_path):
    shutil.copytree(folder / "model", tmp_path / "old")
    config = json.loads((tmp_path / "old" / "config.json").read_text())
    assert config.pop("answer_temperature") != 1
    (tmp_path / "old" / "config.json").write_text(json.dumps(config))
    evaluate(folder, "old", "--model", tmp_path / "old")
    assert metrics_of(folder, "old")["overall"] == metrics_of(folder, "run")["overall"]


def test_answers_of_another_system_are_evaluated_without_its_model(folder):
    evaluate(folder, "again", "--predictions", folder / "run" / "predictions.json")
    metrics, expected = metrics_of(folder, "again"), metrics_of(folder, "run")
    for name in ("overall", "per_answer_type", "per_question_type", "exact_match", "questions"):
        assert metrics[name] == expected[name]
    assert "top_5" not in metrics and "calibration" not in metrics and "vocabulary_ceiling" not in metrics
    report = (folder / "again" / "report.html").read_text()
    assert 'id="maps"' not in report and "surest first" not in report  # of which there are none
    kept = [(folder / name / "predictions.json").read_text() for name in ("run", "again")]
    assert kept[0] == kept[1]
    (folder / "again" / "predictions.json").write_text(kept[1] + "\n")
    evaluate(folder, "again", "--predictions", folder / "again" / "predictions.json")
    assert (folder / "again" / "predictions.json").read_text() == kept[1] + "\n"


def test_heat_maps_can_be_left_out(folder):
    evaluate(folder, "plain", "--model", folder / "model", "--heat_maps", "False")
    names = [{row["category"] for row in metrics_of(folder, name)["failures"]} for name in ("run", "plain")]
    assert "diffuse heat map" in names[0] and "diffuse heat map" not in names[1]
    assert 'id="maps"' in (folder / "run" / "report.html").read_text()
    assert 'id="maps"' not in (folder / "plain" / "report.html").read_text()


def test_a_split_without_answers_gets_a_submission_and_is_checked(folder, tmp_path, capsys):
    write_vqa_v2(tmp_path / "data", images=8, split="test2015")
    (tmp_path / "data" / "v2_mscoco_test2015_annotations.json").unlink()
    where = ("--dataset", "vqa_v2", "--data_dir", tmp_path / "data", "--split", "test2015")
    where += ("--output_dir", tmp_path / "out")
    result = run("eval.py", "--model", folder / "model", *where)
    assert result.returncode == 0 and "no human answers" in result.stdout, result.stderr[-2000:]
    entries = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert len(entries) == 24 and all(set(entry) == {"question_id", "answer"} for entry in entries)
    assert all(isinstance(e["question_id"], int) and isinstance(e["answer"], str) for e in entries)
    result = run("eval.py", "--predictions", tmp_path / "out" / "predictions.json", *where)
    assert result.returncode == 0 and "answered once" in result.stdout
    result = run("eval.py", "--model", folder / "model", *where, "--fit_temperature", "True")
    refused(result.returncode, Printed(result), "--fit_temperature: test2015 has no human answers")
    for name, value in (
        ("abstain_below", 0.5),
        ("heat_map_questions", 3),
        ("blind_run", folder),
        ("prior_run", folder),
    ):
        arguments = ("--model", folder / "model", *where, f"--{name}", value)
        refused(*in_process(capsys, *arguments, script=evaluation), f"--{name}: test2015 has no human answers")
    other = ("--model", folder / "model", *where[:-1], folder / "run")
    refused(*in_process(capsys, *other, script=evaluation), "holds the report of other questions")
    (tmp_path / "short.json").write_text(json.dumps(entries[1:]))
    result = run("eval.py", "--predictions", tmp_path / "short.json", *where)
    refused(result.returncode, Printed(result), "short.json: 1 questions are not answered")


def test_two_runs_are_compared(folder, tmp_path, capsys):
    compare = Path(sys.executable).with_name("vqafusion-compare")
    result = run(compare, folder / "run", folder / "prior", "--json", start=())
    assert result.returncode == 0, result.stderr[-2000:]
    rows = json.loads(result.stdout)
    assert list(rows) == ["overall", "number", "other", "yes/no"] and rows["overall"]["questions"] == 24
    expected = metrics_of(folder, "run")["compared"]["prior"]
    assert rows["overall"]["difference"] == pytest.approx(expected["difference"])
    assert rows["overall"]["p_value"] == expected["p_value"]
    shutil.copytree(folder / "prior", tmp_path / "reversed")
    lines = (folder / "prior" / "answers.jsonl").read_text().strip().split("\n")
    (tmp_path / "reversed" / "answers.jsonl").write_text("\n".join(lines[::-1]))
    comparison.main([str(folder / "run"), str(tmp_path / "reversed"), "--json"])
    assert json.loads(capsys.readouterr().out) == rows  # whatever the order of the questions
    comparison.main([str(folder / "run"), str(folder / "prior")])
    overall = "{a:>8.2f}{b:>8.2f}{difference:>+8.2f}   of too few images".format(**rows["overall"])
    assert f"overall     {overall}" in capsys.readouterr().out
    result = run(compare, folder / "run", tmp_path, start=())
    refused(result.returncode, Printed(result), "is not the --output_dir of an eval.py run")


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
    refused(*in_process(capsys, *arguments, *where, script=evaluation), *words)


def test_a_wrong_baseline_is_refused_before_anything_is_written(folder, tmp_path, capsys):
    where = ("--dataset", "vqa_v2", "--data_dir", folder / "data", "--split", SPLIT, "--output_dir", tmp_path / "out")
    before = (folder / "model" / "config.json").read_bytes()
    for more, words in (
        (("--blind_run", folder / "prior"), ["--blind_run", "'prior'", "not of the blind baseline"]),
        (("--prior_run", tmp_path), ["is not the --output_dir of an eval.py run"]),
        (("--prior_run", folder / "prior", "--max_samples", 5), ["--prior_run", "24 where 5 are asked for"]),
    ):
        arguments = ("--model", folder / "model", *where, *more, "--fit_temperature", "True")
        refused(*in_process(capsys, *arguments, script=evaluation), *words)
    assert list((tmp_path / "out").iterdir()) == [] and (folder / "model" / "config.json").read_bytes() == before


def test_a_picture_that_cannot_be_read_does_not_cost_the_report(folder, tmp_path):
    shutil.copytree(folder / "data", tmp_path / "data")
    next((tmp_path / "data" / SPLIT).iterdir()).write_bytes(b"rubbish")
    predictions = ("--predictions", folder / "run" / "predictions.json")
    where = ("--dataset", "vqa_v2", "--data_dir", tmp_path / "data", "--split", SPLIT, "--output_dir", tmp_path / "out")
    result = run("eval.py", *predictions, *where)
    assert result.returncode == 0 and (tmp_path / "out" / "report.html").is_file(), result.stderr[-2000:]


def test_questions_left_out_are_counted(folder, tmp_path):
    shutil.copytree(folder / "data", tmp_path / "data")
    next((tmp_path / "data" / SPLIT).iterdir()).unlink()
    where = ("--dataset", "vqa_v2", "--data_dir", tmp_path / "data", "--split", SPLIT, "--output_dir", tmp_path / "out")
    result = run("eval.py", "--baseline", "prior", "--train_split", SPLIT, *where, "--skip_missing_images", "True")
    assert result.returncode == 0, result.stderr[-2000:]
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["questions"] < metrics["questions_in_split"] == 24


def test_what_a_score_must_not_be_taken_for_is_said(folder, tmp_path):
    shutil.copytree(folder / "model", tmp_path / "model")
    made = {"dataset": "vqa_v2", "train_split": SPLIT, "eval_split": SPLIT}
    (tmp_path / "model" / "training.json").write_text(json.dumps(made))
    evaluate(folder, "part", "--model", tmp_path / "model", "--max_samples", "10")
    metrics = metrics_of(folder, "part")
    assert metrics["trained_on_this_split"] is metrics["chosen_on_this_split"] is True
    assert (metrics["questions"], metrics["questions_in_split"]) == (10, 24)
    assert ModelRun.seen(SimpleNamespace(folder=tmp_path / "model"), "own", SPLIT) == {}
    for name in ("report.md", "report.html"):
        text = (folder / "part" / name).read_text()
        assert "Only 10 of the split's 24 questions" in html.unescape(text) and "what is remembered" in text
    assert "what is remembered" in (folder / "prior" / "report.md").read_text()  # counted on the split itself
    assert "what is remembered" not in (folder / "run" / "report.md").read_text()


def test_there_are_no_empty_columns_and_no_plot_of_one_question_type(tmp_path):
    rows = Dataset.from_dict(rows_of([["red"] * 10] * 4).to_dict() | {"question_type": [""] * 4}, features=FEATURES)
    records = make_records(rows, [[{"answer": "red"}]] * 4)
    metrics = summarize(records) | {"compared": {}, "failures": []}
    head, row = table(metrics)
    assert len(head) == len(row) and "model − this" not in head and {"overall", "exact match"} < set(head)
    write_report(tmp_path, "own", metrics, records, rows)
    page = (tmp_path / "report.html").read_text()
    assert "Accuracy by answer type" in page and "Frequent question types" not in page


def test_names_in_the_data_run_nothing_in_the_report(tmp_path):
    rows = rows_of([["red"] * 10] * 4).to_dict() | {"answer_type": ["<script>boo"] * 4}
    rows = Dataset.from_dict(rows, features=FEATURES)
    records = make_records(rows, [[{"answer": "<script>boo"}]] * 4)
    metrics = summarize(records) | {"compared": {}, "failures": []}
    write_report(tmp_path, "<script>boo", metrics, records, rows)
    page = (tmp_path / "report.html").read_text()
    assert "<script>boo" not in page and page.count("&lt;script&gt;boo") > 1


def test_each_failure_is_explained_by_what_is_known_of_its_question():
    records = make_records(rows_of([["red"] * 10] * 3), [[{"answer": each}] for each in ("blue", "red", "blue")])
    blind = [{"ranked": [{"answer": each}]} for each in ("red", "red", "blue")]
    table = evaluation.explain(records, {}, [100, 0, 0], blind, Words())
    assert [record.get("categories") for record in records] == [[], None, ["not in vocabulary", "same as blind"]]
    assert {row["category"]: row["failures"] for row in table if row["failures"]} == {
        "not in vocabulary": 1, "same as blind": 1,
    }  # fmt: skip


def test_an_even_map_is_drawn_as_nothing():
    even, nothing = (_map([[share] * 2] * 2) for share in (0.25, 0))
    assert even == nothing != _map([[1, 0], [0, 0]])


def test_the_report_in_markdown(folder):
    text, metrics = (folder / "run" / "report.md").read_text(), metrics_of(folder, "run")
    overall = metrics["overall"]
    assert f"| this run | {overall:.2f} |" in text and "| same as blind |" in text and "| ablation |" in text
    assert f" | {metrics['compared']['prior']['difference']:+.2f} (" in text
    worth = metrics["abstention"]["effective_reliability"]
    assert f"at a cost of 1: {worth['with_threshold']:.2f} with abstention" in text
    assert f"{worth['answering_all']:.2f} without" in text and worth["with_threshold"] != worth["answering_all"]


def test_how_many_answers_a_category_was_judged_on():
    assert [judged({"failures": 3, "judged": 10}, wrong) for wrong in (10, 20)] == ["3", "3 of 10"]


def test_faithfulness_stands_under_its_heads():
    curves = {"deletion": 0.1, "insertion": 0.9, "deletion_gain": 0.2, "deletion_gain_interval": [0.1, 0.3]}
    head, row = heat_map_table({"questions": 3, "some_map": curves})
    cells = {"deletion": "0.10", "insertion": "0.90"}
    assert row[0] == "some map" and {name: row[head.index(name)] for name in cells} == cells
    assert row[2] == "+0.20 (0.10 to 0.30)" and row[4] == ""


def test_the_gallery_draws_at_random_but_twice_the_same():
    records = [{"accuracy": 100 * (number % 2)} for number in range(6000)]
    indices = shown(records)
    assert indices == shown(records) and len(indices) == len(set(indices)) == 2000 + 100
    assert [records[index]["accuracy"] for index in indices] == [0] * 2000 + [100] * 100
    assert shown([{"accuracy": accuracy} for accuracy in (100, 60, 30)]) == [2, 0, 1]


def test_every_card_has_its_own_picture(processor):
    rows = rows_of([["red"] * 10] * 4)  # two questions for each picture
    colours = [draw(("red", "blue")[number // 2]) for number in range(4)]
    rows = Dataset.from_dict(rows.remove_columns("image").to_dict() | {"image": colours}, features=FEATURES)
    records = make_records(rows, [[{"answer": "red", "score": 1.0}]] * 4)
    for source in (None, SimpleNamespace(processor=processor)):
        gallery = _gallery([0, 3, 1], records, rows, source)
        assert [picture["box"] for picture in gallery["pictures"]] == [[0, 0, 100, 100]] * 2  # all that there is
        for card, red in zip(gallery["cards"], (True, False, True)):
            address = gallery["pictures"][card["picture"]]["src"]
            pixel = Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))).getpixel((5, 5))
            assert (pixel[0] > 200) is red, card


def test_plots_show_what_they_say(monkeypatch):
    drawn = {}

    def draw_only(width, height, draw, name):
        drawn[name] = Figure().subplots()
        draw(drawn[name])

    monkeypatch.setattr("vqafusion.analysis.plots._svg", draw_only)
    asked = {f"type {number}": number for number in range(1, 26)}  # how often each is asked
    run = {"overall": 50, "per_answer_type": {"yes/no": 60, "other": 40}, "per_question_type": asked}
    run["intervals"] = {
        "overall": [45, 55],
        "per_answer_type": {"yes/no": None},
        "per_question_type": dict.fromkeys(asked),
    }
    prior = run | {"overall": 20, "per_answer_type": {"yes/no": 30, "other": 10}}
    bins = [{"questions": 2, "confidence": 0.9, "accuracy": 0.4}]
    metrics = run | {"compared": {"prior": prior}, "questions_per_question_type": asked, "calibration": {"bins": bins}}
    plots(metrics, np.array([0.9, 0.5]), np.array([1.0, 0.0]), [{"step": 3, "eval_overall": 40.0}])
    types, kinds = drawn["types"], drawn["question types"]
    assert [bar.get_height() for bar in types.patches] == [50, 60, 40, 20, 30, 10]
    assert [label.get_text() for label in types.get_xticklabels()] == ["overall", "yes/no", "other"]
    frequent = range(6, 26)
    assert [label.get_text() for label in kinds.get_yticklabels()] == [f"type {n}  ({n})" for n in frequent]
    assert list(kinds.lines[0].get_xdata()) == list(frequent)  # they score as often as they are asked
    assert drawn["reliability"].collections[0].get_offsets().tolist() == [[0.9, 0.4]]
    assert drawn["risk"].lines[0].get_xydata().tolist() == [[50, 0], [100, 50]]
    assert drawn["learning"].lines[0].get_xydata().tolist() == [[3, 40]]


@pytest.fixture
def looked(model, processor):
    """A model's run on questions about 24 different pictures, of which it gets two in three right."""
    pictures = [draw((10 * number, 250 - 10 * number, 90)) for number in range(24)]
    rows = rows_of([["cat"] * 10] * 24, per_image=1).to_dict() | {"image": pictures, "question": QUESTIONS * 8}
    run = ModelRun((processor, model), Dataset.from_dict(rows, features=FEATURES))
    for number, ranked in enumerate(run.ranked()):
        if number % 3:
            rows["answers"][number] = [ranked[0]["answer"]] * 10
    return ModelRun((processor, model), Dataset.from_dict(rows, features=FEATURES), batch_size=5)


def test_the_temperature_is_fitted_anew_and_tested_on_other_images(looked):
    found = looked.fit_temperature()
    assert 0.05 < found["temperature"] < 20  # not an edge of the search
    summary = summarize(make_records(looked.rows, looked.ranked()))["calibration"]
    assert summary["questions"] == found["questions"] < 24
    assert summary["expected_calibration_error"] == pytest.approx(found["error"], abs=0.02)
    looked.model.config.answer_temperature = 3.0  # of an earlier fit
    assert looked.fit_temperature() == found
    fitted, answers = in_first_half(looked.image_ids), looked.rows["answers"][:]
    changed = looked.rows.to_dict() | {"answers": [a if f else ["cat"] * 10 for a, f in zip(answers, fitted)]}
    other = ModelRun((looked.processor, looked.model), Dataset.from_dict(changed, features=FEATURES), batch_size=5)
    again = other.fit_temperature()
    assert again["temperature"] == found["temperature"] and again["error"] != found["error"]
    with pytest.raises(ValueError, match="questions about more images"):
        ModelRun((looked.processor, looked.model), looked.rows.select([0])).fit_temperature()


def test_every_question_has_its_own_heat_map(looked):
    maps = looked.heat_maps([5, 0, 13])
    assert sorted(maps) == [0, 5, 13]
    for index, found in maps.items():
        assert np.allclose(found, looked.heat_maps([index])[index], atol=1e-5)
    assert not np.allclose(maps[0], maps[13], atol=1e-4)  # else an exchange would not show


def open_report(browser, folder, said, **options):
    page = browser.new_page(**options)
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: request.url.startswith(("file:", "data:")) or said.append(request.url))
    page.goto((folder / "run" / "report.html").as_uri())
    page.wait_for_selector(".card")
    return page


@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 375])
def test_the_report_is_readable_at_every_width_and_in_the_dark(folder, browser, width, colours):
    said = []
    page = open_report(browser, folder, said, viewport={"width": width, "height": 800}, color_scheme=colours)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    broken = "[...document.images].filter(image => !image.complete || !image.naturalWidth).length"
    assert page.evaluate("document.images.length") > 20 and page.evaluate(broken) == 0
    assert page.locator("figure svg").count() == 5
    ink, paper = (
        page.evaluate(f"getComputedStyle(document.body).{name}.match(/\\d+/g).slice(0, 3).map(Number)")
        for name in ("color", "backgroundColor")
    )
    assert (sum(paper) < sum(ink)) == (colours == "dark") and abs(sum(paper) - sum(ink)) > 450
    assert said == []


def test_filters_and_orders_work(folder, browser):
    said = []
    page = open_report(browser, folder, said)
    answers = [json.loads(line) for line in (folder / "run" / "answers.jsonl").read_text().splitlines()]
    wrong = [answer for answer in answers if answer["accuracy"] < 50]

    def shown():
        return page.locator(".question").all_inner_texts()

    assert len(shown()) == len(wrong)
    sure = [float(text.rstrip(" %")) for text in page.locator(".card li:first-child .soft").all_inner_texts()]
    assert sure == sorted(sure, reverse=True)
    page.select_option("#verdict", "right")
    assert len(shown()) == len(answers) - len(wrong) and page.locator(".card .right").count() == len(shown())
    page.select_option("#verdict", "")
    page.select_option("#type", "number")
    assert len(shown()) == sum(answer["answer_type"] == "number" for answer in answers)
    page.select_option("#type", "")
    page.fill("#text", "</SCRIPT>")
    assert shown() == [STRANGE] and page.locator("#count").inner_text() == "1 answers"
    page.fill("#text", "")
    page.click("[data-category='yes/no flipped']")
    failures = [json.loads(line) for line in (folder / "run" / "failures.jsonl").read_text().splitlines()]
    assert len(shown()) == sum("yes/no flipped" in failure["categories"] for failure in failures)
    page.select_option("#category", "")
    assert page.locator("img.map").first.is_visible()
    page.uncheck("#maps")
    assert not page.locator("img.map").first.is_visible()
    assert said == []

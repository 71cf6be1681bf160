"""The report: its tables and plots, and how it looks in a real browser."""

import base64
import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
from datasets import Dataset
from matplotlib.figure import Figure
from PIL import Image
from toy_data import draw, rows_of
from toy_model import QUESTIONS
from toy_runs import STRANGE, metrics_of

from vqafusion.analysis.calibration import in_first_half
from vqafusion.analysis.model_run import ModelRun
from vqafusion.analysis.plots import plots
from vqafusion.analysis.records import make_records
from vqafusion.analysis.report import _gallery, _map, heat_map_table, judged, shown, table, write_report
from vqafusion.analysis.summary import summarize
from vqafusion.data_prep import FEATURES


def test_there_are_no_empty_columns_and_no_plot_of_one_question_type(tmp_path):
    rows = Dataset.from_dict(rows_of([["red"] * 10] * 4).to_dict() | {"question_type": [""] * 4}, features=FEATURES)
    records = make_records(rows, [[{"answer": "red"}]] * 4)
    metrics = summarize(records) | {"compared": {}, "failures": []}
    head, row = table(metrics)
    assert head == ["", "overall", "95 % interval", "yes/no", "number", "other", "exact match"]
    assert len(row) == len(head)
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
    assert "<script>boo" not in (tmp_path / "report.md").read_text()
    assert "<script>boo" not in page and page.count("&lt;script&gt;boo") > 1


def test_an_even_map_is_drawn_as_nothing():
    even, nothing = (_map([[share] * 2] * 2) for share in (0.25, 0))
    assert even == nothing != _map([[1, 0], [0, 0]])


def test_the_report_in_markdown(runs):
    text, metrics = (runs / "run" / "report.md").read_text(), metrics_of(runs, "run")
    overall = metrics["overall"]
    assert f"| this run | {overall:.2f} |" in text and "| same as blind |" in text and "| ablation |" in text
    assert f" | {metrics['compared']['prior']['difference']:+.2f} (" in text
    share = metrics["abstention"]["coverage_at_risk"]["10"]
    assert f"the surest {share:.2f} % ({round(share * 24 / 100)}) have a mean error of at most 10 %" in text
    assert f"about {metrics['calibration']['by_chance']:.2f} %" in text
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
    assert [text.get_text() for text in types.get_legend().get_texts()] == ["this run", "prior"]
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


def open_report(browser, runs, said, **options):
    page = browser.new_page(**options)
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: request.url.startswith(("file:", "data:")) or said.append(request.url))
    page.goto((runs / "run" / "report.html").as_uri())
    page.wait_for_selector(".card")
    return page


@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 375])
def test_the_report_is_readable_at_every_width_and_in_the_dark(runs, browser, width, colours):
    said = []
    page = open_report(browser, runs, said, viewport={"width": width, "height": 800}, color_scheme=colours)
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


def test_filters_and_orders_work(runs, browser):
    said = []
    page = open_report(browser, runs, said)
    answers = [json.loads(line) for line in (runs / "run" / "answers.jsonl").read_text().splitlines()]
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
    failures = [json.loads(line) for line in (runs / "run" / "failures.jsonl").read_text().splitlines()]
    assert len(shown()) == sum("yes/no flipped" in failure["categories"] for failure in failures)
    page.select_option("#category", "")
    assert page.locator("img.map").first.is_visible()
    page.uncheck("#maps")
    assert not page.locator("img.map").first.is_visible()
    assert said == []

"""The report of a run: one HTML file that a person opens first, and a Markdown one for a model card."""

import base64
import io
import random
from collections import Counter
from pathlib import Path

import cv2
import jinja2
import numpy as np
from datasets import Image as ImageColumn
from PIL import Image

from ..command_line import whole_file
from ..metrics.vqa_accuracy.vqa_accuracy import TOP_K
from ..pipeline_vqafusion import heat_colors
from ..processing_vqafusion import load_image
from .failures import CATEGORIES, FAILED_BELOW
from .heat_maps import DEFAULT
from .plots import plots, runs
from .records import confidences
from .scores import p_text
from .summary import notes, plain_text

FAILURES_SHOWN = 2000  # in the gallery, drawn at random; failures.jsonl has all
RIGHT_SHOWN = 100
_IMAGE_SIDE = 224  # pixels of the longer side
_MAP_SIDE = 28  # pixels; the browser stretches it over the picture


def shown(records):
    """Indices of the records in the gallery, failures first; the same whether they have categories yet or not."""
    wrong = [index for index, record in enumerate(records) if record["accuracy"] < FAILED_BELOW]
    right = [index for index, record in enumerate(records) if record["accuracy"] >= FAILED_BELOW]
    rng = random.Random(0)
    if len(wrong) > FAILURES_SHOWN:
        wrong = sorted(rng.sample(wrong, FAILURES_SHOWN))
    return wrong + sorted(rng.sample(right, min(RIGHT_SHOWN, len(right))))


def write_report(output_dir, title, metrics, records, rows, run=None):
    """
    Args:
        output_dir (`Path`): where report.html and report.md go.
        title (`str`)
        metrics (`dict`), records (`list[dict]`): of eval.py; failures have `categories` and perhaps `heat_map`.
        rows (`datasets.Dataset`): columns of `FEATURES`, in the records' order.
        run ([`ModelRun`], *optional*): where the answers come from; its heat maps are drawn on right answers too.
    """
    accuracy = np.array([record["accuracy"] for record in records]) / 100
    wrong = sum("categories" in record for record in records)
    drawn = plots(metrics, confidences(records), accuracy, run.history if run else [])
    gallery = _gallery(shown(records), records, rows, run)
    environment = jinja2.Environment(loader=jinja2.PackageLoader("vqafusion", "analysis"), autoescape=True)
    page = environment.get_template("report.html.jinja").render(
        title=title, metrics=metrics, table=table(metrics), plots=drawn, categories=CATEGORIES, top_k=TOP_K,
        overall_interval=interval_text(metrics["intervals"]["overall"]),
        heat_maps=heat_map_table(metrics["heat_maps"]) if "heat_maps" in metrics else None,
        heat_map=DEFAULT, failed_below=FAILED_BELOW,
        wrong=wrong, notes=notes(metrics), judged=judged, p_text=p_text,
        gallery=gallery, has_maps=any(card["map"] for card in gallery["cards"]),
        legend=["#{:02x}{:02x}{:02x}".format(*colour) for colour in heat_colors(np.linspace(0, 1, 6)[None])[0]],
    )  # fmt: skip
    for name, text in (("report.html", page), ("report.md", markdown(title, metrics, wrong))):
        with whole_file(Path(output_dir) / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


def interval_text(interval):
    """`[low, high]`, or None where too few images tell nothing about others."""
    return "{:.2f} to {:.2f}".format(*interval) if interval else "–"


def table(metrics):
    """The headline table: a list of rows, `name` and then cells of text, beginning with the header; no empty column."""
    kinds = list(metrics["per_answer_type"])
    heads = [kind or "(none)" for kind in kinds]
    top = f"top_{TOP_K}"
    rows = [["", "overall", "95 % interval", *heads, f"top-{TOP_K}", "exact match", "this run − it"]]
    names = {"blind": "blind: without the image", "prior": "most frequent answer of the question type"}
    for name, row in runs(metrics).items():
        ahead = f"{row['difference']:+.2f} ({interval_text(row['interval'])})" if "difference" in row else ""
        values = [*(row["per_answer_type"].get(kind) for kind in kinds), row.get(top), row.get("exact_match")]
        cells = ["" if value is None else f"{value:.2f}" for value in values]
        rows.append(
            [names.get(name, name), f"{row['overall']:.2f}", interval_text(row["intervals"]["overall"]), *cells, ahead]
        )
    if "vocabulary_ceiling" in metrics:
        best = f"{metrics['vocabulary_ceiling']:.2f}"
        rows.append(["the best that its vocabulary allows", best, *[""] * (len(kinds) + 4)])
    filled = [any(column) for column in zip(*rows[1:])]
    return [[cell for cell, kept in zip(row, filled) if kept] for row in rows]


def judged(row, wrong):
    """How many failures are in a category, and of how many where not all `wrong` answers were judged."""
    return f"{row['failures']:,}" + (f" of {row['judged']:,}" if row["judged"] < wrong else "")


def markdown(title, metrics, wrong):
    """The report in Markdown: tables only; `wrong` is the number of failures."""
    said = " ".join([f"Official VQA accuracy in percent, {metrics['questions']:,} questions.", *notes(metrics)])
    lines = [f"# {plain_text(title)}", "", said, "", *_markdown_table(table(metrics))]
    if "calibration" in metrics:
        error, abstention = metrics["calibration"]["expected_calibration_error"], metrics["abstention"]
        chance = f"(by chance alone, were all just right, about {metrics['calibration']['by_chance']:.2f} %)"
        lines += ["", "## Confidence", "", f"- Expected calibration error: {error:.2f} % {chance}"]
        for risk, coverage in abstention["coverage_at_risk"].items():
            answered = f"{coverage:.2f} % ({round(coverage * metrics['questions'] / 100):,})"
            lines.append(f"- Of its answers here, the surest {answered} have a mean error of at most {risk} %")
        if "effective_reliability" in abstention:
            row = abstention["effective_reliability"]
            below = "always" if row["threshold"] is None else f"below {row['threshold']:.2f}"
            lines.append(
                f"- Effective reliability at a cost of 1: {row['with_threshold']:.2f} with abstention "
                f"{below}, {row['answering_all']:.2f} without"
            )
    rows = [
        [row["category"], CATEGORIES[row["category"]], judged(row, wrong), f"{row['error']:.1f}"]
        for row in metrics["failures"]
    ]
    lines += ["", "## Failures", "", *_markdown_table([["category", "rule", "answers", "% of all error"], *rows])]
    if "heat_maps" in metrics:
        lines += ["", "## Heat maps", "", *_markdown_table(heat_map_table(metrics["heat_maps"]))]
    return "\n".join(lines) + "\n"


def heat_map_table(heat_maps):
    """Rows of text for the faithfulness of each heat map, the header first."""
    rows = [["heat map", "deletion", "gain over random", "insertion", "gain over random"]]
    for name, row in heat_maps.items():
        if name != "questions":
            cells = [name.replace("_", " ")]
            for curve in ("deletion", "insertion"):
                gain, interval = row.get(f"{curve}_gain"), row.get(f"{curve}_gain_interval")
                cells.append(f"{row[curve]:.2f}")
                cells.append("" if gain is None else f"{gain:+.2f} ({interval_text(interval)})")
            rows.append(cells)
    return rows


def _markdown_table(rows):
    lines = [f"| {' | '.join(map(plain_text, row))} |" for row in rows]
    return [lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]


def _gallery(indices, records, rows, run):
    """What the page's script shows: pictures once each, and a card for each answer."""
    rows = rows.select_columns(["image_id", "image"]).cast_column("image", ImageColumn(decode=False))
    pictures, position, cards = [], {}, []
    for index in indices:
        record = records[index]
        if record["image_id"] not in position:
            position[record["image_id"]] = len(pictures)
            pictures.append(_picture(rows[index]["image"], run))
        grid = record.get("heat_map")
        cards.append({
            "id": record["question_id"], "picture": position[record["image_id"]], "question": record["question"],
            "type": record["answer_type"], "kind": record["question_type"],
            "human": Counter(record["answers"]).most_common(),
            "ranked": record["ranked"], "accuracy": record["accuracy"], "categories": record.get("categories"),
            "blind": record.get("blind"), "map": _map(grid) if grid else None,
        })  # fmt: skip
    return {"pictures": pictures, "cards": cards}


def _picture(source, run):
    """A small JPEG, and in percent of it the box that the model sees; an empty picture where it cannot be read."""
    try:
        image = load_image(source)
    except (ValueError, OSError):
        image = Image.new("RGB", (_IMAGE_SIDE, _IMAGE_SIDE), "grey")
    width, height = image.size
    box = run.processor.visible_box(width, height) if run else (0, 0, width, height)
    left, top, right, bottom = box
    image.thumbnail((_IMAGE_SIDE, _IMAGE_SIDE))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=70)
    box = [100 * left / width, 100 * top / height, 100 * (right - left) / width, 100 * (bottom - top) / height]
    return {"src": _address("jpeg", file.getvalue()), "box": [round(edge, 2) for edge in box]}


def _map(grid):
    """A heat map in colours, small: a WebP address."""
    values = np.array(grid, dtype=np.float32)
    if np.ptp(values) < 1e-6:  # no place speaks for the answer
        values[:] = 0
    values = cv2.resize(values / max(values.max(), 1e-12), (_MAP_SIDE, _MAP_SIDE), interpolation=cv2.INTER_CUBIC)
    file = io.BytesIO()
    Image.fromarray(heat_colors(values)).save(file, "WEBP", quality=60)
    return _address("webp", file.getvalue())


def _address(kind, data):
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"

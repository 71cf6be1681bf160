"""Plots of the report as SVG text that takes the page's colours and fonts."""

import io
from functools import partial

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..command_line import whole_file
from .calibration import risk_coverage

_INK = "#010203"  # stands for the page's text colour, whatever it is
COLOURS = {"this run": "#3b82d6", "blind": "#d68a2e", "prior": "#8a8f98"}
_STYLE = {
    "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9, "axes.spines.top": False,
    "axes.spines.right": False, "text.color": _INK, "axes.labelcolor": _INK, "xtick.color": _INK, "ytick.color": _INK,
    "axes.edgecolor": _INK, "figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "none",
    "legend.frameon": False, "text.parse_math": False,
}  # fmt: skip


def plots(metrics, confidence, accuracy, history):
    """
    Args:
        metrics (`dict`): what eval.py writes.
        confidence: `(questions,)` or None; accuracy: `(questions,)`, 0 to 1.
        history: the `log_history` of a `trainer_state.json`, or empty.

    Returns:
        `dict[str, str]`: title to SVG, in the report's order; those for which there is nothing are left out.
    """
    drawn = {"Accuracy by answer type": _by_type(metrics)}
    if any(metrics["questions_per_question_type"]):  # of which own data often have none
        drawn["Frequent question types"] = _by_question_type(metrics)
    if "calibration" in metrics:
        drawn["Reliability"] = _reliability(metrics["calibration"])
        drawn["Risk and coverage"] = _risk_coverage(confidence, accuracy)
    if any("eval_overall" in entry for entry in history):
        drawn["Learning curve"] = _svg(3.8, 3.1, partial(_draw_learning, history), "learning")
    return drawn


def _svg(width, height, draw, name):
    """What `draw(axes)` draws, in inches; `name` keeps the ids of several plots in a page apart."""
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure.subplots())
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :].replace(_INK, "currentColor")


def runs(metrics):
    """`{name: metrics}` of a run and of those that it is compared with."""
    return {"this run": metrics, **metrics["compared"]}


def _by_type(metrics):
    kinds = ["overall", *metrics["per_answer_type"]]
    rows = runs(metrics)

    def draw(axes):
        width = 0.8 / len(rows)
        for number, (name, row) in enumerate(rows.items()):
            values = np.array([row["overall"], *(row["per_answer_type"].get(kind, np.nan) for kind in kinds[1:])])
            edges = row["intervals"]
            edges = [edges["overall"], *(edges["per_answer_type"].get(kind) for kind in kinds[1:])]
            reach = np.abs(np.array([edge or (np.nan, np.nan) for edge in edges]).T - values)
            place = np.arange(len(kinds)) + (number - (len(rows) - 1) / 2) * width
            axes.bar(place, values, width * 0.92, yerr=reach, color=COLOURS[name], label=name, ecolor=_INK, capsize=2)
        turned = {"rotation": 30, "ha": "right"} if len(kinds) > 5 else {}
        axes.set_xticks(range(len(kinds)), kinds, **turned)
        axes.set_ylabel("official accuracy, %")
        axes.legend(ncols=3, loc="lower left", bbox_to_anchor=(0, 1))

    return _svg(5.2, 3.2, draw, "types")


def _by_question_type(metrics, most=20):
    rows, counts = runs(metrics), metrics["questions_per_question_type"]
    kinds = sorted(counts, key=lambda kind: -counts[kind])[:most][::-1]

    def draw(axes):
        apart = 0.2 * ((len(rows) - 1) / 2 - np.arange(len(rows)))  # since scores may be equal
        places = np.arange(len(kinds)) + apart[:, None]  # (rows, kinds)
        for place, (name, row) in zip(places, rows.items()):
            values = [row.get("per_question_type", {}).get(kind, np.nan) for kind in kinds]
            axes.plot(values, place, "o", color=COLOURS[name], label=name, markersize=5, clip_on=False)
        edges = np.array([metrics["intervals"]["per_question_type"][kind] or (np.nan, np.nan) for kind in kinds])
        axes.hlines(places[0], edges[:, 0], edges[:, 1], color=COLOURS["this run"], linewidth=1)
        axes.set_yticks(range(len(kinds)), [f"{kind or '(none)'}  ({counts[kind]})" for kind in kinds])
        axes.set_xlim(0, 100)
        axes.set_xlabel("official accuracy, %")
        axes.grid(axis="x", color=_INK, alpha=0.12)
        axes.legend(ncols=3, loc="lower left", bbox_to_anchor=(0, 1))

    return _svg(5.2, 0.9 + 0.2 * len(kinds), draw, "question types")


def _reliability(calibration):
    bins = calibration["bins"]

    def draw(axes):
        axes.plot([0, 1], [0, 1], color=_INK, linewidth=0.8, linestyle="--", label="perfect")
        sizes = np.array([row["questions"] for row in bins])
        axes.scatter(
            [row["confidence"] for row in bins], [row["accuracy"] for row in bins],
            s=12 + 160 * sizes / sizes.max(), color=COLOURS["this run"], alpha=0.85, label="questions of one bin",
            clip_on=False,
        )  # fmt: skip
        axes.set(xlabel="probability of the answer", ylabel="its accuracy", xlim=(0, 1), ylim=(0, 1), aspect="equal")
        axes.legend(ncols=2, loc="lower left", bbox_to_anchor=(-0.05, 1))

    return _svg(3.4, 3.4, draw, "reliability")


def _risk_coverage(confidence, accuracy):
    coverage, risk = risk_coverage(confidence, accuracy)
    keep = np.unique(np.linspace(0, len(risk) - 1, 400).astype(int))

    def draw(axes):
        axes.plot(100 * coverage[keep], 100 * risk[keep], color=COLOURS["this run"])
        axes.set(xlabel="coverage: questions answered, surest first, %", ylabel="risk: mean error, %", xlim=(0, 100))
        axes.set_ylim(bottom=0)
        axes.grid(color=_INK, alpha=0.12)

    return _svg(3.8, 3.1, draw, "risk")


def _draw_learning(history, axes):
    axes.plot(*zip(*_series(history, "eval_overall")), "o-", color=COLOURS["this run"], label="accuracy, %")
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
    axes.set_ylabel("official accuracy, %", color=COLOURS["this run"])
    if losses := _series(history, "loss"):
        right = axes.twinx()
        right.plot(*zip(*losses), color=COLOURS["prior"])
        right.set_ylabel("training loss", color=COLOURS["prior"])


def _series(history, name):
    return [(entry["step"], entry[name]) for entry in history if name in entry]


def save_learning_curve(history, file):
    """Write the learning curve of a `log_history` as a PNG, if it has an evaluation."""
    if _series(history, "eval_overall"):
        figure = Figure((5, 4), layout="constrained")
        _draw_learning(history, figure.subplots())
        with whole_file(file) as temporary:
            figure.savefig(temporary, dpi=150)

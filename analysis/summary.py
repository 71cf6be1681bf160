"""The figures of a run: official accuracy with intervals, calibration, abstention."""

import html
import re

import numpy as np
from tqdm import tqdm

from ..metrics.vqa_accuracy.vqa_accuracy import TOP_K
from .calibration import (
    abstention,
    effective_reliability,
    error_by_chance,
    expected_calibration_error,
    in_first_half,
    reliability,
)
from .records import confidences
from .scores import accuracy_interval, rounded

_OFFICIAL = {"yes/no": 0, "number": 1, "other": 2}  # in the order in which papers report them


def summarize(records):
    """
    Args:
        records: of [`make_records`].

    Returns:
        dict, in percent: `overall`, `per_answer_type`, `per_question_type` (and how many questions each has), `top_5`
        where there are so many answers, and `exact_match`; `intervals`, 95 % over images, of all these, None of what
        is about too few images; where the run has probabilities, `calibration`, on the half of the images on which no
        temperature is fitted, and `abstention`; `questions`.
    """
    accuracy = np.array([record["accuracy"] for record in records])
    images = np.array([str(record["image_id"]) for record in records])
    columns = {"overall": accuracy, "exact_match": np.array([100.0 * record["exact"] for record in records])}
    if any(len(record["ranked"]) > 1 for record in records):
        columns[f"top_{TOP_K}"] = np.array([record["top_accuracy"] for record in records])
    metrics = {name: round(float(values.mean()), 2) for name, values in columns.items()}
    kinds = {kind: np.array([record[kind] or "" for record in records]) for kind in ("answer_type", "question_type")}
    names_of = {
        kind: sorted(set(groups.tolist()), key=lambda name: (_OFFICIAL.get(name, 9), name))
        for kind, groups in kinds.items()
    }
    resampled = len(columns) + sum(map(len, names_of.values()))
    # Shown only where it takes long, as of all of val2014: a minute.
    with tqdm(total=resampled, desc="Resampling images", unit="interval", delay=5) as bar:

        def interval(values, images):
            found = rounded(accuracy_interval(values, images))
            bar.update()
            return found

        intervals = {name: interval(values, images) for name, values in columns.items()}
        for kind, groups in kinds.items():
            names = names_of[kind]
            metrics[f"per_{kind}"] = {name: round(float(accuracy[groups == name].mean()), 2) for name in names}
            intervals[f"per_{kind}"] = {
                name: interval(accuracy[groups == name], images[groups == name]) for name in names
            }
            metrics[f"questions_per_{kind}"] = {name: int((groups == name).sum()) for name in names}
    metrics["intervals"] = intervals
    confidence = confidences(records)
    if confidence is not None:
        confidence = np.array(confidence)
        metrics["calibration"] = calibration(confidence, accuracy / 100, images)
        metrics["abstention"] = abstention(confidence, accuracy / 100, images)
    return {**metrics, "questions": len(records)}


def plain_text(text):
    """A text (`str`) of a stranger's data as one that Markdown, even in a table, takes for nothing else."""
    text = re.sub(r"([\\`*_\[\]])", r"\\\1", html.escape(text, quote=False).replace("|", "/"))
    return " ".join(text.split())


def notes(metrics):
    """Sentences on what a run's score must not be taken for."""
    found = []
    if "questions_in_split" in metrics:
        found.append(
            f"Only {metrics['questions']:,} of the split's {metrics['questions_in_split']:,} questions were asked."
        )
    if metrics.get("dataset") in ("own", "hub"):
        found.append(
            "Where one to five people answered a question, their answers are repeated until there are ten or more, so "
            "that what one of up to three people said counts in full."
        )
    if metrics.get("trained_on_this_split"):
        found.append("A split of this name was trained on, or counted: if it is the same, this is what is remembered.")
    if metrics.get("chosen_on_this_split"):
        found.append(
            "The checkpoint was chosen on a split of this name, which flatters it a little; whatever else was chosen "
            "there, such as its settings, does so, too."
        )
    return found


def calibration(confidence, accuracy, images):
    """
    Expected calibration error in percent, what it would be by chance alone, and the bins of the reliability diagram, on
    the second half of images.
    """
    test = ~in_first_half(images)
    if not test.any():
        test = ~test
    error = expected_calibration_error(confidence[test], accuracy[test])
    return {
        "expected_calibration_error": round(100 * error, 2),
        "by_chance": round(100 * error_by_chance(confidence[test]), 2),
        "questions": int(test.sum()),
        "bins": reliability(confidence[test], accuracy[test]),
    }


def abstaining(records, threshold):
    """
    What "not sure" below a probability of `threshold` would do.

    Returns:
        dict, in percent: `coverage`, share of the questions answered; `accuracy` of the answers given (None without
        any); `overall`, where "not sure" scores 0; `effective_reliability` at a cost of 1.

    Raises:
        ValueError: the run has no probabilities.
    """
    confidence = confidences(records)
    if confidence is None:
        raise ValueError("--abstain_below needs probabilities, and these answers have none")
    confidence, accuracy = np.array(confidence), np.array([record["accuracy"] for record in records])
    given = confidence >= threshold
    return {
        "threshold": threshold,
        "coverage": round(100 * float(given.mean()), 2),
        "accuracy": round(float(accuracy[given].mean()), 2) if given.any() else None,
        "overall": round(float((accuracy * given).mean()), 2),
        "effective_reliability": round(100 * effective_reliability(confidence, accuracy / 100, threshold), 2),
    }

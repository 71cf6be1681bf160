"""Your own questions: a JSON Lines or CSV file with an image, a question and its answers in every row."""

import csv
import json
import posixpath
import re
from pathlib import Path

from datasets import Dataset

from . import FEATURES, DataError, check_unique, drop_missing_images
from .answers import answer_texts, answer_type, ten_answers

ENDINGS = (".jsonl", ".csv")
COLUMNS = (
    "image", "question", "answers", "answer", "question_id", "question_type", "answer_type", "provenance"
)  # fmt: skip


def load(data_dir, split, skip_missing_images=False, check_images=True):
    """
    Load one file. Its columns, or keys, are `image` (a path, from the file's folder), `question`, and `answers` (in
    CSV separated by `|`) or `answer`; and, if you have them, `question_id` (a whole number), `question_type`,
    `answer_type` and `provenance`. A CSV's columns are separated by commas, semicolons or tabs. Answers are written
    as the metric's normaliser writes them, and up to five are repeated: see [`ten_answers`]. A file of questions only
    has answers in no row.

    Args:
        data_dir (`str`): the folder.
        split (`str`): the file's name in it, such as `"train.jsonl"` or `"dev.csv"`.
        skip_missing_images (`bool`): leave out the questions whose image is missing.
        check_images (`bool`): whether to look for missing images at all.

    Returns:
        `datasets.Dataset` with the columns of `FEATURES`. Without a type in the file, an answer's is yes/no, number
        or other by its text, and a question's is empty.

    Raises:
        DataError: no such file, a row that lacks something, question ids that stand twice, missing images.
    """
    file = Path(data_dir).resolve() / split
    if not file.parent.is_dir():
        raise DataError(f"there is no folder {file.parent}")
    ending = file.suffix.lower()
    if ending not in ENDINGS or not file.is_file():
        known = ", ".join(sorted(f.name for f in file.parent.glob("*") if f.suffix.lower() in ENDINGS)) or "none"
        raise DataError(f"no file {split!r} ending in {' or '.join(ENDINGS)} in {file.parent}; files there: {known}")
    rows, missing, unanswered, line = [], set(), [], 0
    try:
        with open(file, encoding="utf-8-sig", newline="") as opened:
            lines = _table(opened, file) if ending == ".csv" else opened
            for number, entry in enumerate(lines, 1):
                if not (entry.strip() if isinstance(entry, str) else any(entry.values())):
                    continue
                line = getattr(lines, "line_num", number)  # which `csv` counts, as rows may have several
                try:
                    row = _row(entry, number, file)
                    there = not check_images or Path(row["image"]).is_file()
                except (ValueError, OSError) as error:  # no file can have every name
                    raise DataError(f"{file}: line {line}: {str(error):.300}") from None
                rows.append(row)
                if not there:
                    missing.add(row["image_id"])
                if not row["answers"]:
                    unanswered.append(line)
    except csv.Error as error:  # such as a quote that is never closed, which takes all that follows for one text
        raise DataError(f"{file}: the row after line {line or 1} cannot be read, see its quotes: {error}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: line {_first_not_utf8(file)} is not UTF-8 ({error}): save it as UTF-8") from None
    if unanswered and len(unanswered) < len(rows):
        raise DataError(f"{file}: line {unanswered[0]}: no answers; leave them out in all rows or in none")
    if not rows:
        raise DataError(f"{file} holds no question")
    check_unique((row["question_id"] for row in rows), file)
    return drop_missing_images(Dataset.from_list(rows, features=FEATURES), missing, file, skip_missing_images)


def _table(opened, file):
    """Rows of a CSV file as dictionaries. Where a comma is part of a number, spreadsheets write semicolons."""
    head = opened.readline()
    opened.seek(0)
    rows = csv.DictReader(opened, delimiter=max(",;\t", key=head.count), strict=True)
    rows.fieldnames = [name.strip() for name in rows.fieldnames or []]
    named = [name for name in rows.fieldnames if name]  # spreadsheets may add columns of nothing
    if len(set(named)) < len(named):
        raise DataError(f"{file}: a column name stands more than once: {', '.join(rows.fieldnames)}")
    return rows


def _first_not_utf8(file):
    for number, line in enumerate(file.read_bytes().split(b"\n"), 1):
        try:
            line.decode()
        except UnicodeDecodeError:
            return number


def _row(entry, number, file):
    if isinstance(entry, str):  # a line of JSON
        try:
            entry = json.loads(entry)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"not valid JSON ({error})") from None
    if not isinstance(entry, dict):
        raise ValueError("not a JSON object")
    if None in entry:  # where `csv` puts what is left over
        raise ValueError("more fields than the header has; a text with separators in it must stand in quotes")
    for name in entry:
        if name not in COLUMNS and name.strip().lower() in COLUMNS:  # an "Answer" would count for none
            raise ValueError(f"column {name!r} must be written {name.strip().lower()!r}")
    for name in ("image", "question"):
        if not isinstance(entry.get(name), str) or not entry[name].strip():
            raise ValueError(f"{name!r} is missing or empty; the row has {', '.join(entry) or 'nothing'}")
    column = next((name for name in ("answers", "answer") if entry.get(name) not in (None, "", [])), None)
    answers = entry.get(column, [])
    if isinstance(answers, str) and file.suffix.lower() == ".csv" and column == "answers":
        if re.fullmatch(r"\s*\[.*\]\s*", answers):  # as pandas writes a list
            raise ValueError(f"'answers' are separated by |, with no brackets around them, not {answers!r:.100}")
        answers = answers.split("|")
    answers = answer_texts(answers)
    if not all(answer.strip() for answer in answers):
        raise ValueError(f"an answer is empty: {answers!r:.100}")
    types = {name: str(entry.get(name) or "").strip() for name in ("question_type", "answer_type", "provenance")}
    texts = [entry["image"], entry["question"], *answers, *types.values()]
    " ".join(texts).encode()  # half of a UTF-16 pair, which JSON allows, is no text
    key = entry.get("question_id")
    question_id = whole_number("question_id", number if key in (None, "") else key)
    return {
        "image": str((file.parent / entry["image"]).resolve()),
        # One of your own might name two pictures, and the whole path, or a link's, would differ on another machine.
        "image_id": posixpath.normpath(entry["image"]),
        "question_id": question_id,
        "question": entry["question"],
        "answers": ten_answers(answers),
        **types,
        "answer_type": types["answer_type"] or (answer_type(answers[0]) if answers else ""),
        "normalized": True,
    }


def whole_number(name, value):
    """`value`, of the column `name`, as `int`; of "7.0", too, as pandas writes numbers. `ValueError` for any other."""
    try:
        number = int(re.fullmatch(r"\s*([+-]?\d+)(\.0*)?\s*", value)[1] if isinstance(value, str) else value)
        if isinstance(value, float) and number != value:
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{name!r} must be a whole number, not {value!r}") from None
    if not -(2**63) <= number < 2**63:
        raise ValueError(f"{name!r} must have at most 63 bits, not {value!r}")
    return number

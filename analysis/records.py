"""What a run keeps of every question, and how it is read back: by the report, by a comparison, from other systems."""

import json
import re
from collections import Counter
from pathlib import Path

from ..command_line import read_json, whole_file
from ..metrics.vqa_accuracy.vqa_accuracy import TOP_K, answer_text, question_score

RECORDS = "answers.jsonl"
_SURROGATE = re.compile("[\ud800-\udfff]")  # half of a pair, which JSON allows and no file can hold
_FROM_ROW = ("question_id", "image_id", "question", "question_type", "answer_type", "answers")


def make_records(rows, ranked):
    """
    Args:
        rows (`datasets.Dataset`): columns of `FEATURES`.
        ranked: for each row a list of `{"answer", "score"}`, best first; without "score" where nobody knows it.

    Returns:
        list of dicts: the row's question and human answers, `ranked`, `accuracy` and `top_accuracy` (official score
        of the first answer and of the best of the first `TOP_K`, in percent) and `exact` (whether the first answer is
        the most frequent human one).
    """
    columns = {name: rows[name][:] for name in _FROM_ROW}
    records = []
    for position, candidates in enumerate(ranked):
        record = {name: columns[name][position] for name in _FROM_ROW}
        scores = [100 * question_score(each["answer"], record["answers"]) for each in candidates[:TOP_K]]
        record.update(
            ranked=candidates,
            accuracy=round(scores[0], 2),
            top_accuracy=round(max(scores), 2),
            exact=answer_text(candidates[0]["answer"]) == most_common_answer(record["answers"]),
        )
        records.append(record)
    return records


def most_common_answer(answers):
    """The most frequent human answer (the first of several), as the metric's normaliser writes it."""
    return Counter(map(answer_text, answers)).most_common(1)[0][0]


def confidences(records):
    """Probability of each record's first answer; None where the run does not know them."""
    found = [record["ranked"][0].get("score") for record in records]
    return None if None in found else found


def write_lines(file, entries):
    """Write JSON Lines that are whole or not there."""
    with whole_file(file) as temporary, temporary.open("w", encoding="utf-8") as lines:
        lines.writelines(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)


def read_run(folder):
    """
    Args:
        folder (`str`): the `--output_dir` of an eval.py run.

    Returns:
        its metrics (`dict`) and records (`list[dict]`).

    Raises:
        ValueError: what eval.py writes is not there or cannot be read.
    """
    folder = Path(folder)
    try:
        metrics = read_json(folder / "metrics.json")
        with (folder / RECORDS).open(encoding="utf-8") as lines:
            records = [json.loads(line) for line in lines]
        for record in records:
            record["question_id"], record["image_id"], record["answer_type"], record["ranked"][0]["answer"]
            if not 0 <= record["accuracy"] <= 100:
                raise ValueError(f"an accuracy of {record['accuracy']}")
        if len({record["question_id"] for record in records}) < len(records):
            raise ValueError("a question stands more than once")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ValueError(
            f"{folder} is not the --output_dir of an eval.py run: no {Path(error.filename).name}"
        ) from None
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise ValueError(f"{folder}: its metrics.json or {RECORDS} cannot be read: {error!r}") from None
    return metrics, records


def same_questions(asked, records):
    """
    Args:
        asked, records: columns of two runs, or of data: `question_id`, `image_id`, `question`, `answers`.

    Returns:
        `records` in the order of `asked`.

    Raises:
        ValueError: they are about other questions.
    """
    by_id = {record["question_id"]: record for record in records}
    missing = [row["question_id"] for row in asked if row["question_id"] not in by_id]
    if missing or len(by_id) != len(asked):
        more = f" and question {missing[0]} is not among them" if missing else ""
        raise ValueError(f"it is about other questions: {len(by_id)} where {len(asked)} are asked for{more}")
    found = [by_id[row["question_id"]] for row in asked]
    for row, record in zip(asked, found):  # ids may be no more than row numbers
        if row["image_id"] != record["image_id"]:
            raise ValueError(
                f"its question {row['question_id']} is about image {record['image_id']}, not {row['image_id']}"
            )
        if any(row[name] != record.get(name) for name in ("question", "answers")):
            raise ValueError(
                f"its question {row['question_id']} is {record.get('question')!r}, "
                f"answered {record.get('answers')}, and not {row['question']!r}, answered {row['answers']}"
            )
    return found


def read_predictions(file, question_ids):
    """
    Answers of any system in the official result format, a JSON list of `{"question_id": int, "answer": str}`, as the
    evaluation server takes it; a `score` from 0 to 1 beside them is the system's confidence.

    Args:
        file (`str`)
        question_ids: of the split, each of which must be answered once.

    Returns:
        for each question a list of one `{"answer", "score"}`.

    Raises:
        ValueError: what the evaluation server would refuse, named; `OSError`: no such file.
    """
    entries = read_json(file)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f'{file} must be a JSON list of {{"question_id": …, "answer": …}}')
    answers = {}
    for position, entry in enumerate(entries):
        key, answer, score = entry.get("question_id"), entry.get("answer"), entry.get("score")
        if type(key) is not int or not isinstance(answer, str) or _SURROGATE.search(answer):
            raise ValueError(f"{file}: entry {position} needs question_id, a number, and answer, a text: {entry}")
        if score is not None and (
            isinstance(score, bool) or not isinstance(score, (int, float)) or not 0 <= score <= 1
        ):
            raise ValueError(f"{file}: the score of question {key} must be from 0 to 1, not {score!r}")
        if key in answers:
            raise ValueError(f"{file}: question {key} is answered twice")
        answers[key] = [{"answer": answer} | ({} if score is None else {"score": score})]
    if 0 < sum("score" in answer for (answer,) in answers.values()) < len(answers):
        raise ValueError(f"{file}: some answers have a score and some have none; give all of them or none")
    known = set(question_ids)
    for what, keys in (("not of this split", answers.keys() - known), ("not answered", known - answers.keys())):
        if keys:
            raise ValueError(f"{file}: {len(keys)} questions are {what}, such as {min(keys, key=str)}")
    return [answers[key] for key in question_ids]

"""Copies of VQA v2 on the Hugging Face Hub, or any data set with its columns, in parquet or WebDataset archives."""

from contextlib import contextmanager
from hashlib import blake2b
from itertools import chain
from pathlib import Path

import pyarrow.compute as pc
from datasets import ClassLabel, Features, Image, concatenate_datasets, load_dataset
from datasets.exceptions import DatasetGenerationError

from . import FEATURES, DataError, check_unique, drop_missing_images, split_size
from .answers import MIN_ANSWERS, answer_texts, answer_type, ten_answers
from .own_data import whole_number

NEEDED = ("image", "question", "answers")
PICTURES = ("jpg", "jpeg", "png", "webp")  # as a WebDataset names the pictures of its samples


def load(name, split, skip_missing_images=False):
    """
    Args:
        name (`str`): of a data set on the Hub, or a folder of parquet files named by split (`train-*.parquet`), or
            of WebDataset archives (`train-*.tar`), a picture and a `json` of the other columns for each question. It
            has the columns `image`, `question`, `answers` (texts, or dictionaries with `answer`) or `answer`, and, as
            the common copies of VQA v2 have them, `question_id`, `image_id`, `question_type`, `answer_type`; or
            `provenance`. Fewer than ten answers go through [`ten_answers`].
        split (`str`): one of its splits.
        skip_missing_images (`bool`): leave out the questions whose image is missing.

    Returns:
        `datasets.Dataset` with the columns of `FEATURES`; the pictures stay where `datasets` keeps them.

    Raises:
        DataError: no such data set or split, a column that is missing, a row that lacks something.
    """
    with loading(name, split):
        rows = load_dataset(str(name), split=split)
    if isinstance(rows.features.get("json"), dict):
        for column in set(PICTURES) & set(rows.column_names):
            rows = rows.cast_column(column, Image(decode=False))
        rows = rows.map(unfold, remove_columns=rows.column_names, desc="Reading samples")
    if renamed := renamed_columns(rows.column_names):
        rows = rows.rename_columns(renamed)
    check_columns(rows.column_names, name)
    if not len(rows):
        raise DataError(f"split {split!r} of {name} is empty")
    pictures, missing = _pictures(rows, name)
    if missing:
        keys = [missing.get(index) for index in range(len(rows))]
        rows = drop_missing_images(rows, set(missing.values()), name, skip_missing_images, keys)
        pictures = [picture for picture in pictures if picture is not None]
    left_out = split_size(rows) - len(rows)
    if "image_id" in rows.column_names:
        ids = list(map(str, rows["image_id"][:]))
        if len(set(zip(ids, pictures))) > len(set(ids)):
            print(
                f"{name}: some values of image_id stand for several pictures; pictures are told apart by their content"
            )
            rows = rows.remove_columns("image_id")
    named_by_content = "image_id" not in rows.column_names
    if named_by_content:
        pictures = rows.select_columns("image").cast_column("image", Image(decode=False))
        ids = pictures.map(
            lambda batch: {"image_id": [content_id(image) for image in batch["image"]]},
            batched=True, remove_columns="image", desc="Telling pictures apart",
        )  # fmt: skip
        rows = concatenate_datasets([rows, ids], axis=1)
    names = [column for column in FEATURES if column in rows.column_names and column != "image"]
    light = rows.select_columns(names).map(
        same_columns,
        fn_kwargs={"split": split, "labels": label_names(rows.features), "named_by_content": named_by_content},
        with_indices=True,
        batched=True,
        remove_columns=names,
        features=Features({column: kind for column, kind in FEATURES.items() if column != "image"}),
        desc="Reading questions and answers",
    )
    check_unique(light["question_id"][:], name)
    images = rows.select_columns("image").cast_column("image", Image())
    loaded = concatenate_datasets([images, light], axis=1).select_columns(list(FEATURES))
    loaded.left_out = left_out
    return loaded


def _pictures(rows, name):
    """
    For each row what tells its picture from most others without reading it: how many bytes it has, else its path; None
    where there are neither bytes nor a file of that path. And of these, by their index, what to call them.
    """
    try:
        images = rows.select_columns("image").cast_column("image", Image(decode=False)).with_format("arrow")
        tables = [table["image"] for table in images.iter(batch_size=1000)]
        sizes = [pc.binary_length(pc.struct_field(column, "bytes")).to_pylist() for column in tables]
        paths = [pc.struct_field(column, "path").to_pylist() for column in tables]
    except (TypeError, NotImplementedError, ValueError) as error:
        raise DataError(f"the column 'image' of {name} does not hold a picture in each row: {error}") from None
    found, missing = [], {}
    for index, (size, path) in enumerate(zip(chain.from_iterable(sizes), chain.from_iterable(paths))):
        found.append(size or (path if path and Path(path).is_file() else None))
        if found[-1] is None:
            missing[index] = f"that of row {index}" + (f" ({Path(path).absolute()})" if path else "")
    return found, missing


def label_names(features):
    """Names of the values of each column (of `features`) that holds their numbers, as `ClassLabel` has it."""
    return {column: kind.names for column, kind in features.items() if isinstance(kind, ClassLabel)}


@contextmanager
def loading(name, split):
    """What `load_dataset` raises, as a `DataError` that names data set and split."""
    try:
        yield
    except (DatasetGenerationError, ValueError, OSError) as error:
        # A `DatasetGenerationError` says only that something went wrong; its cause says what.
        raise DataError(f"split {split!r} of {name} cannot be loaded: {error.__cause__ or error}") from None


def renamed_columns(names):
    """A data set's columns that have another name in `NEEDED`, to that name."""
    return {"answer": "answers"} if "answer" in names and "answers" not in names else {}


def check_columns(there, name):
    """Raise `DataError` if the data set `name` lacks one of the columns that are `NEEDED`."""
    if lacking := [column for column in NEEDED if column not in there]:
        raise DataError(f"{name} has no column {', '.join(lacking)}; it has {', '.join(there)}")


def unfold(sample):
    """A WebDataset's sample, `{"jpg": picture, "json": {…}}`, with the columns of a parquet file."""
    image = next((sample[name] for name in PICTURES if sample.get(name) is not None), None)
    return {**(sample["json"] or {}), "image": image}


def content_id(image):
    """A name for an image `{"bytes", "path"}`, equal for equal ones: a batch and the states hold an image once."""
    if not (image["bytes"] or image["path"]):
        raise DataError("a row has an image with neither bytes nor a path")
    return blake2b(image["bytes"] or image["path"].encode(), digest_size=8).hexdigest()


def _text(given):
    return "" if given is None else str(given).strip()


def same_columns(rows, indices, split, labels, named_by_content=False):
    for column in labels.keys() & rows.keys():
        rows[column] = [None if number is None or number < 0 else labels[column][number] for number in rows[column]]
    written = [_texts(group) for group in rows["answers"]]
    few = [len(texts) < MIN_ANSWERS for texts in written]
    answers = [ten_answers(texts) if repeated else texts for texts, repeated in zip(written, few)]
    kinds = [answer_type(group[0]) if group else "" for group in answers]
    empty = [None] * len(indices)
    for key, image_id, question in zip(rows.get("question_id", indices), rows["image_id"], rows["question"]):
        if image_id in (None, "") or image_id != image_id:  # a number that is missing may be NaN
            raise DataError(f"split {split!r}: question {key} has no 'image_id', but {image_id!r}")
        if not isinstance(question, str) or not question.strip():
            raise DataError(f"split {split!r}: the 'question' of question {key} must be a text, not {question!r:.100}")
    return {
        # Of the content it is the same in all splits; a number may stand for another image in each.
        "image_id": rows["image_id"] if named_by_content else [f"{split}/{image_id}" for image_id in rows["image_id"]],
        "question_id": [_number(key) for key in rows.get("question_id", indices)],
        "question": rows["question"],
        "answers": answers,
        "question_type": [_text(given) for given in rows.get("question_type", empty)],
        "answer_type": [_text(given) or kind for given, kind in zip(rows.get("answer_type", empty), kinds)],
        "provenance": [_text(given) for given in rows.get("provenance", empty)],
        "normalized": few,
    }


def _texts(answers):
    """The answers of one question in the shapes that copies have: one or several texts, numbers, or dictionaries."""
    if isinstance(answers, dict):
        answers = answers.get("answer")
    if answers is None or answers == []:
        return []
    if isinstance(answers, list):
        answers = [entry.get("answer") if isinstance(entry, dict) else entry for entry in answers]
    try:
        texts = answer_texts(answers)
    except ValueError as error:
        raise DataError(f"column 'answers': {error}") from None
    if not any(text.strip() for text in texts):
        raise DataError(f"column 'answers': all answers of a question are empty: {answers!r:.100}")
    return texts


def _number(key):
    try:
        return whole_number("question_id", key)
    except ValueError as error:
        raise DataError(f"column {error}") from None

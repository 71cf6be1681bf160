"""Official VQA v2 JSON files, zipped or not, and COCO image folders."""

import json
import zipfile
from pathlib import Path

from datasets import Dataset
from datasets.exceptions import DatasetGenerationError

from . import FEATURES, DataError

QUESTIONS = "v2_OpenEnded_mscoco_{split}_questions.json"
ANNOTATIONS = "v2_mscoco_{split}_annotations.json"
_READER_VERSION = 1  # part of the cache's key: raise it when the rows change


def load(data_dir, split):
    """
    Load one split in the official layout: the question and annotation files, or the zips that hold them, in
    `data_dir`, and the images in `data_dir/IMAGES/COCO_IMAGES_000000000000.jpg`, where IMAGES is the split's name.

    Args:
        data_dir (`str`): the folder.
        split (`str`): such as `"train2014"`, `"val2014"`, `"test2015"`; test splits need no annotations.

    Returns:
        `datasets.Dataset` with the columns of `FEATURES`, cached by the names, sizes and times of its files.

    Raises:
        DataError: missing or malformed files, questions without annotations or the reverse, missing images.
    """
    data_dir = Path(data_dir).resolve()
    if not data_dir.is_dir():
        raise DataError(f"no such folder: {data_dir}")
    questions = _find(data_dir, QUESTIONS.format(split=split))
    if questions is None:
        known = ", ".join(sorted(_splits(data_dir))) or "none"
        raise DataError(f"no questions of split {split!r} in {data_dir}; splits there: {known}")
    annotations = _find(data_dir, ANNOTATIONS.format(split=split))
    if annotations is None and not split.startswith("test"):
        raise DataError(
            f"no annotations of split {split!r} in {data_dir}: {ANNOTATIONS.format(split=split)} is missing"
        )
    images = data_dir / split.replace("test-dev", "test")
    if not images.is_dir():
        raise DataError(f"no image folder {images}")
    sources = [source for source in (questions, annotations) if source]
    arguments = {
        "questions": questions,
        "annotations": annotations,
        "images": str(images),
        # A tuple: `from_generator` takes a list for shards and would run once for each entry.
        "stamp": (_READER_VERSION, *(_stamp(file) for file, _ in sources)),
    }
    try:
        return Dataset.from_generator(_rows, features=FEATURES, gen_kwargs=arguments)
    except DatasetGenerationError as error:
        if isinstance(error.__cause__, DataError):
            raise error.__cause__ from None
        raise


def _stamp(file):
    status = Path(file).stat()
    return status.st_size, status.st_mtime_ns


def _find(data_dir, name):
    """`(file, member)` of a JSON file in the folder, member None, or in one of its zips; None if absent."""
    if (data_dir / name).is_file():
        return str(data_dir / name), None
    for archive in sorted(data_dir.glob("*.zip")):
        for member in _members(archive):
            if Path(member).name == name:
                return str(archive), member
    return None


def _members(archive):
    try:
        with zipfile.ZipFile(archive) as opened:
            return opened.namelist()
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(f"{archive} is not a readable zip file ({error}); fetch it again") from None


def _splits(data_dir):
    before, after = QUESTIONS.split("{split}")
    names = [file.name for file in data_dir.glob("*.json")]
    names += [Path(member).name for archive in data_dir.glob("*.zip") for member in _members(archive)]
    return {name[len(before) : -len(after)] for name in names if name.startswith(before) and name.endswith(after)}


def _read(source, key, fields):
    """The list under `key`, each entry with the `fields`."""
    file, member = source
    name = f"{file}:{member}" if member else file
    try:
        if member:
            with zipfile.ZipFile(file) as archive:
                data = json.loads(archive.read(member))
        else:
            data = json.loads(Path(file).read_bytes())
    except (ValueError, zipfile.BadZipFile, RecursionError, OSError) as error:
        raise DataError(f"{name} is not valid JSON ({error}); fetch it again") from None
    entries = data.get(key) if isinstance(data, dict) else None
    if not isinstance(entries, list):
        raise DataError(f"{name} holds no list of {key!r}; it is not an official VQA v2 file")
    if not entries:
        raise DataError(f"{name}: the list of {key!r} is empty")
    for position, entry in enumerate(entries):
        for field, kind in fields.items():
            if not isinstance(entry, dict) or not isinstance(entry.get(field), kind):
                raise DataError(f"{name}: entry {position} of {key!r} has no proper {field!r}")
    by_id = {entry["question_id"]: entry for entry in entries}
    if len(by_id) != len(entries):
        raise DataError(f"{name}: {len(entries) - len(by_id)} question ids stand more than once")
    return by_id


def _rows(questions, annotations, images, stamp):
    asked = _read(questions, "questions", {"question_id": int, "image_id": int, "question": str})
    answered = {}
    if annotations:
        fields = {"question_id": int, "answers": list, "question_type": str, "answer_type": str}
        answered = _read(annotations, "annotations", fields)
        for one, other, kind, lacks in (
            (asked, answered, "questions", "annotation"),
            (answered, asked, "annotations", "question"),
        ):
            lonely = [key for key in one if key not in other]
            if lonely:
                raise DataError(
                    f"{len(lonely)} of {len(one)} {kind} have no {lacks} (first: question_id {lonely[0]}); "
                    f"{questions[0]} and {annotations[0]} are of different splits or incomplete"
                )
    folder = Path(images)
    present = {file.name for file in folder.iterdir()}
    name = "COCO_" + folder.name + "_{:012d}.jpg"
    missing = sorted({row["image_id"] for row in asked.values() if name.format(row["image_id"]) not in present})
    if missing:
        raise DataError(f"{len(missing)} images are missing in {folder}, the first {name.format(missing[0])}")
    for key, row in asked.items():
        known = answered.get(key, {})
        yield {
            "image": str(folder / name.format(row["image_id"])),
            "image_id": f"{folder.name}/{row['image_id']}",
            "question_id": key,
            "question": row["question"],
            "answers": [_answer(answer, key, annotations) for answer in known.get("answers", [])],
            "question_type": known.get("question_type", ""),
            "answer_type": known.get("answer_type", ""),
        }


def _answer(entry, key, annotations):
    if not isinstance(entry, dict) or not isinstance(entry.get("answer"), str):
        raise DataError(f"{annotations[0]}: question_id {key} has an answer without text")
    return entry["answer"]

"""Official VQA v2 JSON files, zipped or not, and COCO image folders."""

import codecs
import os
import zipfile
import zlib
from pathlib import Path
from typing import Annotated

import msgspec

from . import FEATURES, DataError, check_unique, drop_missing_images, file_stamp, generated

QUESTIONS = "v2_OpenEnded_mscoco_{split}_questions.json"
ANNOTATIONS = "v2_mscoco_{split}_annotations.json"
_READER_VERSION = 5  # part of the cache's key: raise it when the rows change


_Id = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]  # as `FEATURES` holds it


class _Question(msgspec.Struct):
    question_id: _Id
    image_id: int
    question: Annotated[str, msgspec.Meta(pattern=r"\S")]  # of something


class _Answer(msgspec.Struct):
    answer: str


class _QuestionId(msgspec.Struct):
    question_id: _Id


class _Annotation(msgspec.Struct):
    question_id: _Id
    question_type: str
    answer_type: str
    answers: Annotated[list[_Answer], msgspec.Meta(min_length=1)]
    image_id: int | None = None
    provenance: str = ""  # not in the official files


def load(data_dir, split, skip_missing_images=False, check_images=True):
    """
    Load one split in the official layout: the question and annotation files, or the zips that hold them, in
    `data_dir`, and the images in `data_dir/IMAGES/COCO_IMAGES_000000000000.jpg`, where IMAGES is the split's name.

    Args:
        data_dir (`str`): the folder.
        split (`str`): such as `"train2014"`, `"val2014"`, `"test2015"`; test splits need no annotations.
        skip_missing_images (`bool`): leave out the questions whose image is missing.
        check_images (`bool`): whether to look for missing images at all.

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
    if check_images and not images.is_dir():
        raise DataError(f"no image folder {images}")
    sources = [source for source in (questions, annotations) if source]
    arguments = {
        "questions": questions,
        "annotations": annotations,
        "images": str(images),
        # A tuple: `from_generator` takes a list for shards and would run once for each entry.
        "stamp": (_READER_VERSION, *(file_stamp(file) for file, _ in sources)),
    }
    rows = generated(_rows, FEATURES, arguments)
    if not check_images:
        return rows
    # Not in `_rows`, which does not run again when its result is in the cache.
    missing = _absent(images, (int(key.rpartition("/")[2]) for key in rows.unique("image_id")))
    missing = {f"{images.name}/{image_id}" for image_id in missing}
    return drop_missing_images(rows, missing, images, skip_missing_images)


def missing_images(data_dir, split):
    """
    Args:
        data_dir (`Path`): a folder in the official layout.
        split (`str`): whose questions and folder of images are in it.

    Returns:
        Names of the files that the split's questions are about and its folder lacks, sorted.

    Raises:
        DataError: the questions cannot be read.
    """
    questions, images = _find(data_dir, QUESTIONS.format(split=split)), data_dir / split
    asked = _decode(_read(questions, "questions"), _Question, questions, "questions")
    return sorted(_file_name(images, image_id) for image_id in _absent(images, {entry.image_id for entry in asked}))


def _absent(folder, image_ids):
    present = {file.name for file in os.scandir(folder) if file.is_file()}
    return {image_id for image_id in image_ids if _file_name(folder, image_id) not in present}


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
        raise DataError(f"{archive} is not a readable zip file ({error}); remove it and fetch it again") from None


def _splits(data_dir):
    before, after = QUESTIONS.split("{split}")
    names = [file.name for file in data_dir.glob("*.json")]
    names += [Path(member).name for archive in data_dir.glob("*.zip") for member in _members(archive)]
    return {name[len(before) : -len(after)] for name in names if name.startswith(before) and name.endswith(after)}


def _read(source, key):
    """The bytes of each entry under `key`; they are decoded one by one, since a whole file would fill gigabytes."""
    file, member = source
    try:
        if member:
            with zipfile.ZipFile(file) as archive:
                text = archive.read(member)
        else:
            text = Path(file).read_bytes()
        text = text.removeprefix(codecs.BOM_UTF8)  # of who saved it once more on Windows
        entries = msgspec.json.decode(text, type=dict[str, msgspec.Raw]).get(key, b"null")
        entries = msgspec.json.decode(entries, type=list[msgspec.Raw])
    except msgspec.ValidationError:
        raise DataError(f"{_name(source)} holds no list of {key!r}; it is not an official VQA v2 file") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError, OSError) as error:
        raise DataError(f"{_name(source)} is not valid JSON ({error}); remove it and fetch it again") from None
    if not entries:
        raise DataError(f"{_name(source)}: the list of {key!r} is empty")
    return entries


def _decode(entries, kind, source, key):
    decoder = msgspec.json.Decoder(kind)
    for position, entry in enumerate(entries):
        try:
            yield decoder.decode(entry)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{_name(source)}: entry {position} of {key!r} is not as it should be: {error}") from None


def _name(source):
    file, member = source
    return f"{file}:{member}" if member else file


def _rows(questions, annotations, images, stamp):
    listed = list(_decode(_read(questions, "questions"), _Question, questions, "questions"))
    check_unique((entry.question_id for entry in listed), _name(questions))
    asked = {entry.question_id: entry for entry in listed}
    if annotations is None:
        for question in asked.values():
            yield _row(question, Path(images))
        return
    entries = _read(annotations, "annotations")
    listed = [entry.question_id for entry in _decode(entries, _QuestionId, annotations, "annotations")]
    check_unique(listed, _name(annotations))
    answered = set(listed)
    for lonely, kind, lacks in (
        (asked.keys() - answered, "questions", "annotation"),
        (answered - asked.keys(), "annotations", "question"),
    ):
        if lonely:
            raise DataError(
                f"{len(lonely)} {kind} have no {lacks}, such as question_id {min(lonely)}; "
                f"{_name(questions)} and {_name(annotations)} are of different splits or incomplete"
            )
    for annotation in _decode(entries, _Annotation, annotations, "annotations"):
        question = asked[annotation.question_id]
        if annotation.image_id not in (None, question.image_id):
            raise DataError(
                f"question_id {question.question_id} is about image {question.image_id} in {_name(questions)}, and in "
                f"{_name(annotations)} about image {annotation.image_id}: they are of different data sets"
            )
        yield _row(question, Path(images), annotation)


def _file_name(folder, image_id):
    return f"COCO_{folder.name}_{image_id:012d}.jpg"


def _row(question, folder, annotation=None):
    return {
        "image": str(folder / _file_name(folder, question.image_id)),
        "image_id": f"{folder.name}/{question.image_id}",
        "question_id": question.question_id,
        "question": question.question,
        "answers": [entry.answer for entry in annotation.answers] if annotation else [],
        "question_type": annotation.question_type if annotation else "",
        "answer_type": annotation.answer_type if annotation else "",
        "provenance": annotation.provenance if annotation else "",
        "normalized": False,
    }


if __name__ == "__main__":
    from .download import main  # as `vqafusion-data`

    main()

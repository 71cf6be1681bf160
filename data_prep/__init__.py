"""
Raw files to an encoded `Dataset`. Every source gives the same columns: nothing later knows where a row came from.

Whoever goes through a column writes `rows["name"][:]`: without it `datasets` reads row by row, a hundred times slower.
"""

from itertools import pairwise
from pathlib import Path

from datasets import Dataset, Features, Image, List, Value, concatenate_datasets
from datasets.exceptions import DatasetGenerationError

FEW_ANSWERS = 5  # the official accuracy counts agreement among ten
FEATURES = Features(
    {
        "image": Image(),
        "image_id": Value("string"),
        "question_id": Value("int64"),
        "question": Value("string"),
        "answers": List(Value("string")),
        "question_type": Value("string"),
        "answer_type": Value("string"),
        "provenance": Value("string"),
        "normalized": Value("bool"),
    }
)
"""Columns of every data set. An `image_id` stands for one image, also where data sets are joined.
`answers` is empty where they are not published (the test splits).
`provenance` tells how a question came into the data, such as which of several collections it is from; often empty.
`normalized` tells whether the answers went through the metric's normaliser, so that what is compared with them must."""


class DataError(ValueError):
    """Something is wrong with the user's data; the message names the file and says what to do."""


PARTS = 100  # of a split, from each of which a quick try takes some questions
NAMED = 10  # missing images, at most
DATASETS = ("easy_vqa", "vqa_v2", "own", "hub")


def load_split(dataset, split, data_dir=None, skip_missing_images=False, check_images=True):
    """
    Load one split of a named data set.

    Args:
        dataset (`str`): `"easy_vqa"`; `"vqa_v2"`, the official files; `"own"`, a JSON Lines or CSV file of yours;
            `"hub"`, a data set of the Hub or a folder of parquet files.
        split (`str`): a split of that data set; of `"own"`, the file's name.
        data_dir (`str`, *optional*): the folder that holds it, or its name on the Hub; `easy_vqa` needs none.
        skip_missing_images (`bool`): go on without the questions whose image file is missing.
        check_images (`bool`): False where nobody will look at the images: their files may be missing then, unless
            `skip_missing_images` asks for them. Those of `"hub"` are always looked for.

    Returns:
        `datasets.Dataset` with the columns of `FEATURES`.

    Raises:
        DataError: unknown data set or split, or files that are missing or broken.
    """
    from . import easy_vqa, hub, own_data, vqa_v2

    if dataset not in DATASETS:
        raise DataError(f"unknown data set {dataset!r}: choose one of {', '.join(DATASETS)}")
    if dataset == "easy_vqa":
        return easy_vqa.load(split)
    if data_dir is None:
        raise DataError(f"--dataset {dataset} needs --data_dir, the folder that holds the data")
    if not split:
        raise DataError(f"--dataset {dataset} needs the name of a split (train.py: --train_split, --eval_split)")
    if dataset == "hub":
        return hub.load(data_dir, split, skip_missing_images)
    reader = {"vqa_v2": vqa_v2, "own": own_data}[dataset]
    return reader.load(data_dir, split, skip_missing_images, check_images or skip_missing_images)


def generated(rows, features, arguments):
    """
    What a generator gives, on disk, and from there where it has been asked for with the same arguments before.

    Args:
        rows: generator function.
        features (`datasets.Features`)
        arguments (`dict`): of `rows`.

    Returns:
        `datasets.Dataset`

    Raises:
        DataError: what the generator raised of its data, in the place of the library's own error about it.
    """
    try:
        return Dataset.from_generator(rows, features=features, gen_kwargs=arguments)
    except DatasetGenerationError as error:
        if isinstance(error.__cause__, (ValueError, TypeError, OSError)):
            raise DataError(str(error.__cause__)) from None
        raise


def spread(rows, most):
    """
    A part of a split for a quick try: runs of neighbouring rows, which keep the questions of an image together, from
    `PARTS` places at equal distances.

    Args:
        rows (`datasets.Dataset`): any columns.
        most (`int`, *optional*): how many rows to take; all, if None or more than there are.
    """
    if not most or most >= len(rows):
        return rows
    ends = [len(rows) * part // PARTS for part in range(PARTS + 1)]
    parts = [range(start, start + end * most // len(rows) - start * most // len(rows)) for start, end in pairwise(ends)]
    # Ranges, since other indices would have the pictures of parquet files written once more.
    return concatenate_datasets([rows.select(part) for part in parts if part])


def file_stamp(path):
    """Size in bytes and time of change in ns: a file (path) with the same is taken to hold the same."""
    status = Path(path).stat()
    return status.st_size, status.st_mtime_ns


def drop_missing_images(rows, missing, where, skip, keys=None):
    """
    Args:
        rows (`datasets.Dataset`): columns of `FEATURES`.
        missing (`set[str]`): `image_id` of every image whose file is not there.
        where: the folder or file to name.
        skip (`bool`): leave out their questions, and say so, instead of raising.
        keys (`list[str]`, *optional*): what `missing` knows the rows' images by, if not by `image_id`.

    Returns:
        `datasets.Dataset`

    Raises:
        DataError: an image is missing and `skip` is False, or no image is there at all.
    """
    if not missing:
        return rows
    keep = [index for index, key in enumerate(keys or rows["image_id"][:]) if key not in missing]
    left_out = len(rows) - len(keep)
    named = ", ".join(sorted(missing)[:NAMED]) + (", …" if len(missing) > NAMED else "")
    said = f"{where}: {len(missing)} images are missing: {named}"
    if not skip or not keep:
        raise DataError(f"{said}; --skip_missing_images goes on without their {left_out} questions")
    print(f"{said}; going on without their {left_out} questions")
    kept = rows.select(keep)
    kept.left_out = left_out
    return kept


def split_size(rows):
    """How many questions a split has that [`load_split`] returned, with those that it left out."""
    return len(rows) + getattr(rows, "left_out", 0)


def check_unique(ids, where):
    """Raise `DataError` if a question id stands more than once among `ids`."""
    seen = set()
    if twice := [key for key in ids if key in seen or seen.add(key)]:
        raise DataError(f"{where}: {len(twice)} question ids stand more than once, such as {twice[0]}")


def check_answered(rows, split):
    """Raise `DataError` if a question of the split (`str`) has no human answers, or a type named as another score."""
    if taken := {"overall", "top_5", "loss"} & set(rows["answer_type"][:]):
        raise DataError(f"split {split!r}: an answer type cannot be named {min(taken)!r}, as a score is")
    few = 0
    for key, answers in zip(rows["question_id"][:], rows["answers"][:]):
        if not answers:
            raise DataError(f"split {split!r}: question {key} has no human answers to compare with")
        few += len(answers) <= FEW_ANSWERS
    if few:
        print(
            f"{few} questions of {split} have {FEW_ANSWERS} answers or fewer: the official accuracy counts agreement "
            "among ten, so that what fewer people said scores less, and what one alone said nothing"
        )

"""easy-VQA (Victor Zhou, MIT licence): the data set that installs with the project, from PyPI as `easy-vqa`."""

import argparse
import random

import easy_vqa
from datasets import Dataset

from . import FEATURES, DataError

SPLITS = ("train", "validation", "test")
VALIDATION_SHARE = 0.1
_SHAPES = ("circle", "rectangle", "triangle")


def load(split):
    """
    Args:
        split (`str`): `"train"`, `"validation"` (one in ten of the package's training images, drawn once with a
            fixed seed, for choosing) or `"test"`.

    Returns:
        `datasets.Dataset` with the columns of `FEATURES`. The package's one answer stands ten times.

    Raises:
        DataError: another split.
    """
    if split not in SPLITS:
        raise DataError(f"easy_vqa has no split {split!r}: choose one of {', '.join(SPLITS)}")
    if split == "test":
        rows, paths = zip(*easy_vqa.get_test_questions()), easy_vqa.get_test_image_paths()
    else:
        paths = easy_vqa.get_train_image_paths()
        ids = sorted(paths)
        validation = set(random.Random(0).sample(ids, int(VALIDATION_SHARE * len(ids))))
        rows = (
            row for row in zip(*easy_vqa.get_train_questions()) if (row[2] in validation) == (split == "validation")
        )
    # Question ids stay below 2**53 and apart between train and test.
    first = 1_000_000 if split == "test" else 0
    columns = {name: [] for name in FEATURES}
    for number, (question, answer, image_id) in enumerate(rows):
        columns["image"].append(str(paths[image_id]))
        columns["image_id"].append(f"{'test' if split == 'test' else 'train'}/{image_id}")
        columns["question_id"].append(first + number)
        columns["question"].append(question)
        columns["answers"].append([answer] * 10)
        columns["question_type"].append(_question_type(question))
        columns["answer_type"].append("yes/no" if answer in ("yes", "no") else "other")
        columns["provenance"].append("")
        columns["normalized"].append(True)  # which they are as they come
    return Dataset.from_dict(columns, features=FEATURES)


def _question_type(question):
    """The property asked for, and whether the question holds a "not"."""
    if question.startswith("what"):
        return "what color" if "color" in question else "what shape"
    asked = "shape" if any(shape in question.rstrip("?").split() for shape in _SHAPES) else "color"
    return f"is there not a {asked}" if " not " in question else f"is there a {asked}"


if __name__ == "__main__":  # for `make demo`
    parser = argparse.ArgumentParser(description="Print where one of easy-VQA's test images lies.")
    parser.add_argument("number", type=int, help="from 0 on")
    images, number = easy_vqa.get_test_image_paths(), parser.parse_args().number
    if number not in images:
        parser.error(f"there are test images 0 to {max(images)}, not {number}")
    print(images[number])

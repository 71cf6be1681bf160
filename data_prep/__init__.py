"""Raw files to an encoded `Dataset`. Every source gives the same columns: nothing later knows where a row came from."""

from datasets import Features, Image, List, Value

FEATURES = Features(
    {
        "image": Image(),
        "image_id": Value("string"),
        "question_id": Value("int64"),
        "question": Value("string"),
        "answers": List(Value("string")),
        "question_type": Value("string"),
        "answer_type": Value("string"),
    }
)
"""Columns of every data set. `answers` is empty where they are not published (the test splits)."""


class DataError(ValueError):
    """Something is wrong with the user's data; the message names the file and says what to do."""


def load_split(dataset, split, data_dir=None):
    """
    Load one split of a named data set.

    Args:
        dataset (`str`): `"easy_vqa"` or `"vqa_v2"`.
        split (`str`): a split of that data set.
        data_dir (`str`, *optional*): the folder that holds it; `easy_vqa` needs none.

    Returns:
        `datasets.Dataset` with the columns of `FEATURES`.

    Raises:
        DataError: unknown data set or split, or files that are missing or broken.
    """
    from . import easy_vqa, vqa_v2

    if dataset == "easy_vqa":
        return easy_vqa.load(split)
    if dataset == "vqa_v2":
        if data_dir is None:
            raise DataError("--dataset vqa_v2 needs --data_dir, the folder with the questions, annotations and images")
        return vqa_v2.load(data_dir, split)
    raise DataError(f"unknown data set {dataset!r}: choose easy_vqa or vqa_v2")

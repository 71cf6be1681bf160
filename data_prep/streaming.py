"""Training questions read from shards as they are needed: data that outgrows memory or disk."""

from itertools import count

import torch
from datasets import Features, Image, load_dataset
from datasets.distributed import split_dataset_by_node

from . import FEATURES, DataError, check_unique, generated
from .encode import encode_batch
from .hub import check_columns, content_id, label_names, loading, renamed_columns, same_columns, unfold

BUFFER = 1000  # questions, with their pictures as they lie in the files, among which the next one is drawn


def check_streaming(data, args):
    """Raise `ValueError` for what a stream cannot do: it has no length, no order of ours, no image twice."""
    if data.dataset != "hub":
        raise ValueError("--streaming reads --dataset hub: parquet files or WebDataset archives, or a name on the Hub")
    for name in ("data_dir", "train_split", "eval_split"):
        if not getattr(data, name):
            raise ValueError(f"--streaming needs --{name}")
    if args.max_steps <= 0:
        raise ValueError("--streaming needs --max_steps: a stream has no end to count epochs by")
    if "epoch" in (args.eval_strategy, args.save_strategy):
        raise ValueError("--streaming needs --save_strategy steps and --eval_strategy steps: it has no epochs")
    given = {
        "skip_missing_images": data.skip_missing_images,
        "image_states_dir": data.image_states_dir, "max_train_samples": data.max_train_samples,
        "answer_type_sampling": args.answer_type_sampling, "reference_provenance": args.reference_provenance,
        "questions_per_image": args.questions_per_image > 1, "num_teachers": args.num_teachers,
        "train_sampling_strategy": args.train_sampling_strategy != "random",
        "dataloader_num_workers": args.dataloader_num_workers,
    }  # fmt: skip
    for name, value in given.items():
        if value:
            raise ValueError(f"--{name} does not go with --streaming")


def open_stream(name, split):
    """
    Args:
        name (`str`): of a data set on the Hub, or a folder of shards named by split: parquet files as in `hub.py`
            (`train-*.parquet`), or WebDataset archives (`train-*.tar`) of a picture and a `json` with the other
            columns for each question.
        split (`str`): one of its splits.

    Returns:
        `datasets.IterableDataset` with the columns of `FEATURES`, pictures not decoded.

    Raises:
        DataError: no such data set or split, or a column that is missing.
    """
    with loading(name, split):
        rows = load_dataset(str(name), split=split, streaming=True).decode(False)
        labels = label_names(rows.features or {})
        first = next(iter(rows), None)
    if first is None:
        raise DataError(f"split {split!r} of {name} is empty")
    if isinstance(first.get("json"), dict):
        rows = rows.map(unfold, remove_columns=list(first))
        first = unfold(first)
    if renamed := renamed_columns(first):
        rows = rows.rename_columns(renamed)
        first, labels = ({renamed.get(column, column): each[column] for column in each} for each in (first, labels))
    check_columns([column for column, value in first.items() if value is not None], name)
    features = Features({**FEATURES, "image": Image(decode=False)})
    dropped = [column for column in first if column not in FEATURES]
    return rows.map(_same_columns, with_indices=True, batched=True, batch_size=100, remove_columns=dropped,
                    fn_kwargs={"split": split, "labels": labels}, features=features)  # fmt: skip


def _same_columns(rows, indices, split, labels):
    images, named_by_content = [_picture(image) for image in rows["image"]], "image_id" not in rows
    for key, image in zip(rows.get("question_id", indices), images):
        if not (image["bytes"] or image["path"]):
            raise DataError(f"split {split!r}: question {key} has no 'image'")
    if named_by_content:
        rows["image_id"] = [content_id(image) for image in images]
    return {"image": images, **same_columns(rows, indices, split, labels, named_by_content)}


def _picture(image):
    """As `datasets` holds pictures, of what a column that it knows for no picture's may have."""
    if isinstance(image, (bytes, str)) or image is None:
        return {"bytes": image if isinstance(image, bytes) else None, "path": image if isinstance(image, str) else None}
    return image


def on_disk(rows, images=True):
    """
    One pass over a stream: of the training split without `images`, for what is counted before training (vocabulary,
    frequencies, the words of the questions); of the evaluation split with them.

    Returns:
        `datasets.Dataset` on disk, with the columns of `FEATURES`.

    Raises:
        DataError: a row or a file that cannot be read.
    """
    features = Features({name: kind for name, kind in FEATURES.items() if images or name != "image"})
    found = generated(_each, features, {"rows": rows.select_columns(list(features))})
    check_unique(found["question_id"][:], "the stream")
    return found


def _each(rows):
    yield from rows


class QuestionStream(torch.utils.data.IterableDataset):
    """
    Encoded training questions without end, shuffled anew in every pass. Each process has its own shards where their
    number is a multiple of the processes', else it reads all and keeps its share of the questions.

    Args:
        rows: of [`open_stream`].
        tokenizer, label2id, max_length: as for `encode`.
        seed (`int`)
        process, num_processes (`int`): whose share it is.
    """

    def __init__(self, rows, tokenizer, label2id, max_length, seed, process=0, num_processes=1):
        encoding = {"tokenizer": tokenizer, "label2id": label2id, "max_length": max_length}
        rows = split_dataset_by_node(rows, process, num_processes)
        shuffled = rows.shuffle(seed=seed, buffer_size=BUFFER)
        self.rows = shuffled.map(encode_batch, batched=True, batch_size=64, fn_kwargs=encoding)
        self.skip = 0  # questions; a run that goes on passes over those that it has seen

    def __iter__(self):
        left = self.skip
        for epoch in count():
            self.rows.set_epoch(epoch)
            row = None
            for row in self.rows:
                if left:
                    left -= 1
                else:
                    yield row
            if row is None:
                raise DataError("there are fewer questions than processes")

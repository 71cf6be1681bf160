"""What `datasets.map` runs over the rows, and the collator that makes batches of them."""

import os
from collections import Counter
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from datasets import Image, concatenate_datasets
from datasets.fingerprint import Hasher
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from ..command_line import writable_folder
from ..processing_vqafusion import max_question_length
from .answers import soft_targets
from .image_features import pixel_values

MAX_QUESTION_TOKENS = 64
WORTH_PROCESSES = 10_000  # rows; fewer are encoded sooner than processes start


def max_encoded_length(config, tokenizer):
    """How many tokens of a text training reads: at most what the text encoder of a [`VqaFusionConfig`] takes."""
    return min(MAX_QUESTION_TOKENS, max_question_length(config, tokenizer))


def encode(dataset, tokenizer, label2id, max_length=MAX_QUESTION_TOKENS, num_proc=None):
    """
    Add token ids and soft targets to every row. All rows stay, those without an answer in the vocabulary too.

    Args:
        dataset (`datasets.Dataset`): columns of `FEATURES`, with `image` or without it.
        tokenizer: a fast tokenizer.
        label2id (`dict[str, int]`): the answer vocabulary, normalised as `build_vocabulary` and `read_vocabulary` do.
        max_length (`int`): tokens of the longest question; the rest is cut off, and it is said of how many.
        num_proc (`int`, *optional*): processes.

    Returns:
        `datasets.Dataset` with `input_ids`, `length`, `label_ids` and `label_scores` besides; images are not decoded.
        The same call finds its result in the cache of `datasets` again.
    """
    if "image" in dataset.column_names:
        dataset = dataset.cast_column("image", Image(decode=False))
    key = Hasher.hash(
        (dataset._fingerprint, forget_last_use(tokenizer).to_str(), tokenizer.truncation_side, label2id, max_length, 4)
    )
    # A data set made in memory has no place of its own.
    folder = writable_folder(Path(datasets.config.HF_DATASETS_CACHE) / "vqafusion")
    encoded = dataset.select_columns(["question", "answers"]).map(
        encode_batch,
        fn_kwargs={"tokenizer": tokenizer, "label2id": label2id, "max_length": max_length},
        batched=True,
        num_proc=num_proc if num_proc and len(dataset) >= WORTH_PROCESSES else None,
        remove_columns=["question", "answers"],
        new_fingerprint=key,
        cache_file_name=str(folder / f"{key}.arrow"),
        desc="Encoding questions and answers",
    )
    full = [index for index, length in enumerate(encoded["length"][:]) if length == max_length]
    questions = dataset.select(full)["question"]
    if cut := [text for text in questions if len(tokenizer(text, verbose=False)["input_ids"]) > max_length]:
        print(f"{len(cut)} questions have more than {max_length} tokens; the rest is not read, as of: {cut[0][:60]}…")
    # Beside the other columns, not with them: pictures that lie in the data set itself are not written once more.
    return concatenate_datasets([dataset, encoded], axis=1)


def forget_last_use(tokenizer):
    """
    A fast tokenizer's backend, without the padding and truncation that it remembers of its last call: its hash would
    change with use, and so would the file that it is saved to.
    """
    backend = tokenizer.backend_tokenizer
    backend.no_padding()
    backend.no_truncation()
    return backend


def encode_batch(rows, tokenizer, label2id, max_length):
    targets = [soft_targets(answers, label2id) if answers else ([], []) for answers in rows["answers"]]
    input_ids = tokenizer(rows["question"], truncation=True, max_length=max_length)["input_ids"]
    return {
        "input_ids": input_ids,
        "length": [len(ids) for ids in input_ids],  # where `Trainer` looks when it groups questions by length
        "label_ids": [ids for ids, _ in targets],
        "label_scores": [scores for _, scores in targets],
    }


@dataclass
class VqaCollator:
    """
    Rows of an encoded data set to a batch, padded to its longest question; an image stands once in it, however many
    of the questions are about it. transformers' own `Trainer` needs `remove_unused_columns=False` with it.

    Args:
        processor: a [`VqaFusionProcessor`].
        num_labels (`int`): size of the answer vocabulary.
        image_states ([`ImageStates`], *optional*): stored states, to be used in the place of pixels.
        flip (`bool`): mirror each image with probability one half, which is drawn from the batch's `question_id`: the
            same batch comes out in the same way. Only where no question tells left from right.
        max_shift (`int`): move each image by up to so many pixels in both directions, its edge repeated.
        blind (`bool`): leave the images out.
        answer_shifts (`(shifts, answers)`, *optional*): of [`answer_shifts`]; the rows' `answer_shift` says which.
        teacher_probabilities (path, *optional*): the file of [`teacher_probabilities`], of all rows, which know their
            `position`; a path, so that a worker that is started anew is not sent a gigabyte.
    """

    processor: Any
    num_labels: int
    image_states: Any = None
    flip: bool = False
    max_shift: int = 0
    blind: bool = False
    answer_shifts: Any = None
    teacher_probabilities: Any = None

    def __call__(self, rows):
        """
        Returns:
            `input_ids`, `attention_mask` `(batch, question)`; `pixel_values` `(images, 3, height, width)` or
            `image_states` `(images, patches, vision width)`;
            `image_index` `(batch,)`; `labels` `(batch, answers)` soft targets; likewise, if the collator has
            them, `answer_shifts` and `teacher_probabilities`.

        Raises:
            DataError: an image that cannot be read, named.
        """
        padded = self.processor.tokenizer.pad({"input_ids": [row["input_ids"] for row in rows]}, return_tensors="pt")
        position = {}
        for row in rows:
            position.setdefault(row["image_id"], (len(position), row.get("image")))
        labels = torch.zeros(len(rows), self.num_labels)
        for row, target in zip(rows, labels):
            target[row["label_ids"]] = torch.tensor(row["label_scores"])
        if self.blind:
            images = {}
        elif self.image_states is None:
            images = {"pixel_values": self._pixels(rows, list(position), [image for _, image in position.values()])}
        else:
            images = {"image_states": torch.from_numpy(np.stack([self.image_states[key] for key in position]))}
        by_question = {}
        if self.answer_shifts is not None:
            by_question["answer_shifts"] = self.answer_shifts[[row["answer_shift"] for row in rows]]
        if self.teacher_probabilities is not None:
            changed = os.stat(self.teacher_probabilities).st_mtime_ns
            taught = _mapped(self.teacher_probabilities, changed)[[row["position"] for row in rows]]
            by_question["teacher_probabilities"] = torch.from_numpy(taught).float()
        return {
            "input_ids": padded["input_ids"],
            "attention_mask": padded["attention_mask"],
            **images,
            "image_index": torch.tensor([position[row["image_id"]][0] for row in rows]),
            "labels": labels,
            **by_question,
        }

    def _pixels(self, rows, names, sources):
        pixels = pixel_values(sources, self.processor.image_processor, names)
        if not (self.flip or self.max_shift):
            return pixels
        # Chance comes from the batch, which is another one in every epoch: a run that goes on loads batches ahead of
        # where torch's own generator stood, and with workers each has a generator.
        questions = repr([row["question_id"] for row in rows]).encode()
        chance = torch.Generator().manual_seed(int.from_bytes(blake2b(questions, digest_size=8).digest()))
        if self.flip:
            mirrored = torch.rand(len(pixels), generator=chance) < 0.5
            pixels[mirrored] = pixels[mirrored].flip(-1)
        return torch.stack([self._shift(image, chance) for image in pixels]) if self.max_shift else pixels

    def _shift(self, image, chance):
        most = self.max_shift
        top, left = torch.randint(0, 2 * most + 1, (2,), generator=chance).tolist()
        padded = torch.nn.functional.pad(image, (most,) * 4, mode="replicate")
        return padded[:, top : top + image.shape[1], left : left + image.shape[2]]


@cache
def _mapped(file, changed):
    return np.load(file, mmap_mode="r")


def train_tokenizer(questions, vocab_size=4000):
    """
    A lower-casing WordPiece tokenizer of BERT's kind over the most frequent words of the training questions; other
    words are spelled in characters. `WordPieceTrainer` is not used since it breaks ties by chance: each process of a
    run, and each run, would have another vocabulary.

    Args:
        questions: iterable of `str`.
        vocab_size (`int`): upper bound on the vocabulary, beyond the characters.

    Returns:
        `PreTrainedTokenizerFast`
    """
    normalizer, pre_tokenizer = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    words = Counter()
    for question in questions:
        words.update(word for word, _ in pre_tokenizer.pre_tokenize_str(normalizer.normalize_str(question)))
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    characters = sorted({character for word in words for character in word})
    frequent = sorted(words, key=lambda word: (-words[word], word))[:vocab_size]
    tokens = dict.fromkeys([*special, *characters, *(f"##{c}" for c in characters), *frequent])
    tokenizer = Tokenizer(models.WordPiece({token: i for i, token in enumerate(tokens)}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizer
    tokenizer.add_special_tokens(special)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=MAX_QUESTION_TOKENS, pad_token="[PAD]", unk_token="[UNK]",
        cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]", model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip

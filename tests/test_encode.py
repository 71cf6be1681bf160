"""Encoding, learned tokenizers, and batches."""

import subprocess
import sys

import pytest
import torch
from toy_data import SPLIT

from vqafusion.data_prep import DataError, load_split
from vqafusion.data_prep.encode import VqaCollator, encode, train_tokenizer


def test_encoding_keeps_every_row_and_is_found_again(official, processor):
    label2id = {"red": 0, "blue": 1}
    rows = encode(load_split("vqa_v2", SPLIT, official), processor.tokenizer, label2id)
    assert rows[0]["label_ids"] == [0] and rows[0]["label_scores"] == [pytest.approx(0.9)]
    processor(
        text=["short", "a much longer question than that"], max_length=6
    )  # the tokenizer remembers its last padding
    again = encode(load_split("vqa_v2", SPLIT, official), processor.tokenizer, label2id)
    assert again.cache_files == rows.cache_files and rows.cache_files
    other = encode(load_split("vqa_v2", SPLIT, official), processor.tokenizer, {"yes": 0})
    assert other.cache_files != rows.cache_files and other[0]["label_scores"] == [1.0]
    short = encode(load_split("vqa_v2", SPLIT, official), processor.tokenizer, label2id, max_length=4)
    assert short["length"][:] == [4] * 6 and min(rows["length"]) > 4
    words = encode(load_split("vqa_v2", SPLIT, official), train_tokenizer(["is it red"]), label2id)
    assert words["input_ids"][:] != rows["input_ids"][:]
    none = encode(load_split("vqa_v2", SPLIT, official), processor.tokenizer, {"cat": 0})
    assert len(none) == 6 and none[0]["label_ids"] == []


def test_questions_that_are_cut_are_said(official, processor, capsys):
    rows = load_split("vqa_v2", SPLIT, official).map(
        lambda row, i: {"question": "red " * (6 + 2 * i)}, with_indices=True
    )
    assert max(encode(rows, processor.tokenizer, {"yes": 0}, 10)["length"]) == 10
    # Of [CLS], 6, 8, … words and [SEP]: the second question has ten tokens, and is whole.
    assert (
        f"{len(rows) - 2} questions have more than 10 tokens; the rest is not read, as of: red"
        in capsys.readouterr().out
    )
    encode(rows, processor.tokenizer, {"yes": 0}, 30)
    assert "not read" not in capsys.readouterr().out


def test_several_processes_encode_the_same(official, processor, monkeypatch):
    monkeypatch.setattr("vqafusion.data_prep.encode.WORTH_PROCESSES", 1)
    rows = load_split("vqa_v2", SPLIT, official)
    one = encode(rows, processor.tokenizer, {"yes": 0})
    two = encode(rows, processor.tokenizer, {"yes": 0}, num_proc=2)
    assert [row["input_ids"] for row in one] == [row["input_ids"] for row in two]
    assert [row["label_scores"] for row in one] == [row["label_scores"] for row in two]


def test_batches_hold_each_image_once(official, processor):
    rows = encode(load_split("vqa_v2", SPLIT, official), processor.tokenizer, {"yes": 0, "red": 1})
    batch = VqaCollator(processor, 2)([rows[i] for i in (3, 0, 4, 1)])
    assert batch["pixel_values"].shape == (2, 3, 32, 32) and batch["image_index"].tolist() == [0, 1, 0, 1]
    assert torch.allclose(batch["labels"], torch.tensor([[1.0, 0.9]] * 4))
    assert batch["input_ids"].shape == batch["attention_mask"].shape
    shifts = torch.tensor([[0.0, 0], [1, 2]])
    batch = VqaCollator(processor, 2, blind=True, answer_shifts=shifts)(
        [{**rows[i], "answer_shift": i} for i in (1, 0)]
    )
    assert "pixel_values" not in batch and batch["answer_shifts"].tolist() == [[1, 2], [0, 0]]


def test_broken_images_are_named_in_a_batch(official, processor):
    (official / SPLIT / f"COCO_{SPLIT}_{1:012d}.jpg").write_text("not an image")
    rows = encode(load_split("vqa_v2", SPLIT, official), processor.tokenizer, {"yes": 0})
    with pytest.raises(DataError, match="000000000001.jpg.*--skip_missing_images True goes on"):
        VqaCollator(processor, 1)([rows[0]])


def test_augmentation_moves_pixels_but_invents_none(official, processor):
    rows = encode(load_split("vqa_v2", SPLIT, official), processor.tokenizer, {"yes": 0})
    plain = VqaCollator(processor, 1)([rows[0]])["pixel_values"]
    rows = [{**rows[0], "question_id": i} for i in range(8)]
    collator = VqaCollator(processor, 1, flip=True, max_shift=4)
    moved = [collator([row])["pixel_values"] for row in rows]
    assert all(torch.equal(one, collator([row])["pixel_values"]) for one, row in zip(moved, rows))
    assert any(not torch.equal(plain, one) for one in moved)
    assert all(set(one.unique().tolist()) <= set(plain.unique().tolist()) for one in moved)
    by_one = VqaCollator(processor, 1, max_shift=1)
    assert len({by_one([{**rows[0], "question_id": i}])["pixel_values"].numpy().tobytes() for i in range(99)}) == 9
    mirrored = [VqaCollator(processor, 1, flip=True)([row])["pixel_values"] for row in rows]
    assert {torch.equal(one, plain) or -torch.equal(one, plain.flip(-1)) for one in mirrored} == {1, -1}


def test_a_learned_tokenizer_is_the_same_in_every_process_and_spells_rare_words():
    questions = ["What color is the shape?", "is the shape café red?", "the the a"]
    tokenizer = train_tokenizer(questions, vocab_size=2)
    ids = tokenizer("The red")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["[CLS]", "the", "r", "##e", "##d", "[SEP]"]
    code = (
        "from vqafusion.data_prep.encode import train_tokenizer;"
        f"print(sorted(train_tokenizer({questions!r}).get_vocab().items()))"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout
    assert other == f"{sorted(train_tokenizer(questions).get_vocab().items())}\n"
    assert tokenizer.tokenize("hat") == ["h", "##a", "##t"] and tokenizer.tokenize("zoo") == ["[UNK]"]


def test_tokenizer_knows_its_questions():
    tokenizer = train_tokenizer(["what color is the shape?"])
    ids = tokenizer("What COLOR is the shape?")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["[CLS]", "what", "color", "is", "the", "shape", "?", "[SEP]"]
    assert tokenizer.unk_token_id in tokenizer("日本")["input_ids"]

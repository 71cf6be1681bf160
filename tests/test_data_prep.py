"""Sources, vocabulary, encoding and batches, on small files in the official layout."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from conftest import draw
from datasets import Dataset, Image, concatenate_datasets
from hypothesis import given, settings
from hypothesis import strategies as st

from vqafusion.data_prep import FEATURES, DataError, easy_vqa, load_split, split_size, spread
from vqafusion.data_prep.answers import (
    answer_frequencies,
    build_vocabulary,
    ceiling,
    prior_answers,
    read_vocabulary,
    soft_targets,
    vocabulary_best,
)
from vqafusion.data_prep.encode import VqaCollator, encode, train_tokenizer
from vqafusion.metrics.vqa_accuracy.vqa_accuracy import normalize_answer, question_score

SPLIT = "toy2014"


def write_vqa_v2(folder, images=2, per_image=3, split=SPLIT):
    """A data set in the official layout; its answers are 7 times "yes" and 3 times "Red."."""
    (folder / split).mkdir(parents=True)
    questions, annotations = [], []
    for image_id in range(1, images + 1):
        draw().save(folder / split / f"COCO_{split}_{image_id:012d}.jpg")
        for number in range(per_image):
            key = 1000 * image_id + number
            questions.append({"image_id": image_id, "question": f"is it red {number}?", "question_id": key})
            answers = [{"answer": a, "answer_id": i} for i, a in enumerate(["yes"] * 7 + ["Red."] * 3, 1)]
            provenance = {"provenance": "first"} if number == 0 else {}  # the official files have none
            annotations.append(
                {"question_id": key, "image_id": image_id, "answers": answers, "question_type": "is it",
                 "answer_type": "yes/no", "multiple_choice_answer": "yes", **provenance}
            )  # fmt: skip
    write_json(folder, f"v2_OpenEnded_mscoco_{split}_questions.json", {"questions": questions})
    write_json(folder, f"v2_mscoco_{split}_annotations.json", {"annotations": annotations})
    return folder


def write_json(folder, name, data):
    (folder / name).write_text(data if isinstance(data, str) else json.dumps(data))


@pytest.fixture
def official(tmp_path):
    return write_vqa_v2(tmp_path / "data")


def test_official_layout(official):
    rows = load_split("vqa_v2", SPLIT, official)
    assert len(rows) == 6 and rows.features == FEATURES
    first = rows[0]
    assert first["question_id"] == 1000 and first["image_id"] == f"{SPLIT}/1" and first["question"] == "is it red 0?"
    assert first["answers"] == ["yes"] * 7 + ["Red."] * 3 and first["image"].size == (48, 40)
    assert (first["question_type"], first["answer_type"]) == ("is it", "yes/no")
    assert rows["provenance"][:] == ["first", "", ""] * 2


def test_zipped_files_are_read_and_changes_are_seen(official):
    for name in ("questions", "annotations"):
        (file,) = official.glob(f"v2_*_{name}.json")
        with zipfile.ZipFile(official / f"{name}.zip", "w") as archive:
            archive.writestr(f"inner/{file.name}", file.read_text().replace("is it red", "is this red"))
        file.unlink()
    rows = load_split("vqa_v2", SPLIT, official)
    assert rows[5]["question"] == "is this red 2?" and len(rows) == 6
    with pytest.raises(DataError, match=f"splits there: {SPLIT}"):
        load_split("vqa_v2", "val2014", official)


def test_test_splits_need_no_annotations(tmp_path):
    folder = write_vqa_v2(tmp_path / "data", split="test2015")
    (folder / "v2_mscoco_test2015_annotations.json").unlink()
    assert load_split("vqa_v2", "test2015", folder)[0]["answers"] == []
    questions = folder / "v2_OpenEnded_mscoco_test2015_questions.json"
    questions.rename(folder / "v2_OpenEnded_mscoco_test-dev2015_questions.json")
    assert load_split("vqa_v2", "test-dev2015", folder)[0]["image_id"] == "test2015/1"  # both are about the same images


def questions_file(official):
    return official / f"v2_OpenEnded_mscoco_{SPLIT}_questions.json"


def annotations_file(official):
    return official / f"v2_mscoco_{SPLIT}_annotations.json"


def replace(file, old, new):
    file.write_text(file.read_text().replace(old, new))


@pytest.mark.parametrize(
    "harm,words",
    [
        (lambda d: questions_file(d).write_text('{"questions": ['), "not valid JSON"),
        (lambda d: questions_file(d).write_bytes(b"\xff\xfe\x00"), "not valid JSON"),
        (lambda d: questions_file(d).write_text("[]"), "no list of 'questions'"),
        (lambda d: questions_file(d).write_text('{"questions": []}'), "empty"),
        (lambda d: questions_file(d).write_text('{"questions": [{"image_id": 1}]}'), "entry 0"),
        (lambda d: questions_file(d).unlink(), "no questions of split 'toy2014'"),
        (lambda d: annotations_file(d).unlink(), "no annotations of split"),
        (lambda d: replace(annotations_file(d), "1002", "7"), "question_id 1002"),
        (lambda d: replace(questions_file(d), "1001", "1000"), "more than once"),
        (
            lambda d: annotations_file(d).write_text(
                json.dumps({"annotations": 2 * json.loads(annotations_file(d).read_text())["annotations"]})
            ),
            "6 question ids stand more than once",
        ),
        (lambda d: (d / SPLIT / f"COCO_{SPLIT}_{2:012d}.jpg").unlink(), "1 images are missing"),
        (lambda d: (d / SPLIT).rename(d / "elsewhere"), "no image folder"),
        (lambda d: replace(annotations_file(d), '"Red."', "3"), "answers[7].answer"),
        (lambda d: (d / "broken.zip").write_text("no zip") and questions_file(d).unlink(), "not a readable zip"),
    ],
)  # fmt: skip
def test_bad_files_are_named(official, harm, words):
    harm(official)
    with pytest.raises(DataError) as error:
        load_split("vqa_v2", SPLIT, official)
    assert words in str(error.value) and str(official) in str(error.value)


@pytest.mark.parametrize(
    "arguments,words",
    [
        (("easy_vqa", "val"), "train, validation, test"),
        (("coco", "train"), "unknown data set"),
        (("vqa_v2", "val2014"), "--data_dir"),
        (("vqa_v2", "val2014", "/nowhere"), "/nowhere"),
    ],
)
def test_unknown_names(arguments, words):
    with pytest.raises(DataError, match=words):
        load_split(*arguments)


def test_easy_vqa_splits():
    train, validation, test = (easy_vqa.load(split) for split in easy_vqa.SPLITS)
    assert len(train) + len(validation) == 38_575 and len(test) == 9_673
    images = [set(rows["image_id"]) for rows in (train, validation, test)]
    assert [len(group) for group in images] == [3_600, 400, 1_000]
    assert not images[0] & images[1] and not (images[0] | images[1]) & images[2]
    assert train.features == FEATURES and train[0]["image"].size == (64, 64)
    assert set(train["answer_type"]) == {"yes/no", "other"}
    assert all(len(answers) == 10 and len(set(answers)) == 1 for answers in test["answers"])
    keys = [key for rows in (train, validation, test) for key in rows["question_id"]]
    assert len(train["question_id"]) == len(set(train["question_id"])) and len(keys) == 48_248
    assert max(train["question_id"]) < min(test["question_id"])
    for row in test.select_columns(["answers", "answer_type", "question", "question_type"]).select(range(500)):
        assert (row["answer_type"] == "yes/no") is (row["answers"][0] in ("yes", "no"))
        if not row["question"].startswith("what"):
            shape = any(shape in row["question"] for shape in ("circle", "rectangle", "triangle"))
            assert row["question_type"].endswith("shape" if shape else "color"), row
    assert set(test["question_type"]) == {
        "what color", "what shape", "is there a color", "is there a shape", "is there not a color",
        "is there not a shape",
    }  # fmt: skip


def test_vocabulary_is_normalised_frequent_first_and_reproducible():
    answers = [["Red.", "red", "two"], ["2", "blue", "the"], ["Blue"]]
    assert build_vocabulary(answers, 10) == ["2", "blue", "red"]
    assert build_vocabulary(reversed(answers), 2) == ["2", "blue"]
    for arguments, words in ((([], 10), "no answers"), ((answers, 0), "at least 1")):
        with pytest.raises(ValueError, match=words):
            build_vocabulary(*arguments)


def test_published_vocabularies_are_read(tmp_path):
    write_json(tmp_path, "answers.json", ["Yes", "yes", "two", "net", "A"])
    assert read_vocabulary(tmp_path / "answers.json") == ["yes", "2", "net", "a"]
    for text in ("{}", "[1]", "[", "[]"):
        write_json(tmp_path, "answers.json", text)
        with pytest.raises(ValueError, match="answers.json"):
            read_vocabulary(tmp_path / "answers.json")


def test_ceiling_and_prior(official, processor):
    rows = load_split("vqa_v2", SPLIT, official)
    assert ceiling(vocabulary_best(encode(rows, processor.tokenizer, {"red": 0}), ["red"])) == 90
    assert ceiling(vocabulary_best(encode(rows, processor.tokenizer, {"cat": 0}), ["cat"])) == 0
    two = encode(rows.map(lambda row: {"answers": ["two"] * 10}), processor.tokenizer, {"2": 0})
    assert two["label_scores"][0] == [1]
    assert ceiling(vocabulary_best(two, ["2"])) == 0  # which the metric compares as it stands
    encoded = encode(rows, processor.tokenizer, {"red": 0, "cat": 1, "yes": 2})
    assert answer_frequencies(encoded, 3).tolist() == pytest.approx([0.9, 0, 1])
    assert prior_answers(rows, rows, 1) == [["yes"]] * 6
    other = rows.map(lambda row: {"question_type": "unseen"})
    assert prior_answers(rows, other, 5)[0] == ["yes", "red"]
    rare_first = encode(
        rows.map(lambda row: {"answers": row["answers"][::-1]}), processor.tokenizer, {"yes": 0, "red": 1}
    )
    assert ceiling(vocabulary_best(rare_first, ["yes", "red"])) == 100
    two_types = {
        "question_type": ["is it", "how many", "which"] * 2,
        "answers": [["yes"] * 10, ["2", "3", "2"] * 4, ["a", "the"]] * 2,
    }
    assert prior_answers(two_types, two_types, 2) == [["yes"], ["2", "3"], ["yes", "2"]] * 2


@given(st.lists(st.sampled_from(["yes", "no", "Red.", "red", "2", "two", "dog"]), min_size=10, max_size=10))
def test_soft_targets_are_the_official_scores(answers):
    vocabulary = ["yes", "no", "red", "2"]
    ids, scores = soft_targets(answers, {answer: i for i, answer in enumerate(vocabulary)})
    assert len(ids) == len(set(ids))
    for label, score in zip(ids, scores):
        raw = next(a for a in answers if normalize_answer(a) == vocabulary[label])
        assert score == question_score(raw, answers) > 0
    assert {vocabulary[i] for i in ids} == {normalize_answer(a) for a in answers} & set(vocabulary)


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
    with pytest.raises(DataError, match="000000000001.jpg"):
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
    found = {subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout for _ in range(2)}
    assert len(found) == 1
    assert tokenizer.tokenize("hat") == ["h", "##a", "##t"] and tokenizer.tokenize("zoo") == ["[UNK]"]


def test_tokenizer_knows_its_questions():
    tokenizer = train_tokenizer(["what color is the shape?"])
    ids = tokenizer("What COLOR is the shape?")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["[CLS]", "what", "color", "is", "the", "shape", "?", "[SEP]"]
    assert tokenizer.unk_token_id in tokenizer("日本")["input_ids"]


def test_missing_images_are_left_out_on_request(official, capsys):
    (official / SPLIT / f"COCO_{SPLIT}_{2:012d}.jpg").unlink()
    rows = load_split("vqa_v2", SPLIT, official, skip_missing_images=True)
    assert set(rows["image_id"]) == {f"{SPLIT}/1"} and (len(rows), split_size(rows)) == (3, 6)
    assert "1 images are missing" in capsys.readouterr().out
    (official / SPLIT / f"COCO_{SPLIT}_{1:012d}.jpg").unlink()  # the rows are in the cache by now
    with pytest.raises(DataError, match="2 images are missing"):
        load_split("vqa_v2", SPLIT, official, skip_missing_images=True)


def test_annotations_of_another_split_are_refused(tmp_path, official):
    other = write_vqa_v2(tmp_path / "other", images=3)
    replace(annotations_file(other), "300", "700")
    annotations_file(other).replace(annotations_file(official))
    with pytest.raises(DataError, match="3 annotations have no question, such as question_id 7000"):
        load_split("vqa_v2", SPLIT, official)


def test_few_and_foreign_answers(official):
    data = json.loads(annotations_file(official).read_text())
    data["annotations"][0]["answers"] = [{"answer": "café"}, {"answer": "café"}, {"answer": "日本"}]
    annotations_file(official).write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
    rows = load_split("vqa_v2", SPLIT, official)
    assert rows[0]["answers"] == ["café", "café", "日本"]
    assert question_score("café", rows[0]["answers"]) == pytest.approx((1 / 3 + 1 / 3 + 2 / 3) / 3)
    data["annotations"][1]["answers"] = []
    annotations_file(official).write_text(json.dumps(data))
    with pytest.raises(DataError, match="entry 1 of 'annotations'"):
        load_split("vqa_v2", SPLIT, official)


def test_parquet_in_the_shape_of_the_hubs_copies(official, tmp_path, processor):
    draw("blue").save(official / SPLIT / f"COCO_{SPLIT}_{2:012d}.jpg")
    rows = load_split("vqa_v2", SPLIT, official)
    table = {
        "question_type": rows["question_type"][:], "question": rows["question"][:], "answer_type": ["yes/no"] * 6,
        "answers": [[{"answer": a, "answer_confidence": "yes", "answer_id": 1} for a in group] for group in
                    rows["answers"]],
        "image_id": [1, 1, 1, 2, 2, 2], "question_id": rows["question_id"][:], "multiple_choice_answer": ["yes"] * 6,
        "provenance": rows["provenance"][:],
        "image": [{"bytes": Path(image["path"]).read_bytes(), "path": None} for image in
                  rows.cast_column("image", Image(decode=False))["image"]],
    }  # fmt: skip
    copy = Dataset.from_dict(table).cast_column("image", Image())
    folder, bare, single, lacking, twice, both = map(
        tmp_path.joinpath, ("copy", "bare", "single", "lacking", "twice", "both")
    )
    for place in (folder, bare, single, lacking, twice, both):
        place.mkdir()
    copy.to_parquet(folder / "train-00000-of-00001.parquet")
    again = load_split("hub", "train", folder)
    assert again.features == FEATURES and again[4]["image"].size == (48, 40)
    for column in ("question", "answers", "question_id", "question_type", "answer_type", "provenance"):
        assert again[column][:] == rows[column][:]
    assert again["image_id"][:] == [f"train/{i}" for i in (1, 1, 1, 2, 2, 2)]
    encoded = encode(again, processor.tokenizer, {"yes": 0})
    assert encoded[0]["image"]["bytes"] and VqaCollator(processor, 1)([encoded[0]])["pixel_values"].shape[0] == 1
    copy.select_columns(["image", "question", "answers"]).to_parquet(bare / "train-00000-of-00001.parquet")
    rows = load_split("hub", "train", bare)
    assert rows["question_id"][:] == [0, 1, 2, 3, 4, 5] and rows["answer_type"][0] == "yes/no"
    assert len(set(rows["image_id"])) == len({image.tobytes() for image in rows["image"]}) == 2
    one = copy.remove_columns(["answers", "answer_type"]).add_column("answer", ["Yes"] * 6)
    one.add_column("answer_type", ["other", None] * 3).to_parquet(single / "train-00000-of-00001.parquet")
    rows = load_split("hub", "train", single)
    assert rows["answers"][0] == ["yes"] * 10 and rows["answer_type"][:] == ["other", "yes/no"] * 3
    assert all(rows["normalized"]) and not any(again["normalized"])  # "Yes." is right of these, wrong of those
    numbers = copy.remove_columns(["answers", "answer_type"]).add_column("answer", [2] * 6)
    numbers.add_column("answer_type", ["number "] * 6).to_parquet(single / "train-00000-of-00001.parquet")
    rows = load_split("hub", "train", single)
    assert rows["answers"][0] == ["2"] * 10 and rows["answer_type"][0] == "number"
    copy.remove_columns("answers").add_column("answer", [" "] * 6).to_parquet(single / "train-00000-of-00001.parquet")
    with pytest.raises(DataError, match="all answers of a question are empty"):
        load_split("hub", "train", single)
    copy.remove_columns("answers").to_parquet(lacking / "train-00000-of-00001.parquet")
    copy.add_column("answer", ["no"] * 6).to_parquet(both / "train-00000-of-00001.parquet")
    assert load_split("hub", "train", both)["answers"][0] == ["yes"] * 7 + ["Red."] * 3
    concatenate_datasets([copy, copy]).to_parquet(twice / "train-00000-of-00001.parquet")
    for place, split, words in (
        (lacking, "train", "no column answers"), (bare, "val", "cannot be loaded"),
        (twice, "train", "6 question ids stand more than once"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=words):
            load_split("hub", split, place)


def test_minidev(shared):
    rows = load_split("vqa_v2", "minidev2014", shared / "data" / "vqa_v2_mini")
    assert len(rows) == 3_038 and len(set(rows["image_id"])) == 500
    kinds = list(rows["answer_type"])
    assert [kinds.count(kind) for kind in ("yes/no", "number", "other")] == [1_303, 350, 1_385]
    assert rows[0]["image"].size == (224, 224)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 700), st.integers(1, 800))
def test_a_part_of_a_split_is_spread_over_it(questions, most):
    rows = Dataset.from_dict({"question_id": list(range(questions))})
    kept = spread(rows, most)["question_id"][:]
    assert kept == sorted(set(kept)) and len(kept) == min(most, questions)
    gaps = [end - start for start, end in zip([-1, *kept], [*kept, questions])]
    assert max(gaps) <= 2 * questions / min(most, 100) + 2


def test_a_part_of_a_split_keeps_neighbours_together_and_all_is_all():
    rows = Dataset.from_dict({"question_id": list(range(1000))})
    assert spread(rows, 200)["question_id"][:6] == [0, 1, 10, 11, 20, 21]
    assert spread(rows, None) is rows

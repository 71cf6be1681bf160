"""Data sets in parquet, in the shape of the Hub's copies."""

from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, Image, concatenate_datasets
from toy_data import SPLIT, draw
from toy_data import encoded as picture_bytes

from vqafusion.data_prep import FEATURES, DataError, load_split, split_size
from vqafusion.data_prep.encode import VqaCollator, encode
from vqafusion.data_prep.streaming import on_disk, open_stream
from vqafusion.processing_vqafusion import load_image


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
    numbers = numbers.remove_columns("question_type").add_column("question_type", [0] * 6)
    numbers.add_column("answer_type", ["number "] * 6).to_parquet(single / "train-00000-of-00001.parquet")
    rows = load_split("hub", "train", single)
    assert rows["answers"][0] == ["2"] * 10 and rows["answer_type"][0] == "number" and rows["question_type"][0] == "0"
    nothing = Dataset.from_dict({"question": ["is it?"], "answer": ["no"], "image": [{"bytes": None, "path": ""}]})
    nothing.to_parquet(single / "train-00000-of-00001.parquet")
    with pytest.raises(DataError, match="1 images are missing: that of row 0; --skip_missing"):
        load_split("hub", "train", single)
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


def write(folder, **columns):
    """A split of three questions, of which some columns are others."""
    picture = picture_bytes(draw(), "PNG")
    table = {
        "image": [{"bytes": picture, "path": None}] * 3, "image_id": [1, 2, 3], "question": ["is it?"] * 3,
        "question_id": [7, 8, 9], "answer": ["no"] * 3,
    }  # fmt: skip
    Dataset.from_dict(table | columns).to_parquet(folder / "train-0.parquet")


@pytest.mark.parametrize(
    "columns,words",
    [
        ({"image_id": [1, None, 3]}, "question 8 has no 'image_id', but None"),
        ({"image_id": [1.0, float("nan"), 3.0]}, "question 8 has no 'image_id'"),
        ({"image_id": ["a", "b", ""]}, "question 9 has no 'image_id', but ''"),
        ({"question": ["is it?", None, "is it?"]}, "'question' of question 8 must be a text, not None"),
        ({"question": [" ", "is it?", "is it?"]}, "'question' of question 7 must be a text, not ' '"),
        ({"question_id": [7.5, 8.0, 9.0]}, "'question_id' must be a whole number, not 7.5"),
        ({"question": [["a", "b"]] * 3}, "'question' of question 7 must be a text, not ['a', 'b']"),
        ({"answer": ["no", '["a", "b"]', "no"]}, "an answer is a list that is written as a text"),
    ],
)
@pytest.mark.parametrize("streaming", [False, True])
def test_a_row_that_lacks_something_is_named(tmp_path, columns, words, streaming):
    write(tmp_path, **columns)
    with pytest.raises(DataError) as error:
        on_disk(open_stream(tmp_path, "train")) if streaming else load_split("hub", "train", tmp_path)
    assert words in str(error.value)


def test_missing_images_are_counted_or_passed_over(tmp_path, processor):
    here, gone = tmp_path / "a.png", tmp_path / "b.png"
    draw().save(here)
    write(tmp_path, image=[{"bytes": None, "path": str(here)}, {"bytes": None, "path": str(gone)}, None])
    with pytest.raises(DataError, match=r"2 images are missing: that of row 1 \(.*b.png\), that of row 2; --skip"):
        load_split("hub", "train", tmp_path)
    rows = load_split("hub", "train", tmp_path, skip_missing_images=True)
    assert rows["question_id"][:] == [7] and split_size(rows) == 3
    other = {"bytes": here.read_bytes(), "path": None}
    write(tmp_path, image=[None, other, other], image_id=[1, 2, 2])
    assert load_split("hub", "train", tmp_path, skip_missing_images=True)["image_id"][:] == ["train/2"] * 2
    cut = {"bytes": picture_bytes(draw(size=(400, 300)), "JPEG")[:900], "path": None}
    write(tmp_path, image=[cut] * 3)
    rows = encode(load_split("hub", "train", tmp_path), processor.tokenizer, {"no": 0})
    with pytest.raises(DataError, match="image train/2: .* cannot be read as an image"):
        VqaCollator(processor, 1)([rows[1]])


def test_one_id_for_several_pictures_is_none(tmp_path, capsys):
    pictures = [{"bytes": picture_bytes(draw(color), "PNG"), "path": None} for color in ("red", "red", "blue")]
    write(tmp_path, image=pictures, image_id=[1, 2, 1])
    rows = load_split("hub", "train", tmp_path)
    first, second, third = rows["image_id"]
    assert first == second != third and "told apart by their content" in capsys.readouterr().out
    write(tmp_path, image=pictures, image_id=[1, 2, 1])
    (tmp_path / "train-0.parquet").rename(tmp_path / "validation-0.parquet")
    assert load_split("hub", "validation", tmp_path)["image_id"][:] == [first, second, third]  # the same in all splits


def test_answers_in_the_shapes_that_copies_have(tmp_path):
    ten = ["yes"] * 9 + [""]  # one of whom said nothing
    for shape in (ten, [{"answer": each} for each in ten], {"answer": ten, "answer_id": list(range(10))}):
        write(tmp_path, answers=[shape] * 3)
        assert load_split("hub", "train", tmp_path)["answers"][0] == ten
    write(tmp_path, answer=["no", None, "no"])
    assert load_split("hub", "train", tmp_path)["answers"][:] == [["no"] * 10, [], ["no"] * 10]


def test_numbers_that_stand_for_names_become_these(tmp_path):
    write(tmp_path)
    rows = Dataset.from_parquet(str(tmp_path / "train-0.parquet")).remove_columns("answer")
    rows = rows.add_column("answer", [0, -1, 1]).cast_column("answer", ClassLabel(names=["no", "yes"]))
    rows.to_parquet(tmp_path / "train-0.parquet")
    for found in (load_split("hub", "train", tmp_path), on_disk(open_stream(tmp_path, "train"))):
        assert [answers[:1] for answers in found["answers"]] == [["no"], [], ["yes"]]  # of -1, as ClassLabel has none


@pytest.mark.parametrize("kind", ["bytes", "path"])
def test_pictures_may_be_bytes_or_paths_without_a_word_of_it(tmp_path, kind):
    draw().save(tmp_path / "a.png")
    picture = (tmp_path / "a.png").read_bytes() if kind == "bytes" else str(tmp_path / "a.png")
    columns = {"image": [picture] * 3, "question": ["is it?"] * 3, "answer": ["no"] * 3}
    Dataset.from_dict(columns).to_parquet(tmp_path / "train-0.parquet")
    for rows in (load_split("hub", "train", tmp_path), on_disk(open_stream(tmp_path, "train"))):
        assert rows[2]["question_id"] == 2 and len(set(rows["image_id"])) == 1
        assert load_image(rows.cast_column("image", Image(decode=False))[0]["image"]).size == (48, 40)


def test_what_holds_no_picture_is_named(tmp_path):
    for images in ([1, 2, 3], [["a", "b"]] * 3):
        columns = {"image": images, "question": ["is it?"] * 3, "answer": ["no"] * 3}
        Dataset.from_dict(columns).to_parquet(tmp_path / "train-0.parquet")
        with pytest.raises(DataError, match="column 'image' of .* does not hold a picture"):
            load_split("hub", "train", tmp_path)


def test_a_damaged_file_says_what_is_wrong_with_it(tmp_path):
    (tmp_path / "train-0.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match="Parquet"):
        load_split("hub", "train", tmp_path)

"""The official files: read as they are, and what is said of those that are not as they should be."""

import json
import shutil
import zipfile

import pytest
from toy_data import SPLIT, annotations_file, questions_file, replace, write_vqa_v2

from vqafusion.data_prep import FEATURES, DataError, load_split
from vqafusion.data_prep.vqa_v2 import _find, _read
from vqafusion.metrics.vqa_accuracy.vqa_accuracy import question_score


def test_official_layout(official):
    rows = load_split("vqa_v2", SPLIT, official)
    assert len(rows) == 6 and rows.features == FEATURES
    first = rows[0]
    assert first["question_id"] == 1000 and first["image_id"] == f"{SPLIT}/1" and first["question"] == "is it red 0?"
    assert first["answers"] == ["yes"] * 7 + ["Red."] * 3 and first["image"].size == (48, 41)
    assert (first["question_type"], first["answer_type"]) == ("is it", "yes/no")
    assert rows["provenance"][:] == ["first", "", ""] * 2 and not any(rows["normalized"])
    replace(questions_file(official), "is it red 0?", "is it blue?")
    replace(annotations_file(official), '"image_id": 1, ', "")  # which questions have as well
    rows = load_split("vqa_v2", SPLIT, official)
    assert len(rows) == 6 and rows[0]["question"] == "is it blue?"
    shutil.rmtree(official / SPLIT)
    assert load_split("vqa_v2", SPLIT, official, check_images=False)["question"][:] == rows["question"][:]


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


def link_to_nowhere(file):
    file.unlink()
    file.symlink_to("nowhere.jpg")


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
        (lambda d: link_to_nowhere(d / SPLIT / f"COCO_{SPLIT}_{2:012d}.jpg"), "1 images are missing"),
        (lambda d: (d / SPLIT).rename(d / "elsewhere"), "no image folder"),
        (lambda d: replace(annotations_file(d), '"Red."', "3"), "answers[7].answer"),
        (lambda d: replace(questions_file(d), "1001", str(2**63)), "entry 1 of 'questions'"),
        (lambda d: replace(questions_file(d), "is it red 0?", " "), "entry 0 of 'questions'"),
        (lambda d: replace(annotations_file(d), '"image_id": 1,', '"image_id": 7,'), "about image 1 in"),
        (lambda d: (d / "broken.zip").write_text("no zip") and questions_file(d).unlink(), "not a readable zip"),
    ],
)  # fmt: skip
def test_bad_files_are_named(official, harm, words):
    harm(official)
    with pytest.raises(DataError) as error:
        load_split("vqa_v2", SPLIT, official)
    assert words in str(error.value) and str(official) in str(error.value)


def test_any_damage_to_a_zip_is_named(official):
    archive = official / "questions.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.write(questions_file(official), questions_file(official).name)
    questions_file(official).unlink()
    whole = archive.read_bytes()
    named = 0  # what is left is damage to dates and the like
    for at in range(0, len(whole), 3):
        archive.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        try:
            if source := _find(official, questions_file(official).name):
                _read(source, "questions")
        except DataError as error:
            assert str(official) in str(error)
            named += 1
    assert named > len(whole) / 6


def test_annotations_of_another_split_are_refused(tmp_path, official):
    other = write_vqa_v2(tmp_path / "other", images=3)
    replace(annotations_file(other), "300", "700")
    annotations_file(other).replace(annotations_file(official))
    with pytest.raises(DataError, match="3 annotations have no question, such as question_id 7000"):
        load_split("vqa_v2", SPLIT, official)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_few_and_foreign_answers(official, encoding):
    data = json.loads(annotations_file(official).read_text())
    data["annotations"][0]["answers"] = [{"answer": "café"}, {"answer": "café"}, {"answer": "日本"}]
    annotations_file(official).write_text(json.dumps(data, ensure_ascii=False), encoding=encoding)
    rows = load_split("vqa_v2", SPLIT, official)
    assert rows[0]["answers"] == ["café", "café", "日本"]
    assert question_score("café", rows[0]["answers"]) == pytest.approx((1 / 3 + 1 / 3 + 2 / 3) / 3)
    data["annotations"][1]["answers"] = []
    annotations_file(official).write_text(json.dumps(data))
    with pytest.raises(DataError, match="entry 1 of 'annotations'"):
        load_split("vqa_v2", SPLIT, official)


def test_minidev(shared):
    rows = load_split("vqa_v2", "minidev2014", shared / "data" / "vqa_v2_mini")
    assert len(rows) == 3_038 and len(set(rows["image_id"])) == 500
    kinds = list(rows["answer_type"])
    assert [kinds.count(kind) for kind in ("yes/no", "number", "other")] == [1_303, 350, 1_385]
    assert rows[0]["image"].size == (224, 224)

"""easy-VQA: its splits."""

from vqafusion.data_prep import FEATURES, easy_vqa


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

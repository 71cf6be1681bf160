"""Your own questions, as JSON Lines or CSV."""

import json

import pytest
import torch
from commands import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toy_data import draw

from vqafusion.analysis.records import make_records
from vqafusion.data_prep import FEATURES, DataError, load_split, own_data
from vqafusion.data_prep.answers import build_vocabulary, own_answer_text, prior_answers, soft_targets
from vqafusion.data_prep.encode import encode
from vqafusion.loading import load_model
from vqafusion.metrics.vqa_accuracy.vqa_accuracy import question_score

OWN = [
    {"image": "a.png", "question": "is it red?", "answers": ["yes", "yes", "no"], "answer": "maybe"},
    {"image": "a.png", "question": "how many?", "answer": "two", "question_id": 7, "question_type": "how many"},
    {"image": "b.png", "question": "what colour?", "answer": "blue", "provenance": "hall", "answer_type": "colour"},
]


@pytest.fixture
def own(tmp_path):
    draw().save(tmp_path / "a.png")
    draw("blue").save(tmp_path / "b.png")
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, OWN)))
    (tmp_path / "dev.csv").write_text("image,question,answers\na.png,is it red?,yes|yes|no\nb.png,which colour?,blue\n")
    return tmp_path


def test_own_data(own):
    rows = load_split("own", "train.jsonl", own)
    assert rows.features == FEATURES and rows["question_id"][:] == [1, 7, 3]
    assert rows["answer_type"][:] == ["yes/no", "number", "colour"] and rows["question_type"][1] == "how many"
    assert rows["provenance"][:] == ["", "", "hall"]
    assert rows["answers"][0] == ["yes", "yes", "no"] * 4 and rows["answers"][2] == ["blue"] * 10
    assert all(rows["normalized"])
    assert rows[0]["image"].size == (48, 40) and rows[0]["image_id"] == rows[1]["image_id"] != rows[2]["image_id"]
    rows = load_split("own", "dev.csv", own)
    assert rows["question"][:] == ["is it red?", "which colour?"] and rows["answers"][0][:3] == ["yes", "yes", "no"]
    assert rows["answer_type"][:] == ["yes/no", "other"]
    assert all(question_score(answers[0], answers) == 1 for answers in rows["answers"])


def test_missing_images_are_left_out_on_request(own, capsys):
    (own / "b.png").unlink()
    with (own / "train.jsonl").open("a") as opened:
        opened.write('\n{"image": "c.png", "question": "q", "answer": "a"}')
    assert load_split("own", "train.jsonl", own, skip_missing_images=True)["image_id"][:] == ["a.png"] * 2
    assert "2 images are missing: b.png" in capsys.readouterr().out
    assert len(load_split("own", "train.jsonl", own, check_images=False)) == 4


def test_answers_of_six_people_or_more_are_not_repeated(tmp_path):
    draw().save(tmp_path / "a.png")
    rows = [{"image": "a.png", "question": "what is it?", "answers": list("abcdefgh")[:n]} for n in (5, 6)]
    (tmp_path / "few.jsonl").write_text("\n".join(map(json.dumps, rows)))
    five, six = load_split("own", "few.jsonl", tmp_path)["answers"]
    assert len(five) == 10 and len(six) == 6
    assert question_score("a", five) == pytest.approx(0.6)  # two of ten
    assert question_score("a", six) == pytest.approx(5 / 6 / 3)  # one of five, in all but one of the six


@pytest.mark.parametrize("answers,known", [(["Red"], "red"), (["two"] * 3, "2"), (["A dog."] * 10, "dog")])
def test_what_all_say_counts_in_full_however_it_is_written(own, answers, known):
    (own / "raw.jsonl").write_text(json.dumps({"image": "a.png", "question": "what?", "answers": answers}))
    (kept,) = load_split("own", "raw.jsonl", own)["answers"]
    assert len(kept) >= 10 and build_vocabulary([kept], 1) == [known] and question_score(known, kept) == 1


def test_answers_may_be_numbers_and_single_letters(own):
    given = [0, 2.5, [3.0, 3], "A", "+"]
    rows = [{"image": "a.png", "question": "what?", "answer": answer} for answer in given]
    (own / "odd.jsonl").write_text("\n".join(map(json.dumps, rows)))
    rows = load_split("own", "odd.jsonl", own)
    assert [answers[0] for answers in rows["answers"]] == ["0", "2.5", "3", "a", "+"]
    assert rows["answer_type"][:] == ["number"] * 3 + ["other"] * 2
    known = build_vocabulary(rows["answers"], 9)
    assert sorted(known) == ["+", "0", "2.5", "3", "a"]
    label2id = {answer: label for label, answer in enumerate(known)}
    for answers in rows["answers"]:
        assert soft_targets(answers, label2id) == ([label2id[answers[0]]], [1])
    assert all(ranked and "" not in ranked for ranked in prior_answers(rows, rows, 5))
    records = make_records(rows, [[{"answer": str(answer)}] for answer in ("0", "2.5", "3", "B", "a")])
    assert [record["exact"] for record in records] == [True, True, True, False, False]


def test_an_image_has_the_same_name_wherever_its_folder_lies(own):
    ids = []
    for place in ("here", "there/deep"):
        folder = own / place
        folder.mkdir(parents=True)
        (folder / "images").symlink_to(own)
        (folder / "x.jsonl").write_text('{"image": "images/./a.png", "question": "q", "answer": "a"}')
        ids.append(load_split("own", "x.jsonl", folder)["image_id"][0])
    assert ids == ["images/a.png"] * 2


@pytest.mark.parametrize("separator", [";", "\t"])
def test_tables_as_spreadsheets_write_them(own, separator):
    lines = ("image, question ,answers,answer_type,,", "a.png,5+0 or 4?,Yes|no,CLOSED ,,", ",,,,,")
    text = "\r\n".join(line.replace(",", separator) for line in lines).replace("+", ",")
    (own / "sheet.csv").write_bytes(text.encode("utf-8-sig"))
    (row,) = load_split("own", "sheet.csv", own).remove_columns("image")
    assert row["question"] == "5,0 or 4?" and row["answers"] == ["yes", "no"] * 5 and row["answer_type"] == "CLOSED"


def test_accents_are_equal_however_they_are_typed(own):
    texts = ["f\u00e9mur", "fe\u0301mur"]
    (own / "x.jsonl").write_text(json.dumps({"image": "a.png", "question": "q", "answers": texts}))
    (answers,) = load_split("own", "x.jsonl", own)["answers"]
    assert set(answers) == {texts[0]} and own_answer_text(texts[1]) == texts[0]


def test_question_ids_may_start_at_0(own):
    rows = [{"image": "a.png", "question": "is it red?", "answer": "yes", "question_id": i} for i in (0, 1, "")]
    (own / "zero.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert load_split("own", "zero.jsonl", own)["question_id"][:] == [0, 1, 3]


def test_blank_lines_pandas_ids_capital_endings_and_questions_only(own):
    (own / "X.CSV").write_text("\ufeffimage,question,answer\na.png,which?,yes|no\n")  # as Excel writes UTF-8
    assert load_split("own", "X.CSV", own)["answers"][0] == ["yes|no"] * 10  # not of a column "answers"
    (own / "X.CSV").write_text("question_id,image,question\n7.0,a.png,is it red?\n\n9.0,b.png,which colour?\n")
    rows = load_split("own", "X.CSV", own)
    assert rows["question_id"][:] == [7, 9] and rows["answers"][:] == [[], []] and rows["answer_type"][0] == ""
    (own / "x.jsonl").write_text('\n{"image": "a.png", "question": "q", "answers": "yes|no"}\n\n')
    assert load_split("own", "x.jsonl", own)["answers"][:] == [["yes|no"] * 10]  # which CSV alone writes for two
    (own / "x.csv").write_text("image,question,answers,answer\na.png,q,,no\n")
    assert load_split("own", "x.csv", own)["answers"][:] == [["no"] * 10]
    (own / "x.csv").write_text("image,question,answers\na.png,q,\n")
    assert load_split("own", "x.csv", own)["answers"][:] == [[]]


@pytest.mark.parametrize(
    "name,text,words",
    [
        ("x.jsonl", '{"image": "a.png"}', "line 1: 'question'"),
        ("x.jsonl", '{"image": "a.png", "question": "q", "answers": {}}', "line 1: an answer must be"),
        ("x.jsonl", '{"image": "a.png", "question": "q", "answers": [true]}', "line 1: an answer must be"),
        ("x.jsonl", '{"image": "a.png", "question": "q", "answer": "a"}\n{"image"', "line 2: not valid JSON"),
        ("x.jsonl", '{"image": "a.png", "question": "q", "answer": false}', "line 1: an answer must be"),
        ("x.jsonl", "[1]", "line 1: not a JSON object"),
        ("x.jsonl", '{"image": "a.png", "question": "q", "answer": "a", "question_id": "x"}', "whole number"),
        ("x.jsonl", '{"image": "a.png", "question": "q", "answer": "a", "question_id": 1}\n' * 2, "more than once"),
        ("x.jsonl", '{"image": "c.png", "question": "q", "answer": "a"}', "1 images are missing"),
        ("x.jsonl", "", "no question"),
        ("x.jsonl", '{"image": "a.png", "question": "q", "answer": "a", "question_id": Infinity}', "whole number"),
        ("x.jsonl", '{"image": "a.png", "question": "q", "answer": "a", "question_id": 0.5}', "whole number"),
        ("x.jsonl", '{"image": "a.png", "question": "q", "answer": "a", "question_id": 1e20}', "at most 63 bits"),
        (
            "x.jsonl",
            '{"image": "a.png", "question": "q", "answer": "a", "question_id": 9223372036854775808}',
            "at most 63 bits",
        ),
        ("x.csv", "image,question,answer,question_id\na.png,q,a,7.5\n", "must be a whole number, not '7.5'"),
        ("x.jsonl", '{"image": "a.png", "question": "q", "answer": "\\ud800"}', "line 1: 'utf-8'"),
        ("x.jsonl", '{"image": "a.png", "question": "\\ud800", "answer": "a"}', "line 1: 'utf-8'"),
        (
            "x.jsonl",
            '{"image": "a.png", "question": "q", "answer": "a"}\n{"image": "a.png", "question": "q"}',
            "line 2",
        ),
        ("x.csv", "image,answer\na.png,yes\n", "line 2: 'question' is missing or empty; the row has image, answer"),
        ("x.csv", 'image,question,answer\n\na.png,"two\nlines",a\na.png,,a\n', "line 5: 'question' is missing"),
        ("x.csv", "image;question\na.png;q;a\n", "line 2: more fields than the header"),
        ("x.csv", "image,question,answers\na.png,q,\"['cup', 'mug']\"\n", "separated by |, with no brackets"),
        ("x.jsonl", '{"image": "a.png", "question": "q", "answers": ["a", " "]}', "line 1: an answer is empty"),
        ("x.csv", "image,question,answer\na.png,what is this, really?,a\n", "line 2: more fields than the header"),
        ("x.csv", "image,question,answer,answer\na.png,q,a,b\n", "more than once: image, question, answer, answer"),
        (
            "x.csv",
            'image,question,answer\na.png,q,a\na.png,"q,a\na.png,q,a\n',
            "after line 2 cannot be read, see its quotes",
        ),
        ("x.csv", 'image,question,answer\na.png,"a "red" one?",a\n', "after line 1 cannot be read, see its quotes"),
        ("x.csv", b"image,question,answer\na.png,caf\xe9?,a\n", "line 2 is not UTF-8"),
        ("x.csv", "image,question,Answer\na.png,q,a\n", "line 2: column 'Answer' must be written 'answer'"),
        ("x.jsonl", '{"image": "' + "iVBORw0KGgo" * 99 + '", "question": "q", "answer": "a"}', "line 1: [Errno 36]"),
        (
            "x.jsonl",
            '{"image": "a.png", "question": "q", "answer": "a", "question_type": "\\ud800"}',
            "line 1: 'utf-8'",
        ),
        ("x.jsonl", '{"image": "a.png", "question": "q", "answers": [NaN]}', "line 1: an answer is nan"),
        ("x.txt", "", "files there: dev.csv, train.jsonl"),
    ],
)
def test_bad_own_data_is_named(own, name, text, words):
    (own / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError) as error:
        load_split("own", name, own)
    assert words in str(error.value) and str(own) in str(error.value)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60), st.integers(0, 300), st.sampled_from(["train.jsonl", "dev.csv"]))
def test_rubbish_in_own_data_is_read_or_named(own, junk, position, name):
    data = bytearray((own / name).read_bytes())
    data[position : position + len(junk)] = junk
    (own / f"broken.{name}").write_bytes(data)
    try:
        assert own_data.load(own, f"broken.{name}").features == FEATURES
    except DataError as error:
        assert str(own) in str(error)


def test_data_made_in_memory_is_found_again_too(own, processor):
    first, again = (encode(load_split("own", "dev.csv", own), processor.tokenizer, {"yes": 0}) for _ in range(2))
    assert first.cache_files == again.cache_files and first.cache_files


def test_the_training_loop_of_the_readme(own, saved, monkeypatch):
    monkeypatch.chdir(own)
    processor, model = load_model(saved)
    before = model.get_input_embeddings().weight
    for name, encoder in (("vision", model.vqafusion.vision_model), ("text", model.vqafusion.text_model)):
        for part in (encoder, processor.image_processor, processor.tokenizer):
            part.save_pretrained(own / name)
    code = (ROOT / "README.md").read_text().split("loop of your own")[1].split("```python\n")[1].split("```")[0]
    code = code.replace("openai/clip-vit-base-patch32", "vision").replace("distilbert/distilbert-base-uncased", "text")
    exec(code.replace("mydata", str(own)))
    _, learned = load_model(own / "runs" / "mine")
    assert "yes" in learned.config.label2id and next((own / "states").rglob("shard-*"))
    assert not torch.equal(learned.get_input_embeddings().weight, before)

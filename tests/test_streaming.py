"""Shards read as they are needed: every question, shared, shuffled, and on from where a run was."""

import io
import json
import tarfile
from itertools import islice

import datasets
import pytest
from commands import ROOT, TINY, run
from datasets import Dataset, Image
from safetensors.torch import load_file
from toy_data import draw

from vqafusion.arguments import DataArguments
from vqafusion.data_prep import DataError, load_split
from vqafusion.data_prep.streaming import QuestionStream, check_streaming, on_disk, open_stream
from vqafusion.trainer import VqaTrainingArguments

COLOURS = ("red", "blue", "green", "yellow")


def picture(number):
    file = io.BytesIO()
    draw(COLOURS[number % 4]).save(file, "PNG")
    return file.getvalue()


def sample(number):
    return {"question": f"what color is it {number}?", "answers": [COLOURS[number % 4]] * 10, "question_id": number}


def write_parquet(folder, shards=4, per_shard=6):
    folder.mkdir()
    for shard in range(shards):
        numbers = range(shard * per_shard, (shard + 1) * per_shard)
        columns = {name: [sample(n)[name] for n in numbers] for name in sample(0)}
        rows = Dataset.from_dict({**columns, "image": [{"bytes": picture(n), "path": None} for n in numbers]})
        for split in ("train", "validation"):
            file = folder / f"{split}-{shard:05d}-of-{shards:05d}.parquet"
            rows.cast_column("image", Image()).to_parquet(file)
    return folder


def write_webdataset(folder):
    folder.mkdir()
    for split in ("train", "validation"):
        for shard in range(4):
            with tarfile.open(folder / f"{split}-{shard:05d}.tar", "w") as archive:
                for number in range(shard * 6, shard * 6 + 6):
                    for name, data in (
                        ("png", picture(number)),
                        ("json", json.dumps(sample(number) | {"image": "COCO_1.jpg"}).encode()),
                    ):
                        entry = tarfile.TarInfo(f"{number:06d}.{name}")
                        entry.size = len(data)
                        archive.addfile(entry, io.BytesIO(data))
    return folder


# After each pass datasets waits five seconds for pyarrow's threads, so that they are gone when a program ends.
SOON = "datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN = 0.1"


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0.1)


@pytest.fixture(params=[write_parquet, write_webdataset])
def folder(request, tmp_path):
    return request.param(tmp_path / "shards")


def stream(folder, processor, **changes):
    label2id = {colour: number for number, colour in enumerate(COLOURS)}
    rows = open_stream(folder, "train")
    return QuestionStream(rows, processor.tokenizer, label2id, **{"max_length": 32, "seed": 0, **changes})


def questions(rows, number):
    return [row["question_id"] for row in islice(rows, number)]


def test_every_pass_holds_every_question_in_another_order(folder, processor):
    seen = questions(stream(folder, processor), 48)
    assert sorted(seen[:24]) == sorted(seen[24:]) == list(range(24))
    assert seen[:24] != seen[24:] and seen[:24] != sorted(seen[:24])
    assert questions(stream(folder, processor), 48) == seen
    assert questions(stream(folder, processor, seed=1), 24) != seen[:24]


def test_rows_are_those_of_the_whole_split(folder, processor):
    whole = {row["question_id"]: row for row in load_split("hub", "train", folder)}
    for row in islice(stream(folder, processor), 24):
        expected = whole[row["question_id"]]
        assert {name: row[name] for name in ("question", "answers", "answer_type")} == {
            name: expected[name] for name in ("question", "answers", "answer_type")
        }
        assert row["label_ids"] == [COLOURS.index(row["answers"][0])] and row["label_scores"] == [1.0]
        assert row["image"]["bytes"] == picture(row["question_id"])
    texts = on_disk(open_stream(folder, "train"), images=False)
    assert texts["question"][:] == [sample(n)["question"] for n in range(24)] and "image" not in texts.column_names


def test_questions_without_ids_are_numbered_through(tmp_path):
    folder = write_parquet(tmp_path / "shards", shards=1, per_shard=250)
    rows = Dataset.from_parquet(str(folder / "train-00000-of-00001.parquet")).remove_columns("question_id")
    rows.to_parquet(folder / "train-00000-of-00001.parquet")
    assert on_disk(open_stream(folder, "train"), images=False)["question_id"][:] == list(range(250))


def test_equal_pictures_have_equal_names_and_others_not(folder):
    names = {}
    for row in open_stream(folder, "train"):
        names.setdefault(row["question_id"] % 4, set()).add(row["image_id"])
    assert [len(each) for each in names.values()] == [1, 1, 1, 1] and len(set.union(*names.values())) == 4


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_the_questions(folder, processor, processes):
    shares = [
        questions(stream(folder, processor, process=p, num_processes=processes), 24 // processes)
        for p in range(processes)
    ]
    assert sorted(question for share in shares for question in share) == list(range(24))


def test_it_goes_on_after_those_it_has_seen(folder, processor):
    again = stream(folder, processor)
    again.skip = 31
    assert questions(again, 17) == questions(stream(folder, processor), 48)[31:]


def test_what_is_missing_is_said(tmp_path):
    folder = write_parquet(tmp_path / "shards", shards=1)
    rows = Dataset.from_parquet(str(folder / "train-00000-of-00001.parquet")).remove_columns("answers")
    (tmp_path / "lacking").mkdir()
    rows.to_parquet(tmp_path / "lacking" / "train-00000.parquet")
    for place, split, words in (
        (tmp_path / "lacking", "train", "no column answers"), (folder, "x", "cannot be loaded"),
        (tmp_path / "nowhere", "train", "cannot be loaded"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=words):
            open_stream(place, split)
    rows.add_column("answers", [None] * len(rows)).to_parquet(tmp_path / "lacking" / "train-00000.parquet")
    with pytest.raises(DataError, match="no column answers"):
        open_stream(tmp_path / "lacking", "train")
    rows.select([]).to_parquet(tmp_path / "lacking" / "train-00000.parquet")
    with pytest.raises(DataError, match="split 'train' of .*lacking is empty"):
        open_stream(tmp_path / "lacking", "train")


def test_a_process_without_questions_ends(tmp_path, processor):
    folder = write_parquet(tmp_path / "shards", shards=1, per_shard=1)
    with pytest.raises(DataError, match="fewer questions than processes"):
        questions(stream(folder, processor, process=1, num_processes=2), 1)


def test_answers_may_be_a_column_of_texts(tmp_path):
    folder = write_parquet(tmp_path / "shards", shards=1)
    rows = Dataset.from_parquet(str(folder / "train-00000-of-00001.parquet")).remove_columns("answers")
    (tmp_path / "single").mkdir()
    rows.add_column("answer", ["Red"] * len(rows)).to_parquet(tmp_path / "single" / "train-00000.parquet")
    assert next(iter(open_stream(tmp_path / "single", "train")))["answers"] == ["red"] * 10


@pytest.mark.parametrize(
    "name, value",
    [
        ("image_states_dir", "s"), ("max_train_samples", 5), ("answer_type_sampling", {"number": 0.5}),
        ("reference_provenance", ["x"]), ("questions_per_image", 2), ("num_teachers", 1),
        ("train_sampling_strategy", "group_by_length"), ("dataloader_num_workers", 2),
    ],
)  # fmt: skip
def test_what_a_stream_cannot_do_is_refused(tmp_path, name, value):
    data = DataArguments(dataset="hub", data_dir="d", train_split="t", eval_split="e")
    args = VqaTrainingArguments(str(tmp_path), max_steps=5, eval_strategy="steps", save_strategy="steps")
    check_streaming(data, args)
    setattr(data if hasattr(data, name) else args, name, value)
    with pytest.raises(ValueError, match=f"--{name} does not go with --streaming"):
        check_streaming(data, args)


def test_a_run_is_the_same_after_an_interruption(tmp_path):
    data = write_parquet(tmp_path / "shards")
    recipe = TINY | {"dataset": "hub", "data_dir": str(data), "train_split": "train", "eval_split": "validation",
                     "streaming": True, "questions_per_image": 1, "eval_strategy": "steps", "save_strategy": "steps",
                     "eval_steps": 5, "save_steps": 5, "save_total_limit": 9, "report_to": "none",
                     "gradient_accumulation_steps": 2}  # fmt: skip
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    script = f"import runpy, datasets\n{SOON}\nrunpy.run_path({str(ROOT / 'train.py')!r}, run_name='__main__')\n"
    (tmp_path / "train.py").write_text(script)

    caches = tmp_path / "cache"

    def train(name, steps, *more):
        done = run(tmp_path / "train.py", tmp_path / "recipe.json", "--output_dir", tmp_path / name,
                   "--max_steps", steps, "--lr_scheduler_type", "constant", *more,
                   HF_DATASETS_CACHE=str(caches))  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        return load_file(tmp_path / name / f"checkpoint-{steps}" / "model.safetensors")

    whole = train("whole", 10)
    train("cut", 5)
    resumed = train("cut", 10, "--resume_from_checkpoint", "True")
    assert all((whole[name] == resumed[name]).all() for name in whole)
    made = {folder.name for folder in caches.iterdir() if folder.is_dir()}
    assert made == {"generator", "vqafusion"}  # and no copy of all the shards
    refused = run("train.py", tmp_path / "recipe.json", "--output_dir", tmp_path / "x", "--max_steps", 5,
                  "--save_strategy", "epoch", "--eval_strategy", "epoch")  # fmt: skip
    assert refused.returncode == 2 and "--save_strategy steps" in refused.stderr

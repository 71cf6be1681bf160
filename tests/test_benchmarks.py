"""The benchmark scripts run, on toy sizes, and measure what they say."""

import json
import sys

import forks
from commands import ROOT
from toy_data import SPLIT, write_vqa_v2
from toy_model import QUESTIONS, RESNET, tiny_config
from transformers import CLIPImageProcessorPil, DistilBertModel, ResNetConfig, ResNetModel

from vqafusion.data_prep.encode import train_tokenizer

KINDS = ("yes/no", "number", "other")


def test_encoding(tmp_path):
    questions = [{"image_id": i, "question": f"what is {i}?", "question_id": i} for i in range(5)]
    (tmp_path / "questions.json").write_text(json.dumps({"questions": questions}))
    command = [sys.executable, "benchmarks/encoding.py", "--questions", tmp_path / "questions.json"]
    command += ["--sizes", "12", "--output", tmp_path / "encoding.json"]
    run = forks.run(command, ROOT, timeout=120)
    assert run.returncode == 0, run.stderr[-2000:]
    (result,) = json.loads((tmp_path / "encoding.json").read_text())
    assert result["questions"] == 12 and 0 < result["gib"] < 2 and 0 < result["allowed"] <= 100
    assert all(result[step] >= 0 for step in ("read", "vocabulary", "encode"))


def test_image_states(tmp_path):
    config = tiny_config()
    config.text_config.n_layers = 3  # the recipe freezes three
    ResNetModel(ResNetConfig(**RESNET)).save_pretrained(tmp_path / "vision")
    CLIPImageProcessorPil(size={"height": 32, "width": 32}, do_center_crop=False).save_pretrained(tmp_path / "vision")
    DistilBertModel(config.text_config).save_pretrained(tmp_path / "text")
    train_tokenizer(QUESTIONS).save_pretrained(tmp_path / "text")
    command = [sys.executable, "benchmarks/image_states.py", "--data_dir", write_vqa_v2(tmp_path / "data", images=40)]
    command += ["--split", SPLIT, "--vision_model", tmp_path / "vision", "--text_model", tmp_path / "text"]
    command += ["--rounds", "1", "--seconds", "0.1", "--steps", "1", "--batch_size", "8", "--output", tmp_path / "out"]
    run = forks.run(command, ROOT, timeout=120)
    assert run.returncode == 0, run.stderr[-2000:]
    result = json.loads((tmp_path / "out").read_text())
    assert result["storing_over_bare"] > 0 and result["pixels_over_states"] > 0
    assert result["bare"]["batch"] in (4, 8, 16, 32) and len(result["step_from_states_seconds"]) == 1


def test_questions_per_image(tmp_path):
    command = [sys.executable, "benchmarks/questions_per_image.py", "--rounds", "1", "--questions", "2"]
    run = forks.run([*command, "--output", tmp_path / "out"], ROOT, timeout=180)
    assert run.returncode == 0, run.stderr[-2000:]
    result = json.loads((tmp_path / "out").read_text())
    assert result["one_image_over_separate"] > 0 and len(result["questions_per_second"]["one_image"]) == 1


def measured(script, *arguments, output):
    command = [sys.executable, f"benchmarks/{script}", *arguments, "--output", output]
    run = forks.run(command, ROOT, timeout=280)
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads(output.read_text())


def test_kills(tmp_path):
    result = measured("kills.py", "--kills", 1, "--steps", 20, "--seed", 1, output=tmp_path / "out")
    assert len(result["killed_after_s"]) == 1 and result["files_compared"] > 3
    assert result["files_that_differ"] == result["files_left"] == []


def test_page_load(saved, tmp_path):
    sizes = ("--visitors", 2, "--questions", 2, "--malformed", 100, "--imports", 1)
    result = measured("page_load.py", saved, *sizes, output=tmp_path / "out")
    assert result["load"]["answered"] == result["load"]["requests"] == 4 and result["answers_after_that"] is True
    assert "500" not in result["malformed"] and sum(result["malformed"].values()) == 100


def test_metric(tmp_path):
    result = measured("metric.py", "--questions", 300, "--rounds", 1, output=tmp_path / "out")
    assert result["times_as_fast"]["median"] > 0 and set(result["scores"]["per_answer_type"]) == set(KINDS)
    assert 0 < result["scores"]["overall"] < 100


def test_inference_and_its_table(tmp_path):
    table = tmp_path / "README.md"
    table.write_text(
        "# Title\n\n| a | b |\n|---|---|\n| [inference](inference.py) | old |\n| [other](other.py) | kept |\n"
    )
    sizes = ("--layers", 1, "--rounds", 1, "--batches", 1, "--questions", 2, "--table", table)
    result = measured("inference.py", *sizes, output=tmp_path / "out")
    assert set(result["cases"]) == {"batch 1", "one image, 2 questions"}
    single = result["cases"]["batch 1"]
    assert set(single["questions_per_second"]) == {"packed", "plain", "vilt", "blip"}
    assert all(0 < rate["least"] <= rate["median"] <= rate["most"] for rate in single["questions_per_second"].values())
    assert single["times_as_fast_as"]["packed"]["blip"] > 0 and single["gflop_per_question"]["plain"] > 0.5
    lines = table.read_text().splitlines()
    assert lines[:4] == ["# Title", "", "| a | b |", "|---|---|"] and lines[-1] == "| [other](other.py) | kept |"
    assert [line.split(" | ")[1] for line in lines[4:-1]] == list(result["cases"])


def test_training(tmp_path):
    sizes = ("--layers", 1, "--rounds", 1, "--batch_size", 2)
    result = measured("training.py", *sizes, output=tmp_path / "out")
    assert set(result["questions_per_second"]) == {"states", "pixels", "vilt"}
    assert result["states_times_as_fast_as"]["vilt"] > 0

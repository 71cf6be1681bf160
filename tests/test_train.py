"""train.py as a user runs it: real processes, real files; and what it says of bad input."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from commands import ROOT, TINY, evaluate, in_process, refused, run
from datasets import Dataset
from PIL import Image
from safetensors.torch import load_file
from toy_data import SPLIT, draw
from toy_model import RESNET
from transformers import AutoTokenizer, CLIPImageProcessorPil, ConvNextImageProcessorPil, ViTImageProcessorPil

from vqafusion import train
from vqafusion.arguments import DataArguments, ModelArguments
from vqafusion.command_line import parse
from vqafusion.data_prep.image_features import pixel_values
from vqafusion.resuming import check_checkpoint
from vqafusion.trainer import VqaTrainingArguments

ONLY_PARTS = {  # masks most of a picture, by chance
    "model_type": "vit_mae", "image_size": 32, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 1,
    "num_attention_heads": 2, "intermediate_size": 32,
}  # fmt: skip


def test_train_writes_a_model_with_its_answers(trained):
    config = json.loads((trained / "model" / "config.json").read_text())
    assert len({(trained / "model" / name).stat().st_mode for name in ("config.json", "model.safetensors")}) == 1
    assert sorted(config["label2id"]) == ["red", "yes"]
    processing = json.loads((trained / "model" / "processor_config.json").read_text())["image_processor"]
    for name in ("image_mean", "image_std"):
        assert config[name] == pytest.approx(processing[name], abs=1e-5)
    tokenizer = json.loads((trained / "model" / "tokenizer.json").read_text())
    assert tokenizer["padding"] is None and tokenizer["truncation"] is None  # not those of its last use
    state = json.loads((trained / "model" / "trainer_state.json").read_text())
    assert state["global_step"] == 4  # the argument overrides the recipe
    assert 0 <= state["best_metric"] <= 100


def test_train_resumes(trained, tmp_path, capsys):
    model = shutil.copytree(trained / "model", tmp_path / "model")
    (checkpoint,) = model.glob("checkpoint-*")
    arguments = (trained / "recipe.yaml", "--output_dir", model, "--max_steps", 6)
    result = in_process(capsys, *arguments, script=train)
    refused(result, str(checkpoint), "--resume_from_checkpoint True")
    for way in ("True", "auto"):
        result = run("train.py", *arguments, "--resume_from_checkpoint", way)
        assert result.returncode == 0, result.stderr[-3000:]
        state = json.loads((model / "trainer_state.json").read_text())
        assert state["global_step"] == 6 and state["log_history"][-1]["step"] == 6
    (checkpoint,) = (model).glob("checkpoint-*")  # the best one; transformers deletes the last one then
    done = checkpoint.name.partition("-")[2]
    result = run("train.py", *arguments, "--max_steps", done, "--resume_from_checkpoint", "True")
    assert result.returncode == 0 and f"nothing was left to train: {checkpoint} is at step {done}" in result.stdout
    assert json.loads((model / "train_results.json").read_text())["train_loss"] > 0
    deeper = json.dumps({**TINY["vision_config"], "num_hidden_layers": 2})
    for name, value, said in (("num_answers", 1, "other answers"), ("intermediate_size", 8, "intermediate_size"),
                              ("vision_config", deeper, "another vision encoder")):  # fmt: skip
        result = in_process(capsys, *arguments, f"--{name}", value, "--resume_from_checkpoint", "auto", script=train)
        refused(result, str(checkpoint), said)
    result = in_process(capsys, *arguments, "--max_train_samples", 6, "--resume_from_checkpoint", "auto", script=train)
    refused(result, str(checkpoint), "other training questions")
    result = run("train.py", *arguments, "--learning_rate", 0.5, "--resume_from_checkpoint", "auto")
    said = result.stderr.strip().splitlines()[-1]
    assert result.returncode == 2 and "checkpoint-" in said and "rates of [0.001], not [0.5]: leave" in said
    result = in_process(
        capsys, trained / "recipe.yaml", "--output_dir", tmp_path, "--resume_from_checkpoint", "True", script=train
    )
    refused(result, "no checkpoint in")
    only_model = shutil.copytree(checkpoint, tmp_path / checkpoint.name)
    for name in ("trainer_state.json", "optimizer.pt", "model.safetensors"):
        whole = (only_model / name).read_bytes()
        (only_model / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ValueError, match=f"{name} is"):
            check_checkpoint(only_model)
        (only_model / name).write_bytes(whole)
    (only_model / "optimizer.pt").unlink()
    result = in_process(
        capsys, trained / "recipe.yaml", "--output_dir", tmp_path, "--resume_from_checkpoint", "True", script=train
    )
    refused(result, str(only_model), "lacks optimizer*, as --save_only_model leaves it")
    (only_model / "global_step1").mkdir()  # as DeepSpeed calls what it goes on with
    check_checkpoint(only_model)
    given = (trained / "recipe.yaml", "--output_dir", tmp_path, "--num_answers", 1)
    parsed = parse(list(map(str, given)), "", DataArguments, ModelArguments, VqaTrainingArguments)
    with pytest.raises(ValueError, match="is of a model with other answers"):
        train.train(*parsed, tmp_path, None, teachers=[model])


def test_a_second_run_is_refused_and_a_signal_saves(trained, tmp_path):
    arguments = ("train.py", trained / "recipe.yaml", "--output_dir", tmp_path / "model", "--max_steps", 100_000,
                 "--save_strategy", "steps", "--eval_strategy", "steps", "--save_steps", 20, "--eval_steps", 20,
                 "--save_total_limit", 3, "--dataloader_num_workers", 1,
                 "--dataloader_persistent_workers", 1)  # fmt: skip
    first = subprocess.Popen(
        [sys.executable, ROOT / arguments[0], *map(str, arguments[1:])],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"},
        start_new_session=True,
    )  # fmt: skip
    while not list((tmp_path / "model").glob("checkpoint-*")):
        assert first.poll() is None
        time.sleep(0.1)
    second = run(*arguments)
    refused(second, "another run is writing to", str(tmp_path / "model"))
    os.killpg(first.pid, signal.SIGTERM)  # its worker gets it as well, as from `timeout` and batch systems
    said = first.communicate(timeout=120)[0]
    assert first.returncode == 128 + 15 and "SIGTERM after step" in said and "--resume_from_checkpoint True" in said
    step = int(said.split("after step ")[1].split(",")[0])
    assert (tmp_path / "model" / f"checkpoint-{step}").is_dir()
    assert not [file for file in (tmp_path / "model").iterdir() if file.name.startswith(".")]


def test_two_processes_go_on_in_the_middle_of_an_epoch(trained, tmp_path):
    def train(name, *more):
        # 12 questions, 2 processes × batches of 1: 6 steps an epoch, and step 8 is in the middle of the second
        result = run(
            "train.py", trained / "recipe.yaml", "--output_dir", tmp_path / name, "--max_steps", 12,
            "--per_device_train_batch_size", 1, "--questions_per_image", 1, "--eval_strategy", "steps",
            "--save_strategy", "steps", "--eval_steps", 4, "--save_steps", 4, "--save_total_limit", 9,
            "--image_states_dir", tmp_path / "states", *more, processes=2,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr[-3000:]
        assert json.loads((tmp_path / name / "trainer_state.json").read_text())["epoch"] == 2  # 1 with one process
        assert f"model: {tmp_path / name}" in result.stdout
        return (tmp_path / name / "checkpoint-12" / "model.safetensors").read_bytes()

    whole = train("whole")
    (tmp_path / "cut").mkdir()
    shutil.copytree(tmp_path / "whole" / "checkpoint-8", tmp_path / "cut" / "checkpoint-8")
    assert train("cut", "--resume_from_checkpoint", "True") == whole


def test_stored_states_train_and_evaluate_as_pixels_do(trained, tmp_path):
    states = ("--image_states_dir", tmp_path / "states")
    result = run("train.py", trained / "recipe.yaml", "--output_dir", tmp_path / "model", "--max_steps", 4, *states,
                 "--eval_strategy", "no", "--load_best_model_at_end", "False")  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    assert load_file(tmp_path / "model" / "model.safetensors")["shown_answers.words"].any()  # though not evaluated
    (stored,) = (tmp_path / "states").iterdir()  # the splits are of the same images
    before = {file.name: file.stat().st_mtime_ns for file in stored.iterdir()}
    arguments = ("--model", trained / "model", "--dataset", "vqa_v2", "--data_dir", trained / "data", "--split", SPLIT)
    stored_scores, pixel_scores = (
        evaluate(tmp_path / "stored", *arguments, *states),
        evaluate(tmp_path / "pixels", *arguments),
    )
    for name in ("overall", "per_question_type", "intervals", "top_5", "failures", "vocabulary_ceiling"):
        assert stored_scores[name] == pixel_scores[name]
    assert {file.name: file.stat().st_mtime_ns for file in stored.iterdir()} == before
    assert list((tmp_path / "states").iterdir()) == [stored]  # the saved model finds what training stored
    result = run("train.py", trained / "recipe.yaml", "--output_dir", tmp_path / "blind", "--max_steps", 1, "--flip",
                 "True", *states)  # fmt: skip
    refused(result, "--image_states_dir")


def test_own_data_trains_and_evaluates_with_the_same_commands(trained, tmp_path):
    draw().save(tmp_path / "a.png")
    lines = [{"image": "a.png", "question": f"is it red {i}?", "answer": "red", "provenance": "ab"[i % 2]} for i in
             range(8)]  # fmt: skip
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "dev.csv").write_text("image,question,answer\na.png,is it red?,red\n")
    own = ("--dataset", "own", "--data_dir", tmp_path)
    result = run("train.py", trained / "recipe.yaml", *own, "--train_split", "train.jsonl", "--eval_split", "dev.csv",
                 "--output_dir", tmp_path / "model", "--max_steps", -1, "--num_train_epochs", 2,
                 "--reference_provenance", "b", "--num_teachers", 2, "--teacher_epochs", 1)  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    teachers = [load_file(tmp_path / "model" / "teachers" / n / "model.safetensors") for n in "01"]
    assert any(not teachers[0][name].equal(teachers[1][name]) for name in teachers[0])
    looked_for = "shown_answers.words"
    assert not any(teacher[looked_for].any() for teacher in teachers)
    assert load_file(tmp_path / "model" / "model.safetensors")[looked_for].any()
    states = [json.loads((folder / "trainer_state.json").read_text()) for folder in
              (tmp_path / "model" / "teachers" / "1", tmp_path / "model")]  # fmt: skip
    assert [state["epoch"] for state in states] == [1, 2]
    scores = evaluate(tmp_path / "out", "--model", tmp_path / "model", *own, "--split", "dev.csv")
    assert scores["overall"] == 100 and scores["per_answer_type"] == {"other": 100}
    assert "1 of 1 evaluation images are training images, too" in result.stdout
    (tmp_path / "said.json").write_text('[{"question_id": 1, "answer": "A Red."}]')
    said = evaluate(tmp_path / "said", "--predictions", tmp_path / "said.json", *own, "--split", "dev.csv")
    assert said["overall"] == said["exact_match"] == 100
    (tmp_path / "raw").mkdir()
    asked = {"image": [draw("red")], "question": ["is it red?"], "question_id": [1]}
    for answers, score in ((["Red"] * 3, 100), (["Red"] * 10, 0)):  # ten are compared as the official metric does
        Dataset.from_dict(asked | {"answers": [answers]}).to_parquet(tmp_path / "raw" / "test-0.parquet")
        hub = ("--dataset", "hub", "--data_dir", tmp_path / "raw", "--split", "test")
        said = evaluate(tmp_path / "said", "--predictions", tmp_path / "said.json", *hub)
        assert said["overall"] == score
    (tmp_path / "asked.csv").write_text("image,question\na.png,is it red?\n")
    asked = ("--model", tmp_path / "model", *own, "--split", "asked.csv", "--output_dir", tmp_path / "asked")
    result = run("eval.py", *asked)
    assert result.returncode == 0, result.stderr[-3000:]
    assert json.loads((tmp_path / "asked" / "predictions.json").read_text()) == [{"question_id": 1, "answer": "red"}]


@pytest.mark.parametrize("chosen, kept", [(True, 29.0), (False, None)])
def test_the_scores_in_the_folder_are_those_of_its_weights(chosen, kept):
    log = [{"step": 2, "eval_overall": 29.0, "eval_top_5": 50.0, "eval_number": 29.0}, {"step": 3, "loss": 1.0}]
    trainer = SimpleNamespace(
        state=SimpleNamespace(log_history=log, best_global_step=2, global_step=3),
        args=SimpleNamespace(load_best_model_at_end=chosen), eval_dataset={"answer_type": ["number"]},
    )  # fmt: skip
    scores = train.kept_scores(trainer)
    assert scores == ({"overall": kept, "per_answer_type": {"number": 29.0}, "top_5": 50.0} if chosen else None)


def test_a_text_encoder_without_its_tokenizer_is_refused(model, processor, tmp_path):
    model.vqafusion.text_model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="some/encoder knows no word"):
        train.check_tokenizer(AutoTokenizer.from_pretrained(tmp_path), ["is it red?"], "some/encoder")
    train.check_tokenizer(processor.tokenizer, ["is it red?"], "")


@pytest.mark.parametrize("kind", [CLIPImageProcessorPil, ViTImageProcessorPil, ConvNextImageProcessorPil])
@pytest.mark.parametrize("side", [64, 320, 400])
def test_images_of_another_size(kind, side, tmp_path):
    image_processor = kind()
    train.set_image_size(image_processor, side)
    image_processor.save_pretrained(tmp_path)
    pictures = [Image.new("RGB", size) for size in ((50, 70), (300, 200))]
    for kept in (image_processor, kind.from_pretrained(tmp_path)):
        assert pixel_values(pictures, kept).shape == (2, 3, side, side)


def test_a_size_that_is_not_made_is_refused():
    with pytest.raises(ValueError, match="--image_size: .* makes no images of 64 x 64 pixels"):
        train.set_image_size(ViTImageProcessorPil(do_resize=False), 64)
    for side in (0, -1, 4097):
        with pytest.raises(ValueError, match=f"--image_size must be between 1 and 4096, not {side}"):
            train.set_image_size(ViTImageProcessorPil(), side)


def test_a_new_model_gets_images_of_the_size_that_is_asked_for():
    resnet = {"model_type": "resnet", **RESNET}
    arguments = ModelArguments(
        vision_config=resnet, text_config=TINY["text_config"], hidden_size=32, num_attention_heads=2, image_size=96
    )
    rows = Dataset.from_list([{"question": "what is it?", "answers": ["cat"] * 10}] * 8)
    processor, model = train.build(DataArguments(dataset="vqa_v2", num_answers=1), arguments, rows)
    pixels = processor(images=Image.new("RGB", (50, 70)), return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 96, 96)
    assert model.vqafusion.encode_image(pixels).shape == (1, 12**2, 24)


def test_train_names_bad_input(trained, tmp_path, capsys):
    refused(in_process(capsys, tmp_path / "none.yaml", script=train), "there is no recipe", "none.yaml")
    (tmp_path / "recipe.yaml").write_text("dataset: easy_vqa\nlearning_speed: 3\n")
    result = in_process(capsys, tmp_path / "recipe.yaml", "--output_dir", tmp_path / "out", script=train)
    refused(result, "learning_speed")
    result = run("train.py", trained / "recipe.yaml", "--train_split", "x", "--output_dir", tmp_path / "out")
    refused(result, "split 'x'")
    result = in_process(
        capsys, trained / "recipe.yaml", "--reference_provenance", "x", "--output_dir", tmp_path / "out", script=train
    )
    refused(result, "provenance x; known: first")
    for name, value, said in (
        ("metric_for_best_model", "accuracy", "known are overall, top_5, loss, yes/no"),
        ("max_train_samples", "0", "--max_train_samples must be at least 1"),
        ("num_train_epochs", "-1 --max_steps 0", "--num_train_epochs must be above 0"),
        ("per_device_eval_batch_size", "0", "--per_device_eval_batch_size must be at least 1"),
        ("image_states_dir", "/proc/none", "/proc/none"),
        ("teacher_epochs", "0", "--teacher_epochs must be above 0"),
        ("text_config", "null", "give both --vision_config and --text_config, or neither"),
        ("max_shift", "-1", "--max_shift must be at least 0"),
        ("image_size", "64", "Input image size (64*64) doesn't match model (32*32)"),
        ("report_to", "wandb", "wandb"),
        ("lr_scheduler_kwargs", "x", "--lr_scheduler_kwargs must be a JSON object"),
        ("lr_scheduler_kwargs", '{"bogus":1}', "unexpected keyword argument 'bogus'"),
        ("num_train_epochs", "nan", "--num_train_epochs must be a finite number, not nan"),
        ("text_learning_rate", "-1", "--text_learning_rate must be at least 0, not -1"),
        ("deepspeed", "x", "deepspeed"),
        ("vision_config", '{"model_type":"clip_vision_model","hiden_size":32}', "it has no hiden_size"),
        ("learning_rat", "1", "no argument --learning_rat; did you mean --learning_rate?"),
        ("vision_config", json.dumps(ONLY_PARTS, separators=(",", ":")), "'vit_mae' sees other parts"),
    ):
        arguments = (trained / "recipe.yaml", f"--{name}", *value.split(), "--output_dir", tmp_path / "out")
        refused(in_process(capsys, *arguments, script=train), said)
    refused(in_process(capsys, trained / "recipe.yaml", script=train), "give --output_dir")
    own = ("--dataset", "vqa_v2", "--data_dir", trained / "data", "--train_split", SPLIT, "--eval_split", SPLIT)
    arguments = (*own, "--output_dir", tmp_path / "out", "--vision_model", "no/such/model")
    refused(in_process(capsys, *arguments, script=train), "--vision_model: there is no folder no/such/model here")
    (tmp_path / "recipe.yaml").write_text("dataset: easy_vqa\nhidden_size: 32.5\n")
    result = in_process(capsys, tmp_path / "recipe.yaml", "--output_dir", tmp_path / "out", script=train)
    assert result.returncode == 2 and len(result.stderr.splitlines()) == 2
    assert "--hidden-size: invalid int value: '32.5'" in result.stderr
    for written, words in (
        ("num_teachers: []", "invalid int value: '[]'"), ("learning_rate: {a: 1}", "invalid float value"),
        ("blind: [yes]", "Truthy value expected"), ("1: 2", "arguments that do not exist: 1"),
        ("seed:", "seed has no value"), ("num_answers: 1\noutput_dir: 2026-11-28\nlearning_rate: x", "learning-rate"),
        ("seed: 1\nseed: 2", "seed stands there twice"),
        ("base: 7", "base must be the name of another recipe, not 7"),
        ("{vision_config: {model_type: clip_vision_model, hidden_size: x}, text_config: {model_type: bert}}", "Field"),
        ("{vision_config: {model_type: clip_vision_model, patch_size: -1}, text_config: {model_type: bert}}", "-1"),
    ):  # fmt: skip
        (tmp_path / "recipe.yaml").write_text(written + "\n")
        arguments = (tmp_path / "recipe.yaml", "--dataset", "vqa_v2", "--data_dir", trained / "data")
        splits = ("--train_split", SPLIT, "--eval_split", SPLIT, "--output_dir", tmp_path / "out")
        result = in_process(capsys, *arguments, *splits, script=train)
        assert result.returncode == 2 and words in result.stderr.splitlines()[-1], result.stderr[-500:]
    assert not list((tmp_path / "out").iterdir())

"""infer.py as a user runs it, and what it says of bad input."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from commands import in_process, refused, run
from PIL import Image
from safetensors.torch import load_file, save_file
from toy_data import SPLIT, draw, encoded, huge_header

from vqafusion import VqaFusionForVisualQuestionAnswering
from vqafusion import eval as evaluation


def test_infer_answers_and_draws(trained, tmp_path):
    output = tmp_path / "new folder" / "result.png"
    arguments = ("--model", trained / "model", "--image", trained / "image.png", "--question", "is it red?")
    result = run("infer.py", *arguments, "--output", output, "--json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    answers = json.loads(result.stdout)["answers"]
    assert {a["answer"] for a in answers} == {"yes", "red"} and answers[0]["score"] >= answers[1]["score"]
    assert Image.open(output).width >= 480 and list(output.parent.iterdir()) == [output]
    assert Image.open(output).getpixel((200, 150)) == (240,) * 3  # on the left without the heat map
    plain = run("infer.py", *arguments, "--top_k", 1)
    best = answers[0]
    assert plain.stdout.splitlines() == [best["answer"], f"  {100 * best['score']:6.2f}%  {best['answer']}"]
    unsure = run("infer.py", *arguments, "--abstain_below", 1, "--output", output, "--json")
    first, *others = json.loads(unsure.stdout)["answers"]
    assert first == {"answer": "not sure", "score": pytest.approx(1 - answers[0]["score"]), "abstained": True}
    assert others == answers


def test_an_installed_command_ends_well_and_says_nothing_else(trained):
    command = Path(sys.executable).with_name("vqafusion-infer")
    arguments = ("--model", trained / "model", "--image", trained / "image.png", "--question", "is it red?")
    done = subprocess.run([command, *arguments], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0 and done.stderr == "" and done.stdout.startswith(("yes", "red"))


def test_an_empty_heat_map_is_said_to_be_empty(model, processor, tmp_path, capsys):
    torch.nn.init.zeros_(model.classifier[-1].weight)  # the answers are the bias, whatever is seen
    for part in (model, processor):
        part.save_pretrained(tmp_path / "model")
    draw().save(tmp_path / "image.png")
    where = ("--model", tmp_path / "model", "--image", tmp_path / "image.png", "--output", tmp_path / "result.png")
    result = in_process(capsys, *where, "--question", "is it red?")
    assert "result.png (empty: no place in the image speaks for this answer)" in result.stdout


def test_a_blind_model_answers_and_has_no_heat_map(trained, tmp_path, capsys):
    shutil.copytree(trained / "model", tmp_path / "blind")
    VqaFusionForVisualQuestionAnswering.from_pretrained(tmp_path / "blind", blind=True).save_pretrained(
        tmp_path / "blind"
    )
    arguments = ("--model", tmp_path / "blind", "--image", trained / "image.png", "--question", "is it red?")
    result = in_process(capsys, *arguments)
    assert result.returncode == 0 and result.stdout.splitlines()[0] in ("yes", "red")
    result = in_process(capsys, *arguments, "--output", tmp_path / "result.png")
    refused(result, "blind model", "no heat map")
    arguments_of_eval = ("--model", tmp_path / "blind", "--dataset", "vqa_v2", "--data_dir", trained / "data")
    more = ("--split", SPLIT, "--output_dir", tmp_path / "out", "--heat_map_questions", 2)
    refused(in_process(capsys, *arguments_of_eval, *more, script=evaluation), "is blind")
    result = in_process(capsys, *arguments, "--abstain_below", "nan")
    refused(result, "--abstain_below must be from 0 to 1")


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGBA", "P"])
def test_infer_answers_unusual_pictures(trained, tmp_path, capsys, mode):
    file = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    draw().convert(mode).save(file)
    output = tmp_path / "result.PNG"
    arguments = ("--model", trained / "model", "--image", file, "--question", "is it red?", "--output", output)
    result = in_process(capsys, *arguments)
    assert result.returncode == 0 and result.stdout.splitlines()[0] in ("yes", "red") and output.exists()


@pytest.mark.parametrize(
    "name,data",
    [
        ("absent.jpg", None),
        ("text.jpg", b"this is text"),
        ("cut.jpg", encoded(draw(size=(400, 300)), "JPEG")[:900]),
        ("huge.png", huge_header()),
        ("empty.png", b""),
    ],
)
def test_infer_names_bad_pictures(trained, tmp_path, capsys, name, data):
    if data is not None:
        (tmp_path / name).write_bytes(data)
    output = tmp_path / "result.png"
    arguments = ("--model", trained / "model", "--image", tmp_path / name, "--question", "is it?", "--output", output)
    refused(in_process(capsys, *arguments), name)
    assert not output.exists()


@pytest.mark.parametrize(
    "change,words",
    [
        ({"--question": ""}, "--question"),
        ({"--question": "word " * 10_000}, "--question is longer"),
        ({"--question": "caf\udce9?"}, "surrogates not allowed"),  # as a Latin-1 byte of the command line arrives
        ({"--top_k": 0}, "--top_k"),
        ({"--model": "/nowhere/model"}, "/nowhere/model"),
        ({"--output": "/proc/none/result.png"}, "/proc/none"),
        ({"--output": "result.unknown"}, "result.unknown"),
    ],
)
def test_infer_names_bad_arguments(trained, tmp_path, capsys, monkeypatch, change, words):
    monkeypatch.chdir(tmp_path)
    arguments = {"--model": trained / "model", "--image": trained / "image.png", "--question": "is it red?", **change}
    result = in_process(capsys, *[part for pair in arguments.items() for part in pair])
    refused(result, words)
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_was_half_copied_is_named(trained, tmp_path, capsys):
    ask = ("--image", trained / "image.png", "--question", "is it red?", "--model", tmp_path / "model")
    shutil.copytree(trained / "model", tmp_path / "model")
    whole = (tmp_path / "model" / "model.safetensors").read_bytes()
    (tmp_path / "model" / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    refused(in_process(capsys, *ask), f"the weights in {tmp_path / 'model'} cannot be loaded", "is the folder whole?")
    weights = load_file(trained / "model" / "model.safetensors")
    del weights["classifier.0.weight"], weights["shown_answers.usual"]
    save_file(weights, tmp_path / "model" / "model.safetensors", {"format": "pt"})
    refused(in_process(capsys, *ask), "lack 1 of the model, such as classifier.0.weight")
    weights = load_file(trained / "model" / "model.safetensors")
    for name, change, words in (
        ("classifier.0.bias", weights["classifier.0.bias"] * torch.nan, "scores are not finite"),
        ("another", torch.ones(1), "config.json knows nothing of 1 of its weights, such as another"),
    ):
        save_file(weights | {name: change}, tmp_path / "model" / "model.safetensors", {"format": "pt"})
        refused(in_process(capsys, *ask), words)
    for name in ("processor_config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "model" / name).write_text((trained / "model" / name).read_text()[:-20])
        refused(in_process(capsys, *ask), "cannot be loaded")
        shutil.copy(trained / "model" / name, tmp_path / "model" / name)
    (tmp_path / "model" / "tokenizer.json").unlink()
    refused(in_process(capsys, *ask), "tokenizer.json is missing", "copy the folder again")
    config = tmp_path / "model" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "dropout": "much"}))
    refused(in_process(capsys, *ask), "config.json", "cannot be loaded", "dropout")

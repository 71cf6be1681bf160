"""A model as ONNX: its files, its answers beside PyTorch's, infer.py and eval.py on its folder, and bad usage.

test_export.py runs this file in a process of its own.
"""

import importlib.util
import json
import shutil

import numpy as np
import pytest
import torch
from commands import run
from toy_data import SPLIT, draw, write_vqa_v2
from toy_model import COLORS, QUESTIONS, tiny_config

from vqafusion import VqaFusionForVisualQuestionAnswering, VqaFusionPipeline, app, export, load_model
from vqafusion import eval as evaluation

onnxruntime = pytest.importorskip("onnxruntime", reason="needs pip install 'vqafusion[onnx]'")


@pytest.fixture(scope="module")
def folders(processor, tmp_path_factory):
    """The same model for PyTorch, in both precisions, as ONNX, and as ONNX in 8 bits. To export takes long."""
    folder = tmp_path_factory.mktemp("exported")
    torch.manual_seed(0)
    model = VqaFusionForVisualQuestionAnswering(tiny_config(image_pool_size=2, alignment_weight=1, **COLORS)).eval()
    for looked_up in model.shown_answers.buffers():
        looked_up.normal_()
    for name, saved in (("half", model.half()), ("torch", model.float())):
        saved.save_pretrained(folder / name)
        processor.save_pretrained(folder / name)
        (folder / name / "training.json").write_text(json.dumps({"dataset": "vqa_v2", "eval_split": SPLIT}))
    export.main([str(folder / "half"), str(folder / "onnx")])
    result = run("export.py", folder / "torch", folder / "int8", "--format", "onnx", "--int8")
    assert result.returncode == 0, result.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def models(folders):
    return {name: load_model(str(folders / name)) for name in ("torch", "onnx", "int8")}


def inputs(processor, questions, images):
    features = processor(images=[draw(color) for color in images], text=questions)
    return {**features, "image_index": torch.arange(len(questions)) % len(images)}


# One image and one question besides, since an exporter takes a size of 1 for a constant.
@pytest.mark.parametrize("questions,images", [(1, 1), (3, 1), (3, 2), (2, 2)])
def test_logits_are_those_of_pytorch(models, questions, images):
    processor, model = models["torch"]
    features = inputs(processor, QUESTIONS[:questions], ["red", "blue"][:images])
    with torch.inference_mode():
        expected = model(**features).logits
    exact, rough = models["onnx"][1](**features).logits, models["int8"][1](**features).logits
    assert torch.allclose(exact, expected, atol=1e-5)
    assert not torch.equal(rough, exact)
    assert (rough - expected).abs().max() < 0.2 * expected.std()
    if questions == 1:  # no padding
        del features["attention_mask"]
        assert torch.allclose(models["onnx"][1](**features).logits, expected, atol=1e-5)


def test_both_files_are_in_8_bits_and_have_states_of_their_own(folders, models):
    for name in ("onnx", "int8"):
        for part in ("vision.onnx", "fusion.onnx"):
            assert (b"MatMulInteger" in (folders / name / part).read_bytes()) == (name == "int8")
    exact, rough = (models[name][1] for name in ("onnx", "int8"))
    assert not exact.vision_model.digest.equal(rough.vision_model.digest)
    assert type(rough.sessions["fusion.onnx"]).__name__ == "OnnxRuntimeSession"


def test_an_export_that_answers_otherwise_is_not_kept(folders, models, tmp_path, capsys, monkeypatch):
    processor, model = models["torch"]
    VqaFusionForVisualQuestionAnswering(model.config).save_pretrained(tmp_path / "other")
    processor.save_pretrained(tmp_path / "other")
    monkeypatch.setattr(export, "_write", lambda file, *_: shutil.copy(folders / "onnx" / file.name, file))
    with pytest.raises(SystemExit, match="2"):
        export.main([str(tmp_path / "other"), str(tmp_path / "new")])
    assert "it is not kept" in capsys.readouterr().err and list(tmp_path.iterdir()) == [tmp_path / "other"]


def test_unclear_which_image_is_asked_about(models):
    processor, model = models["onnx"]
    features = inputs(processor, QUESTIONS, ["red", "blue"])
    outside = [(torch.tensor(index), "from 0 to 1") for index in ([0, 1, 2], [0, -1, 0])]
    for index, message in ((None, "3 questions about 2 images"), *outside):
        with pytest.raises(ValueError, match=message):
            model(**features | {"image_index": index})


def test_states_of_an_image_serve_later_questions(models):
    processor, model = models["onnx"]
    features = inputs(processor, QUESTIONS, ["red"])
    expected = model(**features).logits
    states = model.encode_image(features.pop("pixel_values"))
    assert states.shape[1] == 5  # CLS and 2 x 2 places
    for number, question in enumerate(QUESTIONS):
        alone = model(**processor(text=[question]), image_states=states).logits
        assert torch.allclose(alone[0], expected[number], atol=1e-4)


def test_the_pipeline_answers_and_draws(models):
    found = {}
    for name in ("torch", "onnx"):
        processor, model = models[name]
        pipe = VqaFusionPipeline(model=model, processor=processor)
        found[name] = pipe(draw(), QUESTIONS[0], return_attention=True)
    assert [each["answer"] for each in found["onnx"]] == [each["answer"] for each in found["torch"]]
    assert np.allclose(found["onnx"][0]["attention"], found["torch"][0]["attention"], atol=0.02)
    assert found["onnx"][0]["overlay"].size == draw().size


def test_infer_and_eval_take_the_folder(folders, tmp_path, capsys):
    draw().save(tmp_path / "image.png")
    asked = ("--image", tmp_path / "image.png", "--question", QUESTIONS[0], "--json")
    answers = [json.loads(run("infer.py", "--model", folders / name, *asked).stdout) for name in ("torch", "onnx")]
    for one, other in zip(*(each["answers"] for each in answers)):
        assert one["answer"] == other["answer"] and abs(one["score"] - other["score"]) < 1e-4

    data = write_vqa_v2(tmp_path / "data", images=6)
    metrics = []
    for name in ("torch", "onnx"):
        output = tmp_path / f"run-{name}"
        command = ("--model", folders / name, "--dataset", "vqa_v2", "--data_dir", data, "--split", SPLIT)
        result = run("eval.py", *command, "--image_states_dir", tmp_path / "states", "--output_dir", output)
        assert result.returncode == 0, result.stderr[-3000:]
        metrics.append(json.loads((output / "metrics.json").read_text()))
    assert metrics[0]["overall"] == metrics[1]["overall"] and metrics[0]["top_5"] == metrics[1]["top_5"]
    assert metrics[0]["chosen_on_this_split"] is metrics[1]["chosen_on_this_split"] is True
    assert len(list((tmp_path / "states").iterdir())) == 2  # neither takes the other's stored states

    states, maps = str(tmp_path / "unused"), str(tmp_path / "maps")
    asked = (*map(str, command), "--heat_map_questions", "2", "--image_states_dir", states, "--output_dir", maps)
    with pytest.raises(SystemExit, match="2"):
        evaluation.main(asked)
    assert "was exported from" in capsys.readouterr().err
    assert not (tmp_path / "unused").exists()  # refused before anything is encoded


def test_bad_usage_is_one_line_and_leaves_nothing(folders, processor, tmp_path, capsys):
    VqaFusionForVisualQuestionAnswering(tiny_config(blind=True)).save_pretrained(tmp_path / "blind")
    processor.save_pretrained(tmp_path / "blind")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    there = set(tmp_path.iterdir())
    for model, output, reason in (
        (folders / "onnx", "new", "exported one already"),
        (tmp_path / "blind", "new", "blind"),
        (tmp_path / "nothing", "new", "nothing"),
        (folders / "torch", "full", "not an empty folder"),
    ):
        with pytest.raises(SystemExit, match="2"):
            export.main([str(model), str(tmp_path / output)])
        assert reason in capsys.readouterr().err.splitlines()[-1]
    assert set(tmp_path.iterdir()) == there


def test_a_damaged_file_is_named(folders, tmp_path):
    shutil.copytree(folders / "onnx", tmp_path / "onnx")
    (tmp_path / "onnx" / "fusion.onnx").write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match="fusion.onnx cannot be run"):
        load_model(str(tmp_path / "onnx"))
    (tmp_path / "onnx" / "export.json").write_text("[]")
    with pytest.raises(ValueError, match="export.json is not as"):
        load_model(str(tmp_path / "onnx"))


def test_the_page_answers_with_it_and_offers_one_map(folders):
    answerer = app.Answerer(app.load_pipeline(str(folders / "onnx"), False))
    seen = answerer.look(draw())
    assert answerer.answer(QUESTIONS[0], seen)[0]["score"] > 0
    assert answerer.maps == [app.ABLATION]
    assert answerer.overlay(QUESTIONS[0], seen, app.ABLATION, 0.5).size == draw().size


def test_without_openvino_onnx_runtime_answers(folders, models, monkeypatch):
    processor, model = models["onnx"]
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: name != "openvino" and find(name, *more) or None
    )
    _, other = load_model(str(folders / "onnx"))
    assert type(other.sessions["fusion.onnx"]) is not type(model.sessions["fusion.onnx"])
    features = inputs(processor, QUESTIONS, ["red"])
    assert torch.allclose(other(**features).logits, model(**features).logits, atol=1e-5)

"""Stored states: equal to pixels, never stale, whole after a kill, found again."""

import os
import pickle
import signal
import socket
import subprocess
import sys
import time

import forks
import numpy as np
import pytest
import torch
from commands import ROOT
from datasets import Dataset
from toy_data import SPLIT, draw, write_vqa_v2
from toy_model import RESNET, tiny_config
from transformers import ResNetConfig

from vqafusion import VqaFusionForVisualQuestionAnswering
from vqafusion.data_prep import DataError, load_split
from vqafusion.data_prep.encode import VqaCollator, encode
from vqafusion.data_prep.image_features import (
    _normalized_later,
    cache_image_states,
    normalization,
    pixel_values,
)


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr("vqafusion.data_prep.image_features.SHARD_IMAGES", 2)


@pytest.fixture
def rows(tmp_path):
    data = write_vqa_v2(tmp_path / "data", images=5)
    for number, color in enumerate(["red", "green", "yellow", "black", "blue"], 1):
        draw(color).save(data / SPLIT / f"COCO_{SPLIT}_{number:012d}.jpg")
    return load_split("vqa_v2", SPLIT, data)


def files(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def cache(rows, model, processor, folder):
    return cache_image_states(rows, model.vqafusion, processor.image_processor, folder, batch_size=2, num_threads=1)


def test_states_give_the_logits_of_pixels(rows, model, processor, tmp_path, small_shards, monkeypatch):
    monkeypatch.setattr("vqafusion.data_prep.image_features.OPEN_SHARDS", 1)
    states = cache(rows, model, processor, tmp_path / "cache")
    assert len(states) == 5 and states[rows[0]["image_id"]].shape == (17, 32)
    encoded = encode(rows, processor.tokenizer, {"yes": 0})
    batch = [encoded[i] for i in (13, 0, 4, 1)]
    pixels, stored = VqaCollator(processor, 6)(batch), VqaCollator(processor, 6, states)(batch)
    assert "pixel_values" not in stored and stored["image_states"].dtype == torch.float16
    assert torch.allclose(model(**pixels).logits, model(**stored).logits, atol=2e-3)
    assert not torch.allclose(pixels["pixel_values"][0], pixels["pixel_values"][1]) and len(states.shards) == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_an_encoder_in_half_precision_is_asked_in_it(rows, processor, tmp_path, dtype):
    grid = ResNetConfig(**RESNET)
    model = VqaFusionForVisualQuestionAnswering(tiny_config(vision_config=grid)).to(dtype).eval()
    states = cache(rows, model, processor, tmp_path / "cache")
    assert len(states) == 5 and np.isfinite(states[rows[0]["image_id"]]).all()


def test_states_that_sixteen_bits_do_not_hold_are_refused(rows, model, processor, tmp_path):
    with torch.no_grad():
        model.vqafusion.vision_model.embeddings.position_embedding.weight.fill_(1e6)
        model.vqafusion.vision_model.pre_layrnorm.weight.fill_(1e6)
    with pytest.raises(ValueError, match="65,504 of the 16 bits"):
        cache(rows, model, processor, tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("shard-*"))


class Brightened:
    """An image processor with settings of its own, which it follows whatever it is told."""

    def __init__(self, processor):
        self.processor = processor

    def __call__(self, images, return_tensors, **options):
        return {"pixel_values": self.processor(images=images, return_tensors=return_tensors)["pixel_values"] ** 2}


def test_bytes_are_normalized_where_the_processor_allows_it(processor):
    pictures = [draw("blue"), draw("red").resize((90, 40))]
    usual = processor.image_processor
    assert normalization(usual) == {name: pytest.approx(getattr(usual, name)) for name in ("image_mean", "image_std")}
    for image_processor, as_bytes in ((usual, True), (Brightened(usual), False)):
        options, normalize = _normalized_later(image_processor)
        pixels = pixel_values(pictures, image_processor, **options)
        assert (pixels.dtype == torch.uint8) == as_bytes
        assert torch.allclose(normalize(pixels), pixel_values(pictures, image_processor), rtol=0, atol=1e-5)


def test_what_is_there_is_not_computed_again(rows, model, processor, tmp_path, small_shards):
    cache(rows, model, processor, tmp_path / "cache")
    shards = sorted((tmp_path / "cache").rglob("shard-*.npy"))
    whole = files(tmp_path / "cache")
    assert [np.load(file).shape[0] for file in shards] == [2, 2, 1]
    shards[1].unlink()
    gone = subprocess.Popen(["true"])  # no process has its number when it has ended
    gone.wait()
    (shards[1].parent / f".shard-00001.writing.{socket.gethostname()}.{gone.pid}.npy").write_text(
        "left by a killed process"
    )
    encoded = []
    model.vqafusion.vision_model.register_forward_hook(lambda *call: encoded.append(len(call[1][0])))
    cache(rows, model, processor, tmp_path / "cache")
    assert encoded == [2] and files(tmp_path / "cache") == whole
    for left in (-10, 0):
        for file in [shards[0], *(tmp_path / "cache").rglob("*.json")]:  # as a copy that was interrupted leaves them
            file.write_bytes(file.read_bytes()[:left])
        cache(rows, model, processor, tmp_path / "cache")
    assert encoded == [2, 2, 2] and files(tmp_path / "cache") == whole


def test_of_other_images_only_those_are_computed_that_are_new(rows, model, processor, tmp_path, small_shards):
    encoded = []
    model.vqafusion.vision_model.register_forward_hook(lambda *call: encoded.append(len(call[1][0])))
    names = list(dict.fromkeys(rows["image_id"][:]))
    whole = cache(rows, model, processor, tmp_path / "whole")
    assert encoded == [2, 2, 1]
    encoded.clear()
    model.train()  # as in a loop of one's own
    for wanted, new in ((names[1:3], [2]), (names, [2, 1]), (names[::-1], []), (names[2:], [])):
        some = rows.select([i for i, name in enumerate(rows["image_id"][:]) if name in wanted])
        states = cache(some, model, processor, tmp_path / "cache")
        assert encoded == new and len(states) == len(wanted) and model.vqafusion.training
        assert all(np.allclose(states[name], whole[name], atol=1e-2) for name in wanted)
        encoded.clear()
    assert not any(np.allclose(whole[names[0]], whole[name], atol=1e-2) for name in names[1:])
    image = tmp_path / "data" / SPLIT / f"COCO_{SPLIT}_{1:012d}.jpg"
    draw("white").save(image)
    os.utime(image, (1, 1))
    assert not np.allclose(cache(rows, model, processor, tmp_path / "cache")[names[0]], whole[names[0]], atol=1e-2)
    assert encoded == [1]


def test_what_came_before_a_damaged_picture_is_not_computed_again_without_it(
    rows, model, processor, tmp_path, small_shards
):
    encoded = []
    model.vqafusion.vision_model.register_forward_hook(lambda *call: encoded.append(len(call[1][0])))
    names = list(dict.fromkeys(rows["image_id"][:]))
    (tmp_path / "data" / SPLIT / f"COCO_{SPLIT}_{4:012d}.jpg").write_bytes(b"damaged")
    with pytest.raises(DataError):
        cache(rows, model, processor, tmp_path / "cache")
    assert encoded == [2, 1]  # those of the two other shards
    encoded.clear()
    others = rows.select([i for i, name in enumerate(rows["image_id"][:]) if name != names[3]])
    assert len(cache(others, model, processor, tmp_path / "cache")) == 4
    assert encoded == [1]  # the third, whose shard was not whole


def test_other_weights_preprocessing_or_colors_are_another_cache(rows, model, processor, tmp_path):
    def folders():
        cache(rows, model, processor, tmp_path / "cache")
        return len(list((tmp_path / "cache").iterdir()))

    assert folders() == folders() == 1
    with torch.no_grad():
        model.vqafusion.vision_model.embeddings.class_embedding[0] += 1
    assert folders() == 2
    kept = processor.image_processor.image_mean
    processor.image_processor.image_mean = [0.1, 0.2, 0.3]
    try:
        assert folders() == 3
    finally:
        processor.image_processor.image_mean = kept
    model.config.update({"color_levels": 2, "image_mean": kept, "image_std": kept})
    assert folders() == 4
    model.config.image_pool_size = 2
    assert folders() == 5
    model.config.vision_config.layer_norm_eps = 1e-3
    assert folders() == 6


def test_pictures_within_the_data_are_told_apart_by_their_content(model, processor, tmp_path):
    states = []
    for names, colors in ((["1"], ["red"]), (["1", "2"], ["blue", "blue"]), (["3"], ["blue"])):
        rows = Dataset.from_dict({"image_id": names, "image": [draw(color) for color in colors]})
        found = cache(rows, model, processor, tmp_path / "cache")
        states += [found[name] for name in names]
    assert not np.allclose(states[0], states[1], atol=1e-2)
    assert (states[1] == states[2]).all() and (states[1] == states[3]).all()
    assert [len(np.load(file)) for file in (tmp_path / "cache").rglob("shard-*")] == [1, 1]


def test_a_model_that_was_saved_finds_its_states_again(rows, model, processor, saved, tmp_path):
    for each in (model, VqaFusionForVisualQuestionAnswering.from_pretrained(saved)):
        cache(rows, each, processor, tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_worker_that_is_started_anew_maps_the_states_itself(rows, model, processor, tmp_path):
    states, image_id = cache(rows, model, processor, tmp_path), rows[0]["image_id"]
    expected = states[image_id]
    sent = pickle.loads(pickle.dumps(states))
    assert states.shards and not sent.shards and (sent[image_id] == expected).all()


def test_a_data_folder_that_was_moved_is_known_again(rows, model, processor, tmp_path, capsys):
    cache(rows, model, processor, tmp_path / "cache")
    (tmp_path / "data").rename(tmp_path / "moved")
    for image in (tmp_path / "moved" / SPLIT).iterdir():
        os.utime(image, (1, 1))
    encoded = []
    model.vqafusion.vision_model.register_forward_hook(lambda *call: encoded.append(call))
    moved = load_split("vqa_v2", SPLIT, tmp_path / "moved")
    cache(moved, model, processor, tmp_path / "cache")
    (folder,) = (tmp_path / "cache").iterdir()
    assert not encoded and len(list(folder.glob("seen-*"))) == 2
    assert "Reading images" in capsys.readouterr().err
    cache(moved, model, processor, tmp_path / "cache")
    assert "Reading images" not in capsys.readouterr().err  # known by names and times now


def test_trained_encoders_and_broken_images_are_refused(rows, processor, tmp_path):
    with pytest.raises(ValueError, match="frozen|trained"):
        cache(rows, VqaFusionForVisualQuestionAnswering(tiny_config(freeze_vision=False)), processor, tmp_path)
    for number in (1, 3):
        (tmp_path / "data" / SPLIT / f"COCO_{SPLIT}_{number:012d}.jpg").write_text(f"not an image {number}")
    said = (
        "2 images cannot be read: .*000000000001.jpg .*; .*000000000003.jpg .*; remove such files, and --skip_missing"
    )
    with pytest.raises(DataError, match=said):
        cache(rows, VqaFusionForVisualQuestionAnswering(tiny_config()), processor, tmp_path / "cache")
    assert not [file for file in (tmp_path / "cache").rglob(".*") if file.is_file()]


WORKER = """
import sys, time, torch
sys.path.insert(0, sys.argv[1] + "/tests")
from toy_model import tiny_config
from vqafusion import VqaFusionModel, VqaFusionProcessor
from vqafusion.data_prep import image_features, load_split
image_features.SHARD_IMAGES = 2
torch.manual_seed(0)
model = VqaFusionModel(tiny_config())
model.vision_model.register_forward_hook(lambda *call: time.sleep(0.05))
processor = VqaFusionProcessor.from_pretrained(sys.argv[2])
rows = load_split("vqa_v2", "toy2014", sys.argv[3])
image_features.cache_image_states(rows, model, processor.image_processor, sys.argv[4], batch_size=2, num_threads=1)
sys.stdout.write(f"processes: {image_features.PartialState().num_processes}\\n")  # in one piece
"""


def test_a_kill_at_any_moment_changes_nothing(processor, tmp_path):
    data = write_vqa_v2(tmp_path / "data", images=24, per_image=1)
    processor.save_pretrained(tmp_path / "processor")
    (tmp_path / "worker.py").write_text(WORKER)
    command = [sys.executable, tmp_path / "worker.py", ROOT, tmp_path / "processor", data]
    assert forks.run([*command, tmp_path / "whole"], ROOT).returncode == 0
    worker = subprocess.Popen([*command, tmp_path / "killed"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(list((tmp_path / "killed").rglob("shard-*"))) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    done = {file: file.stat().st_mtime_ns for file in (tmp_path / "killed").rglob("shard-*")}
    assert 4 <= len(done) < 12
    assert forks.run([*command, tmp_path / "killed"], ROOT).returncode == 0
    assert all(file.stat().st_mtime_ns == before for file, before in done.items())
    assert files(tmp_path / "whole") == files(tmp_path / "killed")
    assert sum(len(np.load(file)) for file in (tmp_path / "killed").rglob("shard-*")) == 24


def test_two_processes_share_the_work(processor, tmp_path):
    data = write_vqa_v2(tmp_path / "data", images=7, per_image=1)
    processor.save_pretrained(tmp_path / "processor")
    (tmp_path / "worker.py").write_text(WORKER)
    for processes, name in ((1, "one"), (2, "two")):
        command = [sys.executable, tmp_path / "worker.py", ROOT, tmp_path / "processor", data, tmp_path / name]
        result = forks.run(command, ROOT, processes=processes)
        assert result.returncode == 0, result.stderr[-3000:]
        assert result.stdout.count(f"processes: {processes}") == processes
    assert files(tmp_path / "one") == files(tmp_path / "two") and len(files(tmp_path / "one")) == 6

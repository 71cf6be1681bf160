"""The tiny model, the drawn images, the page and the browser that the tests share."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, DistilBertConfig

from vqafusion import VqaFusionConfig, VqaFusionForVisualQuestionAnswering, VqaFusionProcessor
from vqafusion.data_prep.encode import train_tokenizer

ROOT = Path(__file__).resolve().parent.parent
HUB_FILES = [f"{part}_vqafusion.py" for part in ("configuration", "layers", "modeling", "processing", "pipeline")]
ANSWERS = ["yes", "no", "red", "blue", "circle", "2"]
COLORS = {"color_levels": 4, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}  # of a model's configuration
QUESTIONS = ["what color is the circle?", "is there a red shape in the image?", "how many shapes are there?"]

# `accelerate launch --cpu --num_processes 2` starts a single process, and says nothing.
TWO_PROCESSES = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="session")
def shared():
    """Real data and models beside the checkout; tests that need them skip where they are absent."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"needs the reference data in {folder}, which is not there")
    return folder


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Encoded data of the tests, and of the processes that they start, goes away with them."""
    import datasets

    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("datasets")
    os.environ["HF_DATASETS_CACHE"] = str(datasets.config.HF_DATASETS_CACHE)


def tiny_config(**changes):
    """Width 32, so that a forward pass takes milliseconds."""
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8
    )
    text = DistilBertConfig(vocab_size=200, dim=32, hidden_dim=64, n_layers=2, n_heads=2, max_position_embeddings=64)
    return VqaFusionConfig(
        **{
            "vision_config": vision,
            "text_config": text,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_attention_heads": 4,
            "id2label": dict(enumerate(ANSWERS)),
            "label2id": {answer: i for i, answer in enumerate(ANSWERS)},
            **changes,
        }
    )


def batch(questions=3, length=7, images=None, size=32):
    """Inputs of random questions, each about an image of its own unless `images` says how many there are."""
    torch.manual_seed(1)
    return {
        "input_ids": torch.randint(5, 200, (questions, length)),
        "attention_mask": torch.ones(questions, length, dtype=torch.long),
        "pixel_values": torch.randn(images or questions, 3, size, size),
    }


@pytest.fixture
def model():
    torch.manual_seed(0)
    return VqaFusionForVisualQuestionAnswering(tiny_config()).eval()


@pytest.fixture(scope="session")
def processor():
    image_processor = CLIPImageProcessorPil(size={"height": 32, "width": 32}, do_center_crop=False)
    return VqaFusionProcessor(image_processor, train_tokenizer(QUESTIONS))


def draw(color="red", size=(48, 40), mode="RGB"):
    """A picture with a square of the colour in its upper left quarter."""
    pixels = np.full((size[1], size[0], 3), 240, dtype=np.uint8)
    pixels[: size[1] // 2, : size[0] // 2] = np.array(Image.new("RGB", (1, 1), color))[0, 0]
    return Image.fromarray(pixels).convert(mode)


@pytest.fixture
def saved(model, processor, tmp_path):
    """Folder of a saved model."""
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@contextmanager
def serving(folder, *arguments):
    """Address of the page, in a process of its own, on the model in that folder."""
    port = free_port()
    command = [sys.executable, ROOT / "app.py", folder / "model", "--port", str(port), *arguments]
    (folder / "tmp").mkdir(exist_ok=True)
    settings = {**os.environ, "GRADIO_TEMP_DIR": str(folder / "uploads"), "TMPDIR": str(folder / "tmp")}
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, env=settings, stdout=log, stderr=subprocess.STDOUT)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            time.sleep(0.25)
            try:
                urllib.request.urlopen(address, timeout=5)
                break
            except urllib.error.HTTPError:
                break
            except OSError:
                assert process.poll() is None, (folder / "log.txt").read_text()
        yield address
    finally:
        process.terminate()
        process.wait(20)
    assert not list((folder / "tmp").glob("vqafusion-app-*"))


@pytest.fixture(scope="module")
def served(processor, tmp_path_factory):
    """The folder, with a report beside the model, and the address of the page."""
    folder = tmp_path_factory.mktemp("app")
    torch.manual_seed(0)
    VqaFusionForVisualQuestionAnswering(tiny_config()).save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    (folder / "report.html").write_text("<title>r</title><h1>The report</h1><script>document.body.id = 'ran'</script>")
    draw().save(folder / "image.png")
    (folder / "text.jpg").write_text("this is text")
    with serving(folder) as address:
        yield folder, address


@pytest.fixture(scope="module")
def browser():
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs Debian's chromium, which .ci/run installs")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])

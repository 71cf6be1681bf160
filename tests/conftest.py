"""What the tests share: toy models and data, made once; the page and the browser."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager

import pytest
import torch
from commands import ROOT, TINY, run
from toy_data import draw, write_vqa_v2
from toy_model import QUESTIONS, tiny_config
from toy_runs import make_runs
from transformers import CLIPImageProcessorPil

from vqafusion import VqaFusionForVisualQuestionAnswering, VqaFusionProcessor
from vqafusion.data_prep.encode import train_tokenizer


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


@pytest.fixture
def model():
    torch.manual_seed(0)
    return VqaFusionForVisualQuestionAnswering(tiny_config()).eval()


@pytest.fixture(scope="session")
def processor():
    image_processor = CLIPImageProcessorPil(size={"height": 32, "width": 32}, do_center_crop=False)
    return VqaFusionProcessor(image_processor, train_tokenizer(QUESTIONS))


@pytest.fixture
def official(tmp_path):
    return write_vqa_v2(tmp_path / "data")


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A model trained by train.py from a recipe, on the toy data set; what tests add to it, others see."""
    folder = tmp_path_factory.mktemp("trained")
    write_vqa_v2(folder / "data", images=4)
    (folder / "base.yaml").write_text(json.dumps({**TINY, "max_steps": 9}))
    (folder / "recipe.yaml").write_text(json.dumps({"base": "base.yaml", "data_dir": str(folder / "data")}))
    result = run("train.py", folder / "recipe.yaml", "--output_dir", folder / "model", "--max_steps", 4)
    assert result.returncode == 0, result.stderr[-3000:]
    draw().save(folder / "image.png")
    return folder


@pytest.fixture(scope="session")
def runs(processor, tmp_path_factory):
    """Folder of a model, its data, and eval.py's runs; tests add runs of other names."""
    folder = tmp_path_factory.mktemp("runs")
    make_runs(folder, processor)
    return folder


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

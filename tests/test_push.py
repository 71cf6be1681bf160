"""From a trained folder to answers on another machine, through a Hub on loopback and the real client."""

import json
import os
import re
import shutil
import sys

import forks
import pytest
import torch
from commands import HUB_FILES, ROOT, TINY
from hub_server import Fault, HubServer
from huggingface_hub import ModelCard
from huggingface_hub.errors import OfflineModeIsEnabled
from toy_data import draw, write_vqa_v2
from toy_model import tiny_config

from vqafusion import train
from vqafusion.loading import load_model
from vqafusion.sharing.model_card import model_card
from vqafusion.sharing.push import check_as_stranger, push_model
from vqafusion.sharing.retries import HubError
from vqafusion.trainer import VqaTrainingArguments

REPO, TOKEN = "alice/tiny", "hf_alice"
QUESTION = "what color is the circle?"
# The interpreter of somebody who has only transformers, torch, pillow and numpy; CI sets it. Else this one, in which
# the package is hidden: without site's .pth files the editable install is not found.
STRANGER = os.environ.get("STRANGER_PYTHON")
PACKAGES = [path for path in sys.path if path.endswith("site-packages")]
HIDE = "" if STRANGER else f"import sys; sys.path += {PACKAGES!r}\nsys.modules['vqafusion'] = None\n"
ASK = """
import json, sys
from transformers import AutoConfig, AutoModel, AutoModelForVisualQuestionAnswering, AutoProcessor, pipeline
repo, image, question, revision = sys.argv[1:]
known = {"trust_remote_code": True, "revision": revision}
processor = AutoProcessor.from_pretrained(repo, **known)
model = AutoModelForVisualQuestionAnswering.from_pretrained(repo, **known).eval()
logits = model(**processor(images=image, text=question)).logits
pipe = pipeline("visual-question-answering", model=repo, **known)
print(json.dumps({
    "answers": pipe(image=image, question=question),
    "probabilities": model.probabilities(logits)[0].tolist(),
    "types": [type(AutoModel.from_pretrained(repo, **known)).__name__, AutoConfig.from_pretrained(repo, **known).model_type],
}))
"""  # noqa: E501


@pytest.fixture
def hub():
    with HubServer({TOKEN: "alice", "hf_bob": "bob"}) as server:
        yield server


def run(command, hub, home, token=TOKEN, **environment):
    return forks.run(command, home, forks.usual_environment() | hub.environment(token, home) | environment)


def push(hub, home, *arguments, **more):
    return run([sys.executable, "-m", "vqafusion.sharing.push", *arguments], hub, home, **more)


def ask(hub, home, image, revision="main", **environment):
    command = [STRANGER, "-c"] if STRANGER else [sys.executable, "-S", "-c"]
    result = run([*command, HIDE + ASK, REPO, image, QUESTION, revision], hub, home, token="", **environment)
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout.splitlines()[-1])


def uploaded(hub):
    return sum(request.size for request in hub.requests if request.method == "PUT")


@pytest.fixture
def home(tmp_path):
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def test_train_push_load_by_name_pinned_and_offline(hub, home, tmp_path):
    write_vqa_v2(tmp_path / "data", images=4)
    recipe = {**TINY, "data_dir": str(tmp_path / "data"), "max_steps": 2, "output_dir": str(tmp_path / "model")}
    recipe |= {"push_to_hub": True, "hub_model_id": REPO, "hub_token": TOKEN}
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    result = run([sys.executable, ROOT / "train.py", tmp_path / "recipe.json"], hub, home, token="none")
    assert result.returncode == 0, result.stderr[-3000:]
    repo = hub.repos["model", REPO]
    expected = {"README.md", "model.safetensors", "config.json", "metrics.json", "training.json", *HUB_FILES}
    assert expected <= set(repo.files) and not [name for name in repo.files if name.endswith((".bin", ".pt", ".pth"))]
    kept = [file.read_bytes() for file in (tmp_path / "model").rglob("*") if file.is_file()]
    pushed = repo.files.values()
    assert not any(TOKEN.encode() in text for text in (result.stdout.encode(), result.stderr.encode(), *kept, *pushed))
    assert not any(str(tmp_path).encode() in text for text in pushed)

    draw().save(tmp_path / "image.png")
    processor, model = load_model(str(tmp_path / "model"))
    probabilities = model.probabilities(model(**processor(images=draw(), text=QUESTION)).logits)[0].tolist()
    ranked = sorted(range(len(probabilities)), key=probabilities.__getitem__, reverse=True)[:5]
    commit = repo.refs["main"]
    for revision, more in (("main", {}), (commit, {}), (commit, {"HF_HUB_OFFLINE": "1"})):
        found = ask(hub, home, tmp_path / "image.png", revision, **more)
        assert found["probabilities"] == pytest.approx(probabilities, abs=1e-5)
        assert [a["answer"] for a in found["answers"]] == [model.config.id2label[i] for i in ranked]
        assert [a["score"] for a in found["answers"]] == pytest.approx([probabilities[i] for i in ranked], abs=1e-5)
        assert found["types"] == ["VqaFusionModel", "vqafusion"]


def test_a_second_push_sends_nothing(hub, home, saved):
    first = push(hub, home, saved, REPO)
    assert first.returncode == 0, first.stderr
    assert hub.url in first.stdout
    commits, sent = len(hub.repos["model", REPO].commits), uploaded(hub)
    assert sent > 10_000
    assert push(hub, home, saved, REPO).returncode == 0
    assert (len(hub.repos["model", REPO].commits), uploaded(hub)) == (commits, sent)


def test_the_models_own_ways_to_the_hub_take_its_code_along(hub, home, saved, tmp_path):
    draw().save(tmp_path / "image.png")
    code = """if True:
        import sys
        from vqafusion.loading import load_model
        processor, model = load_model(sys.argv[1])
        model.save_pretrained(sys.argv[2], push_to_hub=True, repo_id=sys.argv[3], private=False)
        processor.push_to_hub(sys.argv[3])
    """
    done = run([sys.executable, "-c", code, saved, tmp_path / "again", REPO], hub, home)
    assert done.returncode == 0, done.stderr[-3000:]
    assert {"model.safetensors", *HUB_FILES} <= set(hub.repos["model", REPO].files)
    assert len(ask(hub, home, tmp_path / "image.png")["answers"]) == 5


def test_branches_pull_requests_and_private_repositories(hub, home):
    command = ("alice/model", "--space", REPO)
    assert push(hub, home, *command, "--private", "--revision", "trial").returncode == 0
    repo = hub.repos["space", REPO]
    assert repo.private and "app.py" in repo.at("trial").files and "app.py" not in repo.files
    proposed = push(hub, home, *command, "--create_pr")
    assert proposed.returncode == 0 and "/discussions/1" in proposed.stdout
    assert "app.py" in repo.at("refs/pr/1").files and "app.py" not in repo.files


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"run": "model"}, "--prior is of a run of model"),
        ({"questions": 8}, "--prior has questions 8"),
        ({"split": "t"}, "--prior has split t"),
        ({"dataset": "own"}, "--prior has dataset own"),
    ],
)
def test_baselines_that_are_none_are_refused(hub, home, saved, tmp_path, changed, message):
    scores = {"overall": 40.0, "per_answer_type": {"other": 40.0}, "questions": 9, "split": "s", "run": "model"}
    (tmp_path / "metrics.json").write_text(json.dumps(scores))
    (tmp_path / "prior.json").write_text(json.dumps({**scores, "run": "prior", **changed}))
    result = push(hub, home, saved, REPO, "--metrics", tmp_path / "metrics.json", "--prior", tmp_path / "prior.json")
    assert result.returncode == 2 and message in result.stderr and ("model", REPO) not in hub.repos


def test_a_card_says_what_is_known_and_what_is_not():
    vision = "openai/clip-vit-base-patch32"
    made = {"dataset": "vqa_v2", "train_split": "t", "eval_split": "e", "vision_model": vision, "text_model": "my/text"}
    scores = {"overall": 40.0, "per_answer_type": {"other": 30.0}, "top_5": 80.0, "questions": 9, "split": "s"}
    results = {"metrics": scores | {"questions_in_split": 90, "compared": {"prior": {**scores, "overall": 10.0}}}}
    blind = tiny_config(blind=True, answer_temperature=1.5)
    card = model_card(REPO, blind, made, results | {"prior": {**scores, "overall": 20.0}})
    for said in (
        "**This is a blind baseline", "calibrated by a temperature of 1.50", "Trained on `t`, chosen on `e`",
        "Only 9 of the split's 90 questions", "No blind baseline was given", "annotations CC BY 4.0",
        f"`{vision}` (licence: not stated", "`my/text` (licence: see where it comes from)",
        "| most frequent answer of the question type | 20.00 |",
    ):  # fmt: skip
        assert said in card, said
    found = {result.metric_name: result.metric_value for result in ModelCard(card).data.eval_results}
    assert found == {"overall": 40, "other": 30, "top-5": 80}
    card = model_card(REPO, tiny_config(), None, {})
    assert "not calibrated probabilities" in card and "blind" not in card and "None were given" in card
    bad = model_card(REPO, tiny_config(), None, {"metrics": scores | {"per_answer_type": {"a|<b>\n![c](d)": 1.0}}})
    assert r"| a/&lt;b&gt; !\[c\](d) |" in bad
    assert "No blind" not in model_card(REPO, tiny_config(), None, {"metrics": scores, "blind": scores})


def test_the_cards_lines_run_and_say_what_is_known(hub, home, saved, tmp_path):
    scores = {"overall": 40.0, "per_answer_type": {"other": 40.0}, "top_5": 80.0, "questions": 9, "split": "s"}
    (tmp_path / "blind.json").write_text(json.dumps({**scores, "overall": 30.0, "run": "blind"}))
    scores |= {"intervals": {"overall": [38, 42]}, "compared": {"prior": {**scores, "overall": 20.0}}}
    (tmp_path / "metrics.json").write_text(json.dumps(scores))
    results = ("--metrics", tmp_path / "metrics.json", "--blind", tmp_path / "blind.json")
    assert push(hub, home, saved, REPO, *results).returncode == 0
    card = hub.repos["model", REPO].files["README.md"].decode()
    assert "| this model | 40.00 | 38.00 – 42.00 |" in card and "| blind: the same without the image | 30.00 |" in card
    assert "| most frequent answer of the question type | 20.00 |" in card
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert len(code.splitlines()) == 5
    result = run([sys.executable, "-S", "-c", HIDE + code], hub, home, token="")
    assert result.returncode == 0, result.stderr[-2000:]
    assert len(result.stdout.splitlines()) == 5 and "%" in result.stdout


def test_a_model_whose_code_gives_other_answers_is_not_pushed(saved, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    processor, model = load_model(str(saved))
    draw().save(saved / "example.png")
    check_as_stranger(saved, processor, model)
    code = (saved / "modeling_vqafusion.py").read_text()
    (saved / "modeling_vqafusion.py").write_text(
        "import os\nassert 'HF_TOKEN' not in os.environ\n"
        + code.replace("return logits.sigmoid()", "return (2 * logits).sigmoid()")
    )
    with pytest.raises(ValueError, match="other answers"):
        check_as_stranger(saved, processor, model)
    (saved / "modeling_vqafusion.py").write_text("import vqafusion\n" + code)
    with pytest.raises(ValueError, match="does not load"):
        check_as_stranger(saved, processor, model)


def test_a_model_whose_answers_are_no_numbers_is_not_pushed(saved, monkeypatch):
    _, model = load_model(str(saved))
    torch.nn.init.constant_(model.classifier[-1].bias, float("nan"))
    model.save_pretrained(saved)
    monkeypatch.setattr("vqafusion.sharing.push.check_access", lambda *known: None)
    monkeypatch.setattr("vqafusion.sharing.push.upload", lambda *given, **more: pytest.fail("it was"))
    with pytest.raises(ValueError, match="scores are not finite"):
        push_model(saved, REPO)


def test_code_that_comes_with_a_model_is_not_run(saved, monkeypatch):
    assert [file.write_text("raise SystemExit('it was')\n") for file in saved.glob("*.py")]
    load_model(str(saved))
    settings = saved / "tokenizer_config.json"
    usual = settings.read_text()
    names = {"auto_map": {"AutoTokenizer": ["strange.Tokenizer", None]}, "tokenizer_class": "Tokenizer"}
    settings.write_text(json.dumps(json.loads(usual) | names))
    (saved / "strange.py").write_text("raise SystemExit('it was')\n")
    monkeypatch.setattr("builtins.input", lambda *said: "y")  # nobody is asked
    with pytest.raises(ValueError, match="contains custom code"):
        load_model(str(saved))
    settings.write_text(usual)
    (saved / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="is a 'bert' model, not a VQAFusion model"):
        load_model(str(saved))


def test_train_asks_the_hub_before_it_begins(tmp_path, monkeypatch):
    def whoami(self):
        raise OfflineModeIsEnabled("offline")

    monkeypatch.setattr("huggingface_hub.HfApi.whoami", whoami)
    args = VqaTrainingArguments(str(tmp_path), push_to_hub=True, hub_model_id=REPO)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE"):
        train.hub_destination(args)


REFUSALS = {
    "no permission": ({"token": "hf_bob"}, [], "your token may not write to alice/tiny"),
    "not paid for": ({}, [Fault("POST", "/commit/", 402, 9)], f"the Hub refuses {REPO} (402): "),
    "too many requests": ({}, [Fault("POST", "/commit/", 429, 9, retry_after=1)], "asks to wait"),
}


def refused(result, words):
    assert result.returncode == 2 and result.stdout == ""
    errors = [line for line in result.stderr.strip().splitlines() if "error: " in line]
    assert errors == result.stderr.strip().splitlines()[-1:] and words in errors[0]
    assert "Traceback" not in result.stderr and "hf_" not in result.stderr.replace("hf_hub", "")


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals_are_one_line_and_leave_nothing(hub, home, name):
    more, hub.faults[:], words = REFUSALS[name]
    refused(push(hub, home, "alice/model", "--space", REPO, **more), words)
    assert ("space", REPO) not in hub.repos or "app.py" not in hub.repos["space", REPO].files


UNKNOWN = {
    "offline": ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"),
    "token": ({"token": "hf_wrong"}, "hf auth login"),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_who_may_not_push_is_told_before_the_model_is_looked_at(hub, home, saved, name):
    (saved / "model.safetensors").write_bytes(b"what cannot be read")
    more, words = UNKNOWN[name]
    refused(push(hub, home, saved, REPO, **more), words)


PASSING = {
    "503 twice": [Fault("POST", "/commit/", 503, 2), Fault("POST", "repos/create", 503, 2)],
    "429": [Fault("POST", "/commit/", 429, 1, retry_after=1)],
    "cut commit": [Fault("POST", "/commit/", "cut", 1)],
}


@pytest.mark.parametrize("name", PASSING)
def test_passing_faults_are_outlasted(hub, home, name):
    hub.faults[:] = PASSING[name]
    result = push(hub, home, "alice/model", "--space", REPO)
    assert result.returncode == 0, result.stderr
    assert not hub.faults
    assert "app.py" in hub.repos["space", REPO].files and len(hub.repos["space", REPO].commits) == 2


def test_a_cut_upload_and_a_cut_download_are_repeated_and_a_full_disk_named(hub, home, saved, tmp_path):
    hub.faults.append(Fault("PUT", "/lfs/", "cut", 1))
    assert push(hub, home, saved, REPO).returncode == 0
    assert not hub.faults and "model.safetensors" in hub.repos["model", REPO].files
    draw().save(tmp_path / "image.png")
    command = [sys.executable, ROOT / "infer.py", "--model", REPO, "--image", tmp_path / "image.png"]
    command += ["--question", QUESTION]
    # No file may grow beyond 64 KiB, as on a disk that is full.
    limited = ["bash", "-c", 'ulimit -f 64; exec "$@"', "limited", *command]
    result = run(limited, hub, home, token="", PYTHONDONTWRITEBYTECODE="1")
    assert result.returncode == 2 and "no room for alice/tiny" in result.stderr.strip().splitlines()[-1], result.stderr
    assert not list(home.rglob("snapshots/*/model.safetensors"))
    hub.faults.append(Fault("GET", "/resolve/.*safetensors", "cut"))
    result = run(command, hub, home, token="")
    assert result.returncode == 0 and "%" in result.stdout, result.stderr
    result = run(command, hub, home, token="", HF_HUB_OFFLINE="1")
    assert result.returncode == 0, result.stderr
    command[command.index(REPO)] = "alice/other"
    for more, words in (
        ({}, "no alice/other on the Hub"),
        ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"),
    ):
        result = run(command, hub, home, token="", **more)
        assert result.returncode == 2 and words in result.stderr.strip().splitlines()[-1], result.stderr


def test_the_metric_loads_from_its_space(hub, home):
    result = push(hub, home, "--metric", "alice/my_vqa_accuracy")
    assert result.returncode == 0, result.stderr
    files = hub.repos["space", "alice/my_vqa_accuracy"].files
    assert b"alice/my_vqa_accuracy" in files["app.py"] and b"gradio" in files["requirements.txt"]
    assert b"user/vqa_accuracy" not in files["README.md"]
    code = (
        "import evaluate; m = evaluate.load('alice/my_vqa_accuracy');"
        "print(m.compute(predictions=['Cat.'], references=[['cat'] * 3 + ['dog'] * 7])['overall'])"
    )
    result = run([sys.executable, "-S", "-c", HIDE + code], hub, home, token="")
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.split()[-1] == "90.0"


def test_the_page_goes_to_a_space_that_names_its_model(hub, home):
    result = push(hub, home, REPO, "--space", "alice/page")
    assert result.returncode == 0, result.stderr
    files = hub.repos["space", "alice/page"].files
    assert all(files[name] == (ROOT / name).read_bytes() for name in ("app.py", "app.css", "app.js"))
    assert b"gradio" in files["requirements.txt"]
    assert json.loads(files["space.json"]) == {"model": REPO, "trust_remote_code": True}
    assert (
        files["README.md"].decode().startswith("---\ntitle: page\nsdk: gradio\n")
        and REPO in files["README.md"].decode()
    )


def test_a_folder_without_model_and_bad_usage(hub, home, saved, tmp_path):
    shutil.rmtree(saved)
    for arguments, words in (
        ((tmp_path, REPO), "no config.json"),
        ((tmp_path,), "give a folder and user/name"),
        ((), "give a folder and user/name"),
        (("user/name", "user/other", "--space", "user/page"), "give a folder and user/name"),
        ((tmp_path, REPO, "--metrics", tmp_path / "none.json"), "none.json"),
    ):
        result = push(hub, home, *arguments)
        assert result.returncode == 2 and words in result.stderr.strip().splitlines()[-1], result.stderr

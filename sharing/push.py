"""Push a trained model, its page, or the metric to the Hugging Face Hub.

vqafusion-push runs/demo/model user/name             a model, with its code, card and results
vqafusion-push --metric user/vqa_accuracy            the metric as a Space, for evaluate.load("user/vqa_accuracy")
vqafusion-push user/name --space user/page           the page on which people ask that model, as a Space
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from ..command_line import one_line_errors, read_json, write_json
from .retries import check_repo, patiently

TOLERANCE = 1e-5  # between probabilities; both sides compute the same operations in float32
PAGE = ("app.py", "app.css", "app.js")
SPACE_NEEDS = ("gradio>=6", "opencv-python-headless>=4.8", "pillow", "torch>=2.6", "transformers>=5.6,<6")
# Runs in a process that cannot import this package, as on the machine of somebody who has only transformers.
STRANGER = """
import json, sys
sys.path += json.loads(sys.argv[1])
sys.modules["vqafusion"] = None
from transformers import pipeline
ask = pipeline("visual-question-answering", model=sys.argv[2], trust_remote_code=True)
print(json.dumps(ask(sys.argv[3], json.loads(sys.argv[4]))))
"""


def arguments():
    parser = argparse.ArgumentParser(description="Push a model, its page or the metric.")
    parser.add_argument("model", nargs="?", help="folder that train.py made; with --space, a model's name on the Hub")
    parser.add_argument("repo", nargs="?", help="where to: user/name")
    parser.add_argument("--metric", metavar="USER/NAME", help="push the metric as a Space instead of a model")
    parser.add_argument("--space", metavar="USER/NAME", help="push the page that asks the model, as a Space")
    parser.add_argument("--metrics", metavar="FILE", help="metrics.json of eval.py for the card; default: the model's")
    parser.add_argument(
        "--blind", metavar="FILE", help="metrics.json of eval.py on the blind model, to stand beside it"
    )
    parser.add_argument("--prior", metavar="FILE", help="metrics.json of eval.py --baseline prior, likewise")
    parser.add_argument("--private", action="store_true", help="only you can see it")
    parser.add_argument("--revision", help="branch to push to; it is made if it is not there")
    parser.add_argument("--create_pr", action="store_true", help="propose the change instead of making it")
    return parser


@one_line_errors
def main(argv=None):
    args = arguments().parse_args(argv)
    if [bool(args.metric), bool(args.model), bool(args.repo) + bool(args.space)] not in ([1, 0, 0], [0, 1, 1]):
        raise ValueError("give a folder and user/name, or user/name and --space user/page, or --metric user/name")
    where = {"private": args.private, "revision": args.revision, "create_pr": args.create_pr}
    if args.metric:
        print(push_metric(args.metric, **where))
    elif args.space:
        print(push_space(args.model, args.space, **where))
    else:
        results = {name: _read_results(getattr(args, name)) for name in ("metrics", "blind", "prior")}
        print(push_model(args.model, args.repo, results, **where))


def push_model(folder, repo, results=None, token=None, **where):
    """
    Upload a model that answers without this package: weights, configuration, code, processor, results, model card.

    Args:
        folder: one that train.py made.
        repo (`str`): `user/name`.
        results (`dict`, *optional*): `metrics`, `blind` and `prior`, each what eval.py writes or None; without
            `metrics`, those of the folder.
        token (`str`, *optional*): the stored one by default.
        where: `private`, `revision` and `create_pr`, as for [`upload`].

    Returns:
        `str`: the address of the commit, or of the latest one if there was nothing to change.

    Raises:
        ValueError: a bad name; no model in the folder; baselines of another kind or of other questions; somebody who
            has only the upload would get other answers.
        HubError: the Hub refuses, or cannot be reached.
    """
    from transformers.utils import logging

    from ..loading import load_model
    from .model_card import draw_example, model_card

    check_repo(repo)
    if not (Path(folder) / "config.json").is_file():
        raise ValueError(f"{folder} holds no model: there is no config.json in it")
    training = _read_results(Path(folder) / "training.json", needed=False)
    results = dict(results or {})
    results["metrics"] = results.get("metrics") or _read_results(Path(folder) / "metrics.json", needed=False)
    _check_results(results)
    check_access(repo, token)
    logging.disable_progress_bar()
    processor, model = load_model(folder)
    with tempfile.TemporaryDirectory() as staged:
        staged = Path(staged)
        model.save_pretrained(staged)
        processor.save_pretrained(staged)
        draw_example().save(staged / "example.png")
        for name, content in (("training.json", training), ("metrics.json", results["metrics"])):
            if content:
                write_json(staged / name, content)
        _write(staged / "README.md", model_card(repo, model.config, training, results))
        check_as_stranger(staged, processor, model)
        return upload(staged, repo, token=token, **where)


def _check_results(results):
    """Raise `ValueError` for baselines of another kind than they are given for, or not of the model's questions."""
    metrics = results["metrics"]
    for kind in ("blind", "prior"):
        baseline = results.get(kind)
        if not baseline:
            continue
        if baseline.get("run") != kind:
            run = baseline.get("run", "another kind")
            raise ValueError(f"--{kind} is of a run of {run}; give metrics.json of eval.py on the {kind} baseline")
        for name in ("dataset", "split", "questions"):
            if metrics and baseline.get(name) != metrics.get(name):
                raise ValueError(
                    f"--{kind} has {name} {baseline.get(name)}, the model's metrics have {metrics.get(name)}: evaluate "
                    "both on the same questions"
                )


def push_metric(repo, token=None, **where):
    """Upload the metric as a Space, from which `evaluate.load(repo)` takes it; as [`push_model`]."""
    from ..metrics import VQA_ACCURACY

    check_repo(repo)
    source, name = Path(VQA_ACCURACY), repo.split("/")[1]
    with tempfile.TemporaryDirectory() as staged:
        # `evaluate.load("user/name")` asks for name.py, whatever the metric itself is called.
        (Path(staged) / f"{name}.py").write_bytes((source / "vqa_accuracy.py").read_bytes())
        for file in ("README.md", "requirements.txt", "app.py"):
            text = (source / file).read_text(encoding="utf-8")
            _write(Path(staged) / file, text.replace("user/vqa_accuracy", repo))
        return upload(Path(staged), repo, kind="space", token=token, **where)


def push_space(model, repo, token=None, **where):
    """
    Upload the page that asks `model` (`str`, its name on the Hub) as a Space; as [`push_model`]. There it runs the
    model's own code: to push it is to trust that.
    """
    from .model_card import space_card

    check_repo(model)
    check_repo(repo)
    root = Path(__file__).resolve().parent.parent
    with tempfile.TemporaryDirectory() as staged:
        staged = Path(staged)
        for name in PAGE:
            (staged / name).write_bytes((root / name).read_bytes())
        write_json(staged / "space.json", {"model": model, "trust_remote_code": True})
        _write(staged / "requirements.txt", "\n".join(SPACE_NEEDS) + "\n")
        _write(staged / "README.md", space_card(repo, model))
        return upload(staged, repo, kind="space", token=token, **where)


def check_access(repo, token=None):
    """Ask, before what takes long, whether the Hub can be reached and knows the token; [`HubError`] if not."""
    from huggingface_hub import HfApi

    check_repo(repo)
    patiently(repo, HfApi(token=token).whoami)


def check_as_stranger(folder, processor, model):
    """
    Load a folder in a process without this package, and compare its answers with the model's own.

    Raises:
        ValueError: they differ, or there are none.
    """
    from ..pipeline_vqafusion import VqaFusionPipeline
    from .model_card import EXAMPLE_QUESTION

    example, questions = str(folder / "example.png"), [EXAMPLE_QUESTION, "is there a cat?"]
    packages = json.dumps([path for path in sys.path if path.endswith(("site-packages", "dist-packages"))])
    expected = VqaFusionPipeline(model=model, processor=processor, device="cpu")(example, questions)
    with tempfile.TemporaryDirectory() as elsewhere:
        hidden = ("HF_TOKEN", "PYTHONPATH")
        environment = {name: value for name, value in os.environ.items() if name not in hidden}
        environment |= {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": elsewhere}
        command = [sys.executable, "-S", "-c", STRANGER, packages, str(folder.resolve()), example]
        run = subprocess.run(
            [*command, json.dumps(questions)], cwd=elsewhere, env=environment, capture_output=True, text=True
        )
    if run.returncode:
        raise ValueError(f"not pushed: the model does not load without this package: {run.stderr.strip()[-300:]}")
    for ours, theirs in zip(expected, json.loads(run.stdout.splitlines()[-1]), strict=True):
        if [a["answer"] for a in ours] != [a["answer"] for a in theirs] or not all(
            abs(a["score"] - b["score"]) <= TOLERANCE for a, b in zip(ours, theirs)
        ):
            raise ValueError("not pushed: without this package the model gives other answers")


def upload(folder, repo, kind="model", token=None, private=None, revision=None, create_pr=False):
    """
    One commit with every file of a folder. Files that are there already are not sent again, and without any change
    there is no commit; so an interrupted call can be repeated.

    Args:
        folder (`Path`); repo (`str`); kind: `model` or `space`; token: as for [`push_model`].
        private (`bool`): of a new repository.
        revision (`str`): branch, which is made if it is not there.
        create_pr (`bool`): propose the commit as a pull request.

    Returns:
        `str`: an address on the Hub.

    Raises:
        HubError: the Hub refuses, or cannot be reached.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    sdk = "gradio" if kind == "space" else None
    patiently(repo, api.create_repo, repo, repo_type=kind, private=private or None, exist_ok=True, space_sdk=sdk)
    if revision and not create_pr:
        patiently(repo, api.create_branch, repo, branch=revision, repo_type=kind, exist_ok=True)
    commit = patiently(
        repo, api.upload_folder, repo_id=repo, repo_type=kind, folder_path=folder, revision=revision,
        create_pr=create_pr, commit_message="Pushed by vqafusion-push",
    )  # fmt: skip
    return commit.pr_url or commit.commit_url


def _write(file, text):
    file.write_text(text, encoding="utf-8", newline="\n")  # on every machine the same


def _read_results(file, needed=True):
    if file is None or not (needed or Path(file).exists()):
        return None
    return read_json(file)


if __name__ == "__main__":
    main()

"""The model card: what a model is, how it was made, what it scores beside its baselines, and how to use it."""

from huggingface_hub import EvalResult, ModelCardData
from PIL import Image, ImageDraw

from ..analysis.summary import notes, plain_text
from ..metrics.vqa_accuracy.vqa_accuracy import TOP_K

EXAMPLE_QUESTION = "what color is the circle?"
# As their own pages and visualqa.org say. Others are named with the advice to look there.
LICENCES = {
    "distilbert/distilbert-base-uncased": "Apache-2.0",
    "openai/clip-vit-base-patch32": "not stated on its page; the code it comes from is MIT",
}
DATA = {
    "easy_vqa": ("easy-VQA", "MIT (https://github.com/vzhou842/easy-VQA)"),
    "vqa_v2": ("VQA v2", "annotations CC BY 4.0 (https://visualqa.org); COCO images under Flickr's terms"),
}

USE = """\
```python
from huggingface_hub import hf_hub_download
from transformers import pipeline
ask = pipeline("visual-question-answering", model="{repo}", trust_remote_code=True)
for answer in ask(image=hf_hub_download("{repo}", "example.png"), question="{question}", top_k=5):
    print(f"{{answer['score']:.1%}}  {{answer['answer']}}")
```"""


def draw_example():
    """A picture of our own to try a model on: a red circle, 64 x 64 pixels."""
    image = Image.new("RGB", (64, 64), "white")
    ImageDraw.Draw(image).ellipse((12, 12, 52, 52), fill="red")
    return image


def model_card(repo, config, training, results):
    """
    Args:
        repo (`str`): `user/name`.
        config: a [`VqaFusionConfig`].
        training (`dict` or None): what train.py wrote to `training.json`.
        results (`dict`): `metrics`, `blind` and `prior`, as eval.py writes them, or None each.

    Returns:
        `str`: the card, metadata first. The same arguments give the same card.
    """
    training, metrics = training or {}, results.get("metrics")
    encoders = {part: training.get(f"{part}_model") for part in ("vision", "text")}
    data_name, data_licence = DATA.get(training.get("dataset"), (training.get("dataset") or "not recorded", None))
    hub_names = [name for name in encoders.values() if name and "/" in name]
    metadata = ModelCardData(
        language="en", license="apache-2.0", library_name="transformers", pipeline_tag="visual-question-answering",
        tags=["vqafusion", "visual-question-answering"], base_model=hub_names or None, metrics=["vqa_accuracy"],
        model_name=repo.split("/")[1], eval_results=_eval_results(data_name, metrics) if metrics else None,
        widget=[{"text": EXAMPLE_QUESTION, "src": f"https://huggingface.co/{repo}/resolve/main/example.png"}],
    )  # fmt: skip
    answers, blind = f"{config.num_labels:,} answers", config.blind
    parts = [
        f"---\n{metadata.to_yaml()}\n---",
        f"# {repo.split('/')[1]}",
        f"Answers a question about a picture with one of {answers}, ranked"
        + (
            ". **This is a blind baseline: it never looks at the picture.** "
            if blind
            else ", and shows what it rests on. "
        )
        + f"A VQAFusion model: vision encoder {_named(encoders['vision'], config.vision_config)}, "
        f"text encoder {_named(encoders['text'], config.text_config)}, joined by {config.num_fusion_layers} layers of "
        "cross-attention in both directions.",
        "## Use",
        "With `pip install transformers torch pillow`; the model's code is in this repository, so "
        "`trust_remote_code=True` runs it: read it first, or name a `revision` that you have read.",
        USE.format(repo=repo, question=EXAMPLE_QUESTION),
        ""
        if blind
        else "With `return_attention=True` the first answer has `attention`, how much it rests on each place, "
        "an array in the picture's size, and `overlay`, the picture with that map (`pip install "
        "opencv-python-headless`).",
        "## Results",
        _results(results) if metrics else "None were given when this card was written.",
        "## Data and training",
        f"- Data: {data_name}"
        + (f", {data_licence}" if data_licence else "")
        + "".join(f"\n- {part.capitalize()} encoder: {_licensed(name)}" for part, name in encoders.items())
        + _trained(training),
        "## Limits",
        f"- It can only give the {answers} of its list, and always gives one, also to questions that the picture does "
        "not answer. " + _confidence(config) + "\n"
        "- It learned from its data's photos, questions and annotators, and repeats their biases: it may answer from "
        "the question alone. Not for decisions about people, nor for guiding people who cannot see.\n"
        "- English questions only.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _confidence(config):
    if config.answer_temperature == 1:
        return "Its scores are not calibrated probabilities."
    return f"Its scores are calibrated by a temperature of {config.answer_temperature:.2f}; see `abstain_below`."


def space_card(repo, model):
    """The card of the Space `repo` whose page asks `model`, both `user/name`; the Hub reads its first lines."""
    name = repo.split("/")[1]
    head = f"title: {name}\nsdk: gradio\napp_file: app.py\npinned: false\nlicense: apache-2.0\nmodels:\n- {model}"
    link = f"[{model}](https://huggingface.co/{model})"
    return f"---\n{head}\n---\n\n# {name}\n\nAsk pictures questions: a page for {link}, whose own code it runs.\n"


def _trained(training):
    if not training:
        return ""
    return (
        f"\n- Trained on `{training['train_split']}`, chosen on `{training['eval_split']}`; the arguments "
        "that are not the trainer's defaults, but for folders, are in `training.json`."
    )


def _named(name, config):
    return f"`{name}`" if name else f"{config.model_type}, trained from scratch"


def _licensed(name):
    if name is None:
        return "trained from scratch"
    return f"`{name}` (licence: {LICENCES.get(name, 'see where it comes from')})"


def _eval_results(data_name, metrics):
    where = {
        "task_type": "visual-question-answering", "dataset_type": metrics.get("dataset") or "vqa",
        "dataset_name": data_name, "dataset_split": metrics.get("split"), "metric_type": "vqa_accuracy",
    }  # fmt: skip
    values = {"overall": metrics["overall"], **metrics["per_answer_type"], f"top-{TOP_K}": metrics.get(f"top_{TOP_K}")}
    values = {name: value for name, value in values.items() if value is not None}
    return [EvalResult(metric_name=name, metric_value=round(value, 2), **where) for name, value in values.items()]


def _results(results):
    metrics = results["metrics"]
    types = list(metrics["per_answer_type"])
    baselines = {name: results.get(name) or metrics.get("compared", {}).get(name) for name in ("blind", "prior")}
    rows = {"this model": metrics, "blind: the same without the image": baselines["blind"]}
    rows["most frequent answer of the question type"] = baselines["prior"]
    lines = [
        f"| | overall | 95 % interval | {' | '.join(map(plain_text, types))} | top-{TOP_K} |",
        "|" + "---|" * (len(types) + 4),
    ]
    for name, row in rows.items():
        if row:
            interval = row.get("intervals", {}).get("overall")
            values = [*(row["per_answer_type"].get(kind) for kind in types), row.get(f"top_{TOP_K}")]
            cells = [f"{row['overall']:.2f}", "{:.2f} – {:.2f}".format(*interval) if interval else ""]
            cells += ["" if value is None else f"{value:.2f}" for value in values]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    said = [f"Official VQA accuracy in percent on `{metrics.get('split', 'an unnamed split')}`,"]
    said += [f"{metrics['questions']:,} questions.", *notes(metrics)]
    said += [] if baselines["blind"] else ["No blind baseline was given."]
    return " ".join(said) + "\n\n" + "\n".join(lines)

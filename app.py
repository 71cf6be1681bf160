"""A page where people ask pictures questions. A Hugging Face Space runs this same file.

vqafusion-app runs/demo/model
"""

import argparse
import atexit
import html
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path

STYLE, SCRIPT = (Path(__file__).with_name(f"app.{kind}") for kind in ("css", "js"))
ABLATION = "what the answer rests on"
MAX_UPLOAD = "10mb"
MAX_PIXELS = 25_000_000  # of a decoded picture; a photo of a telephone has 12 million
MAX_SHOWN = 1024  # pixels of a side of the picture with its heat map
VISITORS = 200  # whose pictures are kept in memory, 3 MB each at the most; the oldest go first
MAX_QUESTION = 200  # characters
MAX_KEPT = 600  # seconds that an upload, or a picture with its heat map, lies on the disk
MAX_SECONDS = 30  # of work for a question, looked at between its steps
WAITING = 100  # questions; whoever comes then is told to come back


class Answerer:
    """
    A model behind the page. What it knows of a picture is kept in the visitor's session only.

    Args:
        pipe: a [`VqaFusionPipeline`], of this package or of the model's own code.
        abstain_below (`float`): "not sure" below this probability.
    """

    def __init__(self, pipe, abstain_below=0.0):
        self.pipe, self.model, self.processor = pipe, pipe.model, pipe.processor
        self.abstain_below = abstain_below
        self.code = sys.modules[type(pipe).__module__]  # its functions, wherever the code came from
        layers = range(1, self.model.config.num_fusion_layers + 1) if hasattr(self.model, "attention_map") else []
        maps = [ABLATION, *(f"attention, layer {number}" for number in layers)]
        self.maps = [] if self.model.config.blind else maps

    def look(self, image):
        """What is kept of a picture while somebody asks about it: its states, and itself small enough to show."""
        import torch

        states = None
        if not self.model.config.blind:
            pixels = self.processor.image_processor(images=[image], return_tensors="pt")["pixel_values"]
            with torch.inference_mode():
                states = self.model.vqafusion.encode_image(pixels.to(self.model.device))
        shown = image.copy()
        shown.thumbnail((MAX_SHOWN, MAX_SHOWN))
        return {"image": shown, "states": states, "asked": []}

    def answer(self, question, seen, top_k=5):
        """`[{"score", "answer"}, …]`, best first, "not sure" before them where the best one is below the threshold."""
        import torch

        with torch.inference_mode():
            logits = self.model(**self._question(question), image_states=seen["states"]).logits
        outputs = {"logits": logits.cpu(), "images": [seen["image"]]}
        return self.pipe.postprocess(outputs, top_k, self.abstain_below)[0]

    def overlay(self, question, seen, name, strength):
        """The picture with the heat map of that name over it."""
        import torch

        features = {**self._question(question), "image_states": seen["states"]}
        if name == ABLATION:
            heat_map = self.code.ablation_map(self.model, **features)[0]
        else:
            with torch.inference_mode():
                output = self.model(**features, output_attentions=True)
            heat_map = self.model.attention_map(output, layer=self.maps.index(name) - 1)[0]
        width, height = seen["image"].size
        box = self.processor.visible_box(width, height)
        spread = self.code.spread_attention(heat_map.float().cpu().numpy(), width, height, box)
        return self.code.draw_overlay(seen["image"], spread, strength)

    def legend(self):
        """What the heat maps' colours mean, as HTML, by the code that draws them."""
        from PIL import Image

        scale = self.code.draw_overlay(Image.new("RGB", (6, 1)), [[step / 5 for step in range(6)]], strength=1)
        colours = ", ".join("#{:02x}{:02x}{:02x}".format(*scale.getpixel((step, 0))) for step in range(6))
        return f'<p id="legend">nothing <span style="background: linear-gradient(90deg, {colours})"></span> most</p>'

    def _question(self, question):
        length = self.code.max_question_length(self.model.config, self.processor.tokenizer)
        tokens = self.processor.tokenizer(question, return_tensors="pt", truncation=False)
        if tokens["input_ids"].shape[1] > length:
            raise fault(f"The question is longer than the {length} tokens that the model reads.")
        return {name: tokens[name].to(self.model.device) for name in ("input_ids", "attention_mask")}


def fault(text):
    """What a visitor is shown, without a traceback on the server."""
    import gradio

    return gradio.Error(text, print_exception=False)


def checked_question(question):
    """The question without spaces around it; what is wrong with it, in plain words."""
    question = (question or "").strip()
    if not question:
        raise fault("Type a question about the picture.")
    if len(question) > MAX_QUESTION:
        raise fault(f"The question is longer than {MAX_QUESTION} characters.")
    return question


def check_time(end):
    """After that moment: "too long"."""
    if time.monotonic() > end:
        raise fault("This took too long. Try a smaller picture, or come back later.")


def uploaded(sent):
    """
    The file of a picture that a visitor has sent (`gradio.data_classes.ImageData`). Gradio itself looks where a file
    lies only if the request calls it one of gradio's, and would open any other of this machine.
    """
    from gradio.utils import get_upload_folder

    if not sent:
        return None
    if not sent.path or not Path(sent.path).resolve().is_relative_to(Path(get_upload_folder()).resolve()):
        raise fault("Choose a picture first.")
    return sent.path


def opened_picture(file, load_image):
    """The picture in that file, in RGB and upright; what is wrong with it, in plain words."""
    from PIL import Image

    if not file:
        raise fault("Choose a picture first.")
    if not Path(file).exists():  # it was uploaded, not asked about, and deleted after a while
        raise fault("The picture is no longer here: choose it again.")
    try:
        with Image.open(file) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                raise Image.DecompressionBombError
        return load_image(Path(file))
    except Image.DecompressionBombError:
        raise fault("The picture has too many pixels; make it smaller.") from None
    except (OSError, ValueError, SyntaxError):  # UnidentifiedImageError is an OSError
        raise fault("This file is not a picture that can be read.") from None


def build(answerer, report=None):
    """
    The page.

    Args:
        answerer: an [`Answerer`].
        report (`Path`, *optional*): a report.html of eval.py, for the second tab.

    Returns:
        `gradio.Blocks`
    """
    import gradio

    def ask(image, question, name, strength, talked, seen):
        end = time.monotonic() + MAX_SECONDS
        question = checked_question(question)
        if not image or not seen or image != seen["file"]:  # gradio names a file by its content
            seen = {**answerer.look(opened_picture(image, answerer.code.load_image)), "file": image}
        if not talked:  # the browser has cleared it
            seen = {**seen, "asked": []}
        check_time(end)
        answers = answerer.answer(question, seen)
        check_time(end)
        seen = {**seen, "asked": [*seen["asked"], (question, f"{answers[0]['answer']}  ({answers[0]['score']:.0%})")]}
        talked = [
            {"role": role, "content": html.escape(text)}
            for pair in reversed(seen["asked"])
            for role, text in zip(("user", "assistant"), pair)
        ]
        drawn = redraw(name, strength, talked, seen)
        check_time(end)
        return bars(answers), drawn, talked, seen

    def answer(image, question):
        """For programs: a picture's file and a question to the five best answers."""
        question = checked_question(question)
        return answerer.answer(question, answerer.look(opened_picture(image, answerer.code.load_image)))

    def redraw(name, strength, talked, seen):
        if not talked or not seen or not answerer.maps:
            return None
        return answerer.overlay(seen["asked"][-1][0], seen, name, strength)

    # Not sooner, since visitors with the same picture share its file, and one may still be typing.
    with gradio.Blocks(title="VQAFusion: ask pictures questions", delete_cache=(60, MAX_KEPT)) as page:
        seen = gradio.State(None, time_to_live=3600)
        gradio.Markdown("# Ask pictures questions")
        with gradio.Tabs():
            with gradio.Tab("Ask"), gradio.Row():
                with gradio.Column():
                    field = gradio.Image(label="Picture", elem_id="picture", sources=["upload", "webcam", "clipboard"])
                    field.preprocess = uploaded  # `opened_picture` says what is wrong with it
                    question = gradio.Textbox(
                        label="Question", placeholder="What is in the picture?", max_length=MAX_QUESTION, max_lines=1
                    )
                    button = gradio.Button("Ask", variant="primary")
                    # Not gradio.Examples: it would make the image anew at a click, without the `preprocess` above.
                    chosen = gradio.Dataset(components=[field, question], samples=examples(), label="Examples")
                with gradio.Column():
                    best = gradio.HTML(bars([]))
                    gradio.HTML(_MEANING, visible=answerer.model.config.answer_loss == "bce")
                    picture = gradio.Image(
                        label="Heat map", elem_id="heat-map", format="png", interactive=False,
                        visible=bool(answerer.maps), buttons=["download", "fullscreen"],
                    )  # fmt: skip
                    gradio.HTML(answerer.legend() if answerer.maps else "")
                    with gradio.Row(visible=bool(answerer.maps)):
                        name = gradio.Dropdown(answerer.maps, value=next(iter(answerer.maps), None), label="It shows")
                        strength = gradio.Slider(0, 1, 0.5, step=0.05, label="Opacity of the heat map")
                    talk = gradio.Chatbot(
                        label="Asked about this picture", height=260, buttons=[], render_markdown=False,
                        autoscroll=False,  # the newest question comes first
                    )  # fmt: skip
            if report:
                with gradio.Tab("Evaluation") as tab:
                    frame = gradio.HTML()
                tab.select(lambda: _framed(report), None, frame, api_visibility="private")
        asked = gradio.on(
            [button.click, question.submit], ask, [field, question, name, strength, talk, seen],
            [best, picture, talk, seen], api_name="ask", api_visibility="undocumented",
        )  # fmt: skip
        unseen, answers = gradio.Button(visible=False), gradio.JSON(visible=False)
        unseen.click(answer, [field, question], answers, api_name="answer")
        chosen.click(lambda row: row, chosen, [field, question], api_visibility="private", show_progress="hidden")
        asked.success(None, question, None, js="answered")
        gradio.on(
            [name.input, strength.change], redraw, [name, strength, talk, seen], picture, api_visibility="private",
            show_progress="hidden", trigger_mode="always_last",
        )  # fmt: skip
        # By the browser: on a slow line, the server's word could come after the first answer about the new picture.
        nothing = f"() => [{json.dumps(bars([]))}, null, []]"
        gradio.on([field.change, talk.clear], None, None, [best, picture, talk], js=nothing)
        page.load(None, question, question, js="linked")  # by the browser, too, so that nothing typed is lost
    page.queue(max_size=WAITING, default_concurrency_limit=1, api_open=False)  # no way past it
    # Gradio tells all who wait their place; one who has left meanwhile made it answer the next visitor with 500.
    page._queue.pending_messages_per_session = _sessions(page._queue.pending_messages_per_session)
    return page


def _sessions(kept):
    """The same mapping, in which messages to a session that is gone go nowhere."""
    from asyncio import Queue

    class Sessions(type(kept)):
        def __missing__(self, session):
            return Queue()

    return Sessions(kept.max_size)


def bars(answers):
    """The best answer large, and all of them with a bar as long as their probability, as HTML."""
    if not answers:
        return '<p id="best" aria-live="polite">…</p>'
    lines = "".join(
        f'<li style="--share: {100 * each["score"]:.1f}% 100%"><span>{html.escape(each["answer"])}</span>'
        f"<span>{each['score']:.1%}</span></li>"
        for each in answers
    )
    return f'<p id="best" aria-live="polite">{html.escape(answers[0]["answer"])}</p><ol id="ranked">{lines}</ol>'


# Gradio's own colours of these have too little contrast to read.
_DARKER = {
    f"button_primary_{part}{mode}": value
    for mode in ("", "_dark")
    for part, value in (
        ("background_fill", "*primary_700"), ("background_fill_hover", "*primary_800"), ("text_color", "white"),
    )
}  # fmt: skip
_MEANING = '<p id="meaning">The probability that an answer is right, each for itself: several may be.</p>'


def _framed(report):
    """The report in a frame of its own, which can run its script and reach nothing outside of it."""
    page = html.escape(report.read_text(encoding="utf-8"))
    return f'<iframe id="report" title="Evaluation report" sandbox="allow-scripts" srcdoc="{page}"></iframe>'


def folder_until_exit():
    folder = tempfile.mkdtemp(prefix="vqafusion-app-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def examples():
    """Pictures drawn here, with a question each, so that a first visitor needs nothing."""
    from PIL import Image, ImageDraw

    folder, rows = Path(folder_until_exit()), []
    questions = ("what shape is in the image?", "what color is the shape?", "is there a red shape?")
    for sides, colour, question in zip((60, 4, 3), ("red", "blue", "green"), questions):
        image = Image.new("RGB", (256, 256), "#eef0fa")
        ImageDraw.Draw(image).regular_polygon((128, 128, 80), sides, fill=colour)
        image.save(folder / f"{colour}.png")
        rows.append([str(folder / f"{colour}.png"), question])
    return rows


def arguments():
    parser = argparse.ArgumentParser(description="A page where people ask pictures questions.")
    parser.add_argument("model", nargs="?", help="name on the Hub or folder; a Space's space.json names it")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets others in; think of --auth")
    parser.add_argument("--port", type=int, default=7860, help="7860 if not given")
    parser.add_argument("--auth", default=os.environ.get("VQAFUSION_AUTH"), help="USER:PASSWORD to ask visitors for")
    parser.add_argument(
        "--abstain_below", type=float, default=0.0, help="'not sure' comes first where the best answer is less probable"
    )
    parser.add_argument("--report", help="report.html of eval.py; default: beside the model, one folder above or below")
    return parser


def check_address(host, port):
    """End the program with one line where no page can be opened there: sooner, and clearer, than gradio does."""
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except (OSError, OverflowError) as error:
        arguments().error(f"cannot open a page at --host {host} --port {port}: {error}")


def load_pipeline(name, trust_remote_code):
    """The model by this package's code; in a Space, which has not got the package, by the model's own if trusted."""
    try:
        from vqafusion.loading import load_model
        from vqafusion.packing import pack
        from vqafusion.pipeline_vqafusion import VqaFusionPipeline
    except ImportError:
        from transformers import pipeline

        return pipeline("visual-question-answering", model=name, trust_remote_code=trust_remote_code)
    processor, model = load_model(name)
    pipe = VqaFusionPipeline(model=model, processor=processor)
    if pipe.device.type == "cpu":
        pack(model)
    return pipe


def main(argv=None):
    args = arguments().parse_args(argv)
    space = Path(__file__).with_name("space.json")  # what `vqafusion-push --space` wrote beside this file
    space = json.loads(space.read_text(encoding="utf-8")) if space.is_file() else {}
    args.model = args.model or space.get("model")
    if not args.model:
        arguments().error("give a model: its name on the Hub or its folder")
    if args.auth and ":" not in args.auth:
        arguments().error("--auth must be USER:PASSWORD")
    if not 0 <= args.abstain_below <= 1:
        arguments().error(f"--abstain_below must be from 0 to 1, not {args.abstain_below}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that uploads are deleted then, too
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # nothing is told to anybody
    if "GRADIO_TEMP_DIR" not in os.environ:  # gradio's default is shared, and its files can be read through any page
        os.environ["GRADIO_TEMP_DIR"] = folder_until_exit()
    try:
        import gradio
    except ImportError:
        arguments().error("the page needs gradio: pip install 'vqafusion[app]'")
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2  # Pillow refuses what has twice as many
    folder = Path(args.model)
    below = sorted(folder.glob("*/report.html"), key=lambda file: file.stat().st_mtime, reverse=True)
    found = [Path(args.report)] if args.report else [folder / "report.html", folder.parent / "report.html", *below]
    report = next((file for file in found if file.is_file()), None)
    if args.report and not report:
        arguments().error(f"--report: no file {args.report}")
    check_address(args.host, args.port)
    if report:
        print(f"second tab: {report}", flush=True)  # whoever may open the page sees the pictures in it
    try:
        pipe = load_pipeline(args.model, space.get("trust_remote_code", False))
        page = build(Answerer(pipe, args.abstain_below), report)
    except (ValueError, OSError) as error:
        arguments().error(" ".join(str(error).split()))
    page.launch(
        server_name=args.host, server_port=args.port, auth=tuple(args.auth.split(":", 1)) if args.auth else None,
        max_file_size=MAX_UPLOAD, state_session_capacity=VISITORS, ssr_mode=False,
        css_paths=STYLE, head=f"<script>{SCRIPT.read_text(encoding='utf-8')}</script>",
        theme=gradio.themes.Default(primary_hue="blue").set(**_DARKER),
    )  # fmt: skip


if __name__ == "__main__":
    main()

"""The page: its parts in this process, and the whole from many clients at once."""

import json
import os
import socket
import subprocess
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import gradio
import pytest
from commands import ROOT
from conftest import free_port, serving
from gradio_client import Client, handle_file
from PIL import Image
from toy_data import draw, encoded, huge_header
from toy_model import ANSWERS

from vqafusion import app
from vqafusion.pipeline_vqafusion import VqaFusionPipeline
from vqafusion.processing_vqafusion import load_image

JSON = {"Content-Type": "application/json"}
ASK = "is it red?"


@pytest.fixture
def answerer(model, processor):
    return app.Answerer(VqaFusionPipeline(model=model, processor=processor))


def test_it_answers_as_the_pipeline_does(answerer):
    seen = answerer.look(draw())
    answers, expected = answerer.answer(ASK, seen), answerer.pipe(draw(), ASK)
    assert [a["answer"] for a in answers] == [a["answer"] for a in expected]
    assert [a["score"] for a in answers] == pytest.approx([a["score"] for a in expected], abs=1e-6)


def test_a_picture_is_encoded_once_and_kept_when_its_file_is_gone(answerer, tmp_path, monkeypatch):
    inner, done = answerer.model.vqafusion, []
    encode = inner.encode_image
    monkeypatch.setattr(inner, "encode_image", lambda pixels: done.append(len(pixels)) or encode(pixels))
    ask = next(fn for fn in app.build(answerer).fns.values() if fn.api_name == "ask").fn
    seen, talk = None, []
    for name, looks, asked in (("a", 1, 1), ("a", 1, 2), ("b", 2, 1), ("c", 3, 1)):
        file = tmp_path / f"{name}.png"
        if asked == 1:
            draw("red" if name == "a" else "blue").save(file)
        *_, talk, seen = ask(str(file), ASK, answerer.maps[0], 0.5, talk if asked > 1 else [], seen)
        file.unlink(missing_ok=True)
        assert sum(done) == looks and len(talk) == 2 * asked


def test_a_message_to_a_visitor_who_left_harms_nobody(answerer):
    sessions = app.build(answerer)._queue.pending_messages_per_session
    sessions["gone"].put_nowait("your place in the queue")  # a KeyError here was the next visitor's error 500
    sessions["here"] = "queue"
    assert "gone" not in sessions and sessions["here"] == "queue"


def test_what_takes_too_long_ends_in_plain_words(answerer, tmp_path, monkeypatch):
    draw().save(tmp_path / "a.png")
    monkeypatch.setattr(app, "MAX_SECONDS", -1)
    ask = next(fn for fn in app.build(answerer).fns.values() if fn.api_name == "ask").fn
    with pytest.raises(gradio.Error, match="took too long"):
        ask(str(tmp_path / "a.png"), ASK, answerer.maps[0], 0.5, [], None)


def test_every_heat_map_has_the_pictures_size_and_follows_the_opacity(answerer):
    assert answerer.maps == [app.ABLATION, *(f"attention, layer {number}" for number in (1, 2, 3))]
    seen = answerer.look(draw())
    drawn = [answerer.overlay(ASK, seen, name, 0.5) for name in answerer.maps]
    assert all(overlay.size == draw().size for overlay in drawn) and len({o.tobytes() for o in drawn}) == 4
    assert answerer.overlay(ASK, seen, app.ABLATION, 0).tobytes() == draw().tobytes()


def test_each_layer_has_the_heat_map_of_its_name(answerer, monkeypatch):
    drawn, attention_map = [], answerer.model.attention_map

    def kept(output, layer):
        drawn.append(layer)
        return attention_map(output, layer)

    monkeypatch.setattr(answerer.model, "attention_map", kept)
    seen = answerer.look(draw())
    for number in (3, 1):
        answerer.overlay(ASK, seen, f"attention, layer {number}", 0.5)
    assert drawn == [2, 0]


def test_a_large_picture_is_kept_small(answerer):
    seen = answerer.look(draw(size=(4000, 2000)))
    assert seen["image"].size == (app.MAX_SHOWN, app.MAX_SHOWN // 2)
    assert answerer.overlay(ASK, seen, app.ABLATION, 0.5).size == seen["image"].size


def test_no_end_of_a_question_is_cut_off_without_a_word(answerer):
    with pytest.raises(gradio.Error, match="longer than the 64 tokens"):
        answerer.answer("is it a cat? " * 13, answerer.look(draw()))


def test_below_the_threshold_it_is_not_sure(model, processor):
    answerer = app.Answerer(VqaFusionPipeline(model=model, processor=processor), abstain_below=1.0)
    assert answerer.answer(ASK, answerer.look(draw()))[0]["answer"] == "not sure"


def test_a_blind_model_answers_without_heat_maps(model, processor):
    model.config.blind = True
    answerer = app.Answerer(VqaFusionPipeline(model=model, processor=processor))
    seen = answerer.look(draw())
    assert answerer.maps == [] and seen["states"] is None and answerer.answer(ASK, seen)[0]["answer"] in ANSWERS


@pytest.mark.parametrize(
    "name, data, question, said",
    [
        (None, None, ASK, "Choose a picture"),
        ("image.png", None, "  ", "Type a question"),
        ("image.png", None, "a" * 201, "longer than 200 characters"),
        ("text.jpg", b"this is text", ASK, "not a picture"),
        ("huge.png", huge_header(), ASK, "not a picture"),
        ("large.png", encoded(Image.new("1", (5001, 5001))), ASK, "too many pixels"),
        ("empty.png", b"", ASK, "not a picture"),
    ],
)
def test_what_is_wrong_is_said_in_plain_words(name, data, question, said, tmp_path):
    file = tmp_path / (name or "none")
    if name:
        file.write_bytes(data) if data is not None else draw().save(file)
    with pytest.raises(gradio.Error, match=said):
        app.checked_question(question)
        app.opened_picture(str(file) if name else None, load_image)


def test_a_picture_lies_as_it_was_taken(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    draw(size=(48, 40)).save(tmp_path / "photo.jpg", exif=exif)
    assert app.opened_picture(tmp_path / "photo.jpg", load_image).size == (40, 48)


def test_a_picture_is_opened_as_elsewhere(answerer, tmp_path):
    for name, picture in (("clear", Image.new("RGBA", (8, 8))), ("deep", Image.new("I;16", (8, 8), 32768))):
        picture.save(tmp_path / f"{name}.png")
        opened = app.opened_picture(tmp_path / f"{name}.png", answerer.code.load_image)
        assert opened.tobytes() == load_image(tmp_path / f"{name}.png").tobytes()
        assert opened.getpixel((0, 0)) == ((255,) * 3 if name == "clear" else (128,) * 3)


def test_the_page_is_opened_as_asked_and_tells_nobody(answerer, tmp_path, monkeypatch):
    opened = {}

    def build(answerer, report):
        opened.update(answerer=answerer, report=report)
        return SimpleNamespace(launch=lambda **settings: opened.update(settings))

    def load_pipeline(*given):
        opened["given"] = given
        return answerer.pipe

    for name in ("GRADIO_ANALYTICS_ENABLED", "GRADIO_TEMP_DIR"):
        monkeypatch.setenv(name, "")  # so that it is as before afterwards
        monkeypatch.delenv(name)
    monkeypatch.setattr(app, "build", build)
    monkeypatch.setattr(app, "load_pipeline", load_pipeline)
    for name, age in (("old", 9), ("new", 1), ("older", 99)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.html").touch()
        os.utime(tmp_path / name / "report.html", (10**9 - age,) * 2)
    said = ("--port", str(free_port()), "--auth", "user:a:b", "--abstain_below", "0.5")
    app.main([str(tmp_path), *said])
    assert opened["given"] == (str(tmp_path), False)  # not the code that comes with a model
    assert opened["auth"] == ("user", "a:b") and opened["answerer"].abstain_below == 0.5
    assert opened["server_name"] == "127.0.0.1" and opened["max_file_size"] == app.MAX_UPLOAD
    assert opened["report"] == tmp_path / "new" / "report.html"
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"
    assert Path(os.environ["GRADIO_TEMP_DIR"]).name.startswith("vqafusion-app-")  # nobody else's


def test_what_others_wrote_runs_nothing_on_the_page(tmp_path):
    (tmp_path / "report.html").write_text('"><script>')
    frame = app._framed(tmp_path / "report.html")
    assert ' sandbox="allow-scripts" ' in frame and "<script>" not in frame
    assert "<script>" not in app.bars([{"answer": "<script>", "score": 0.5}])


def test_only_what_was_uploaded_is_opened(tmp_path, monkeypatch):
    uploads = tmp_path / "uploads"
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(uploads))
    uploads.mkdir()
    draw().save(tmp_path / "private.png")
    (uploads / "link.png").symlink_to(tmp_path / "private.png")
    assert app.uploaded(SimpleNamespace(path=str(uploads / "a.png"))) == str(uploads / "a.png")
    for path in (tmp_path / "private.png", uploads / ".." / "private.png", uploads / "link.png"):
        with pytest.raises(gradio.Error, match="Choose a picture first"):
            app.uploaded(SimpleNamespace(path=str(path)))


def test_uploads_are_deleted_after_a_while(answerer):
    assert app.build(answerer).delete_cache == (60, app.MAX_KEPT)


@pytest.mark.parametrize(
    "arguments, said",
    [
        ((), "give a model"),
        (("m", "--auth", "user"), "--auth must be USER:PASSWORD"),
        (("m", "--abstain_below", "7"), "--abstain_below must be from 0 to 1"),
        (("m", "--report", "/nowhere"), "no file /nowhere"),
        (("/nowhere/model",), "/nowhere/model"),
        (("m", "--port", "99999"), "--port 99999"),
        (("m", "--port", "TAKEN"), "--port TAKEN: [Errno 98] Address already in use"),
        (("m", "--host", "192.0.2.1"), "--host 192.0.2.1"),
    ],
)
def test_bad_usage(arguments, said, capsys):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        with pytest.raises(SystemExit) as stop:
            app.main([argument.replace("TAKEN", port) for argument in arguments])
    printed = capsys.readouterr().err
    assert stop.value.code == 2 and said.replace("TAKEN", port) in printed and "Traceback" not in printed


def test_only_who_knows_the_password_may_ask(served, tmp_path, monkeypatch):
    monkeypatch.setenv("VQAFUSION_AUTH", "user:secret")
    (tmp_path / "model").symlink_to(served[0] / "model")
    with serving(tmp_path) as address:
        with pytest.raises(Exception, match="401|[Cc]redentials|Could not|auth"):
            Client(address, verbose=False).predict(handle_file(served[0] / "image.png"), ASK, api_name="/answer")
        client = Client(address, verbose=False, auth=("user", "secret"))
        answers = client.predict(handle_file(served[0] / "image.png"), ASK, api_name="/answer")
        assert answers[0]["answer"] in ANSWERS
    assert "secret" not in (tmp_path / "log.txt").read_text()


def test_programs_ask_too(served):
    folder, address = served
    client = Client(address, verbose=False)
    answers = client.predict(handle_file(folder / "image.png"), ASK, api_name="/answer")
    assert len(answers) == 5 and all(each["answer"] in ANSWERS and 0 <= each["score"] <= 1 for each in answers)
    for file, question, said in ((folder / "text.jpg", ASK, "picture"), (folder / "image.png", "", "Type a question")):
        with pytest.raises(Exception, match=said):
            client.predict(handle_file(file), question, api_name="/answer")


def test_curl_asks_as_the_readme_says(served):
    folder, address = served
    call = (ROOT / "README.md").read_text().split("or with curl:\n\n```\n")[1].split("```")[0]
    call = call.replace("http://127.0.0.1:7860", address).replace("photo.jpg", "image.png")
    said = subprocess.run(["bash", "-c", call], cwd=folder, capture_output=True, text=True, timeout=120, check=True)
    assert "event: complete" in said.stdout
    (answers,) = json.loads(said.stdout.split("data: ")[1])
    assert len(answers) == 5 and answers[0]["answer"] in ANSWERS


def test_nothing_of_the_server_can_be_read_through_it(served):
    folder, address = served
    for path in ("/etc/passwd", str(ROOT / "setup.cfg"), str(folder / "report.html"), "../../../etc/passwd"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{address}/gradio_api/file={path}", timeout=20)
        assert refused.value.code in (403, 404)
    draw().save(folder / "private.png")
    for path in (str(folder / "private.png"), "/etc/passwd", "/nowhere", "../private.png", None):
        assert "Choose a picture first" in asked(address, {"path": path}), path
        assert "complete" not in asked(address, {"path": path, "meta": {"_type": "gradio.FileData"}}), path


def asked(address, picture):
    """The events of asking about what is said to be a picture."""
    call = f"{address}/gradio_api/call/answer"
    body = json.dumps({"data": [picture, ASK]}).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(call, body, JSON), timeout=20) as response:
            event = json.load(response)["event_id"]
        with urllib.request.urlopen(f"{call}/{event}", timeout=20) as response:
            return response.read().decode()
    except urllib.error.HTTPError as error:
        return str(error.code)


def test_malformed_requests_leave_it_well(served):
    folder, address = served
    bodies = [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"data": null}',
        b'{"data": [1, 2]}',
        b'{"data": [{"path": "/etc/passwd"}, "q"]}',
    ]
    codes = set()
    for number in range(70):
        request = urllib.request.Request(f"{address}/gradio_api/call/answer", bodies[number % len(bodies)], JSON)
        try:
            codes.add(urllib.request.urlopen(request, timeout=20).status)
        except urllib.error.HTTPError as error:
            codes.add(error.code)
    assert 500 not in codes, codes
    test_programs_ask_too(served)


def test_clients_at_once_are_all_answered(served):
    folder, address = served

    def visit(number):
        client, image = Client(address, verbose=False, download_files=False), handle_file(folder / "image.png")
        return [client.predict(image, f"{ASK} {number} {n}", api_name="/answer") for n in range(3)]

    with ThreadPoolExecutor(6) as visitors:
        answers = [ranked[0]["answer"] for visit in visitors.map(visit, range(6)) for ranked in visit]
    assert len(answers) == 18 and set(answers) <= set(ANSWERS)

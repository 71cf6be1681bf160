"""Images of every kind, broken ones, and the part of the picture that the model sees."""

import base64
import contextlib
import copy
import functools
import http.server
import io
import struct
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from toy_data import draw, encoded, huge_header
from transformers import BertConfig, CLIPImageProcessorPil, ConvNextImageProcessorPil, RobertaConfig

from vqafusion import VqaFusionProcessor
from vqafusion.processing_vqafusion import load_image, max_question_length


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK", "I;16", "RGB"])
def test_modes_become_rgb(mode):
    image = Image.new("I;16", (8, 8), 65535) if mode == "I;16" else draw().convert(mode)
    assert load_image(image).mode == "RGB"


def test_transparency_lies_over_white_and_sixteen_bits_are_scaled():
    assert load_image(Image.new("RGBA", (2, 2), (255, 0, 0, 0))).getpixel((0, 0)) == (255, 255, 255)
    palette = Image.new("P", (2, 2))
    palette.info["transparency"] = 0
    assert load_image(palette).getpixel((0, 0)) == (255, 255, 255)
    assert load_image(Image.new("I;16", (2, 2), 32768)).getpixel((0, 0)) == (128, 128, 128)
    scan = Image.fromarray(np.array([[0, 1024, 4095]], dtype=np.uint16))  # of 12 bits, as scanners make them
    assert [load_image(scan).getpixel((x, 0))[0] for x in range(3)] == [0, 64, 255]
    assert load_image(b"P5 1 1 65535 \x80\x00").getpixel((0, 0)) == (128, 128, 128)  # to Pillow of mode "I"
    assert load_image(Image.new("L", (2, 2), 200).convert("I")).getpixel((0, 0)) == (200, 200, 200)
    for mode, value in (("F", 0.5), ("I", 70_000), ("I", -1)):
        with pytest.raises(ValueError, match="save it with 8 bits"):
            load_image(Image.new(mode, (2, 2), value))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_once(orientation, kind):
    image, buffer = draw(), io.BytesIO()
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(buffer, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    with Image.open(buffer) as opened:
        opened.load()
        upright = ImageOps.exif_transpose(opened)
    loaded = load_image(buffer.getvalue())
    assert np.array_equal(loaded, upright) and np.array_equal(load_image(loaded), upright)
    assert (kind == "TIFF" or orientation == 1) or not np.array_equal(upright, image)  # the picture has no symmetry


def test_an_odd_tag_costs_no_image():
    tags = [(0x0112, 3, struct.pack("<HH", 6, 0)), (0x0128, 5, struct.pack("<I", 8))]  # a unit as a fraction
    table = b"".join(struct.pack("<HHI", tag, kind, 1) + value for tag, kind, value in tags)
    data = io.BytesIO()
    Image.new("RGB", (8, 4)).save(data, "JPEG", exif=b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + table + bytes(4))
    assert load_image(data.getvalue()).size == (4, 8)


def test_sources(tmp_path):
    image, data = draw(), encoded(draw())
    path = tmp_path / "image.png"
    path.write_bytes(data)
    text = base64.b64encode(data).decode()
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    sources = [image, data, path, str(path), np.asarray(image), f"data:image/png;base64,{text}", f"{address}/image.png"]
    sources += [
        {"bytes": data, "path": None},
        {"bytes": data, "path": "name.png"},
        {"bytes": None, "path": str(path)},
        base64.b64encode(data * 40).decode(),
    ]
    sources += [base64.encodebytes(data * 40).decode()]
    for source in sources:
        assert np.array_equal(np.asarray(load_image(source)), np.asarray(image))
    for wrong in (f"{address}/absent.png", f"{address}/my photo.png", "http://127.0.0.1:port/a.png"):
        with pytest.raises(ValueError, match="fetched"):
            load_image(wrong)
    with pytest.raises(FileNotFoundError):  # it is there, but a data set does not say what is fetched
        load_image({"bytes": None, "path": f"{address}/image.png"})
    with pytest.raises(ValueError):
        load_image({"bytes": None, "path": 5})
    server.shutdown()


def test_a_server_that_never_ends_is_left(monkeypatch):
    class Dripping(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):
                while True:
                    self.wfile.write(b"x")
                    time.sleep(0.05)

    monkeypatch.setattr("vqafusion.processing_vqafusion.FETCH_SECONDS", 0.5)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Dripping)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with pytest.raises(ValueError, match="more than 0.5 seconds"):
        load_image(f"http://127.0.0.1:{server.server_port}/image.png")
    server.shutdown()


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"  # a program


@pytest.mark.parametrize(
    "data", [b"", b"text", huge_header(), POSTSCRIPT, encoded(draw(), "JPEG")[:300], encoded(draw())[:60]],
    ids=["empty", "text", "huge", "PostScript", "cut jpeg", "cut png"],
)  # fmt: skip
def test_broken_files_are_named(tmp_path, data):
    path = tmp_path / "broken.jpg"
    path.write_bytes(data)
    with pytest.raises(ValueError, match="broken.jpg"):
        load_image(path)


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent.jpg"):
        load_image(tmp_path / "absent.jpg")
    with pytest.raises(ValueError, match="folder"):
        load_image(tmp_path)


@pytest.mark.parametrize("picture", [np.zeros(140, np.uint8), np.zeros((4, 4)), Image.new("RGB", (0, 0))])
def test_what_is_no_picture_is_refused(picture, monkeypatch):
    monkeypatch.setattr("vqafusion.processing_vqafusion.MAX_PIXELS", 48 * 40)
    assert load_image(draw()).size == (48, 40)
    with pytest.raises(ValueError, match="49 x 40 pixels are more than 1,920"):
        load_image(draw(size=(49, 40)))
    assert load_image(draw(size=(1, 200))).size == (1, 200)
    with pytest.raises(ValueError, match="1 x 201 pixels are too long and thin"):
        load_image(draw(size=(1, 201)))
    with pytest.raises(ValueError, match="uint8|shows nothing"):
        load_image(picture)


@pytest.mark.parametrize("kind, at, junk", [("PPM", 4, b"\x13"), ("TGA", 12, b"\xff\x0f"), ("AVIF", 267, bytes(60))])
def test_a_broken_picture_is_named(tmp_path, kind, at, junk):
    data = bytearray(encoded(draw(), kind))
    data[at : at + len(junk)] = junk
    (tmp_path / "broken").write_bytes(data)
    with pytest.raises(ValueError, match="broken (cannot be read as|is not) an image"):
        load_image(tmp_path / "broken")


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=64), st.integers(0, 400), st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "PPM", "TIFF"]))
def test_rubbish_is_refused_or_read_but_never_anything_else(junk, position, kind):
    data = bytearray(encoded(draw(), kind))
    data[position : position + len(junk)] = junk
    try:
        assert load_image(bytes(data)).mode == "RGB"
    except ValueError as error:
        assert str(error)


def test_batch(processor):
    batch = processor(images=[draw(), draw("blue")], text=["what color?", "how many shapes are there?"])
    assert batch["pixel_values"].shape == (2, 3, 32, 32)
    assert batch["input_ids"].shape == batch["attention_mask"].shape and batch["attention_mask"][0].min() == 0
    with pytest.raises(ValueError, match="images, text"):
        processor()


def test_arguments_reach_the_image_processor_and_the_tokenizer(processor):
    image, text = draw(), "how many?"
    plain = processor(images=image)["pixel_values"]
    for arguments in ({"do_rescale": False}, {"images_kwargs": {"do_rescale": False}}):
        assert torch.allclose(plain * 255 > 127, processor(images=image, **arguments)["pixel_values"] > 127)
        assert not torch.allclose(plain, processor(images=image, text=text, **arguments)["pixel_values"])
    for arguments in ({"padding": "max_length", "max_length": 12}, {}):
        for way in (arguments, {"text_kwargs": arguments}):
            assert processor(text=text, **way)["input_ids"].shape == (1, 12 if arguments else 5)


def test_padding_comes_last_whatever_the_tokenizer_does(processor):
    tokenizer = copy.deepcopy(processor.tokenizer)
    tokenizer.padding_side = "left"
    mask = VqaFusionProcessor(processor.image_processor, tokenizer)(text=["what?", "how many?"])["attention_mask"]
    assert mask[:, 0].all() and not mask.all()
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]  # as BERT's
    assert set(VqaFusionProcessor(processor.image_processor, tokenizer)(text="what?")) == {
        "input_ids",
        "attention_mask",
    }


def test_visible_box(processor):
    assert processor.visible_box(640, 480) == (0, 0, 640, 480)
    clip = VqaFusionProcessor(CLIPImageProcessorPil(), processor.tokenizer)  # shortest edge 224, centre crop 224
    assert clip.visible_box(640, 480) == pytest.approx((80, 0, 560, 480))
    assert clip.visible_box(100, 300) == pytest.approx((0, 100, 100, 200))
    sides = {"size": {"height": 100, "width": 200}, "crop_size": {"height": 50, "width": 50}}
    squeezed = VqaFusionProcessor(CLIPImageProcessorPil(**sides), processor.tokenizer)
    assert squeezed.visible_box(400, 100) == pytest.approx((150, 25, 250, 75))


@pytest.mark.parametrize("edge, size", [(224, (640, 480)), (224, (90, 400)), (384, (640, 480))])
def test_visible_box_of_a_processor_that_crops_by_a_share(processor, edge, size):
    convnext = ConvNextImageProcessorPil(size={"shortest_edge": edge}, crop_pct=0.875, do_normalize=False)
    across, down = np.meshgrid(np.linspace(0, 255, size[0]), np.linspace(0, 255, size[1]))
    ramps = Image.fromarray(np.stack([across, down, down], axis=-1).round().astype(np.uint8))
    seen = convnext(images=[ramps], return_tensors="pt")["pixel_values"][0]
    found = [float(ramp[at, at]) for at in (0, -1) for ramp in seen[:2]]
    left, top, right, bottom = VqaFusionProcessor(convnext, processor.tokenizer).visible_box(*size)
    expected = [left / size[0], top / size[1], right / size[0], bottom / size[1]]
    assert found == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("kind, reserved", [(RobertaConfig, 2), (BertConfig, 0)])
def test_the_longest_question_fits_the_positions(kind, reserved):
    text = kind(max_position_embeddings=32)
    tokenizer = SimpleNamespace(model_max_length=10**9)
    assert max_question_length(SimpleNamespace(text_config=text), tokenizer) == 32 - reserved
    tokenizer.model_max_length = 9
    assert max_question_length(SimpleNamespace(text_config=text), tokenizer) == 9

"""Pictures drawn here, and small files in the official layout of VQA v2."""

import io
import json
import struct
import zlib

import numpy as np
from datasets import Dataset
from PIL import Image

from vqafusion.data_prep import FEATURES

SPLIT = "toy2014"


def draw(color="red", size=(48, 40), mode="RGB"):
    """A picture with a square of the colour in its upper left quarter."""
    pixels = np.full((size[1], size[0], 3), 240, dtype=np.uint8)
    pixels[: size[1] // 2, : size[0] // 2] = np.array(Image.new("RGB", (1, 1), color))[0, 0]
    return Image.fromarray(pixels).convert(mode)


def write_vqa_v2(folder, images=2, per_image=3, split=SPLIT):
    """In the official layout: pictures that are all red and none the same, answers 7 times "yes" and 3 times "Red."."""
    (folder / split).mkdir(parents=True)
    questions, annotations = [], []
    for image_id in range(1, images + 1):
        draw(size=(48, 40 + image_id)).save(folder / split / f"COCO_{split}_{image_id:012d}.jpg")
        for number in range(per_image):
            key = 1000 * image_id + number
            questions.append({"image_id": image_id, "question": f"is it red {number}?", "question_id": key})
            answers = [{"answer": a, "answer_id": i} for i, a in enumerate(["yes"] * 7 + ["Red."] * 3, 1)]
            provenance = {"provenance": "first"} if number == 0 else {}  # the official files have none
            annotations.append(
                {"question_id": key, "image_id": image_id, "answers": answers, "question_type": "is it",
                 "answer_type": "yes/no", "multiple_choice_answer": "yes", **provenance}
            )  # fmt: skip
    write_json(folder, f"v2_OpenEnded_mscoco_{split}_questions.json", {"questions": questions})
    write_json(folder, f"v2_mscoco_{split}_annotations.json", {"annotations": annotations})
    return folder


def write_json(folder, name, data):
    (folder / name).write_text(data if isinstance(data, str) else json.dumps(data))


def questions_file(official):
    return official / f"v2_OpenEnded_mscoco_{SPLIT}_questions.json"


def annotations_file(official):
    return official / f"v2_mscoco_{SPLIT}_annotations.json"


def replace(file, old, new):
    file.write_text(file.read_text().replace(old, new))


def encoded(image, kind="PNG"):
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def huge_header():
    """A PNG that says 30,000 x 30,000 in a few bytes."""
    body = b"IHDR" + struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))


def rows_of(answers, per_image=2):
    count = len(answers)
    return Dataset.from_dict(
        {
            "image": [draw()] * count,
            "image_id": [str(number // per_image) for number in range(count)],
            "question_id": list(range(count)),
            "question": [f"what is {number}?" for number in range(count)],
            "answers": answers,
            "question_type": ["what is", "is it"] * (count // 2) + ["what is"] * (count % 2),
            "answer_type": ["other", "yes/no", "number", "other"] * (count // 4) + ["other"] * (count % 4),
            "provenance": [""] * count,
            "normalized": [False] * count,
        },
        features=FEATURES,
    )

"""Pictures drawn here, and small files in the official layout of VQA v2."""

import json

import numpy as np
from PIL import Image

SPLIT = "toy2014"


def draw(color="red", size=(48, 40), mode="RGB"):
    """A picture with a square of the colour in its upper left quarter."""
    pixels = np.full((size[1], size[0], 3), 240, dtype=np.uint8)
    pixels[: size[1] // 2, : size[0] // 2] = np.array(Image.new("RGB", (1, 1), color))[0, 0]
    return Image.fromarray(pixels).convert(mode)


def write_vqa_v2(folder, images=2, per_image=3, split=SPLIT):
    """A data set in the official layout; its answers are 7 times "yes" and 3 times "Red."."""
    (folder / split).mkdir(parents=True)
    questions, annotations = [], []
    for image_id in range(1, images + 1):
        draw().save(folder / split / f"COCO_{split}_{image_id:012d}.jpg")
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

"""Attention heat maps over the image, drawn with OpenCV."""

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont


def draw_overlay(image, attention, strength=0.5):
    """
    Args:
        image (`PIL.Image.Image`): RGB.
        attention: `(height, width)` float array of the image's size, 0 to 1.
        strength (`float`): opacity of the colours where the attention is 1; the image shines through elsewhere.

    Returns:
        `PIL.Image.Image` of the same size: OpenCV's "turbo" colours over the picture in grey.

    Raises:
        ValueError: sizes that differ.
    """
    pixels = np.asarray(image.convert("RGB"))
    attention = np.asarray(attention, dtype=np.float32)
    if attention.shape != pixels.shape[:2]:
        raise ValueError(f"an attention map of {attention.shape} does not fit an image of {pixels.shape[:2]}")
    colours = cv2.applyColorMap((attention.clip(0, 1) * 255).astype(np.uint8), cv2.COLORMAP_TURBO)
    colours = cv2.cvtColor(colours, cv2.COLOR_BGR2RGB)
    return Image.fromarray(cv2.addWeighted(pixels, 1 - strength, colours, strength, 0))


def draw_result(image, attention, question, answers, min_width=480):
    """
    The picture, the picture with its heat map, and a caption with the question and the ranked answers.

    Args:
        image, attention: as for [`draw_overlay`].
        question (`str`)
        answers (`list[dict]`): `answer` and `score`, best first, as the pipeline gives them.
        min_width (`int`): small pictures are enlarged until the two side by side are this wide, in pixels.

    Returns:
        `PIL.Image.Image`
    """
    scale = max(1.0, min_width / (2 * image.width))
    size = (round(image.width * scale), round(image.height * scale))
    panels = [panel.resize(size, Image.Resampling.LANCZOS) for panel in (image, draw_overlay(image, attention))]
    width = 2 * size[0]
    font = ImageFont.load_default(size=max(13, width // 36))
    lines = _wrap(f"Q: {question}", font, width - 16)
    lines += _wrap("A: " + ",  ".join(f"{a['answer']} {_percent(a['score'])}" for a in answers), font, width - 16)
    line_height = round(font.size * 1.45)
    canvas = Image.new("RGB", (width, size[1] + line_height * len(lines) + 12), "white")
    for position, panel in enumerate(panels):
        canvas.paste(panel, (position * size[0], 0))
    draw = ImageDraw.Draw(canvas)
    for number, line in enumerate(lines):
        draw.text((8, size[1] + 6 + number * line_height), line, fill="black", font=font)
    return canvas


def _percent(score):
    return "< 1 %" if score < 0.005 else f"{100 * score:.0f} %"


def _wrap(text, font, width, most=4):
    """Lines no wider than `width` pixels, `most` of them at the most."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if not lines[-1] or font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines if len(lines) <= most else lines[: most - 1] + [lines[most - 1] + " …"]

"""The picture of an answer: the image, its heat map, and a caption."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..pipeline_vqafusion import heat_colors


def draw_result(image, overlay, question, answers, min_width=480):
    """
    The picture, the picture with its heat map and what its colours mean, and a caption with the question and the ranked
    answers.

    Args:
        image, overlay (`PIL.Image.Image`): of one size.
        question (`str`)
        answers (`list[dict]`): `answer` and `score`, best first, as the pipeline gives them.
        min_width (`int`): small pictures are enlarged until the two side by side are this wide, in pixels.

    Returns:
        `PIL.Image.Image`
    """
    scale = max(1.0, min_width / (2 * image.width))
    size = (round(image.width * scale), round(image.height * scale))
    panels = [panel.resize(size, Image.Resampling.LANCZOS) for panel in (image, overlay)]
    width = 2 * size[0]
    font = ImageFont.load_default(size=max(13, width // 36))
    lines = _wrap(f"Q: {question}", font, width - 16)
    lines += _wrap("A: " + ",  ".join(f"{a['answer']} {_percent(a['score'])}" for a in answers), font, width - 16)
    line_height = round(font.size * 1.45)
    canvas = Image.new("RGB", (width, size[1] + line_height * (len(lines) + 1) + 12), "white")
    for position, panel in enumerate(panels):
        canvas.paste(panel, (position * size[0], 0))
    draw = ImageDraw.Draw(canvas)
    least, most = "nothing", "most"
    left, right = size[0] + 16 + font.getlength(least), width - 16 - font.getlength(most)
    bar = Image.fromarray(heat_colors(np.linspace(0, 1, round(right - left))[None]))
    canvas.paste(bar.resize((bar.width, font.size)), (round(left), size[1] + 8))
    draw.text((size[0] + 8, size[1] + 6), least, fill="black", font=font)
    draw.text((width - 8, size[1] + 6), most, fill="black", font=font, anchor="ra")
    for number, line in enumerate(lines, 1):
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

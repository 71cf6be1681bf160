"""The heat map's colours, sizes and caption."""

import numpy as np
import pytest
from conftest import draw
from PIL import Image

from vqafusion.analysis.overlay import draw_overlay, draw_result

ANSWERS = [{"answer": "red", "score": 0.9}, {"answer": "blue", "score": 0.001}]


def test_overlay_is_red_where_attention_is_and_blue_elsewhere():
    attention = np.zeros((40, 48), dtype=np.float32)
    attention[:, 24:] = 0.9
    pixels = np.asarray(draw_overlay(Image.new("RGB", (48, 40), "gray"), attention)).astype(int)
    cold, hot = pixels[20, 5], pixels[20, 40]
    assert cold[2] > cold[0] and hot[0] > hot[2]
    unchanged = draw_overlay(draw(), attention, strength=0)
    assert np.array_equal(np.asarray(unchanged), np.asarray(draw()))


def test_sizes_must_fit():
    with pytest.raises(ValueError, match="does not fit"):
        draw_overlay(draw(), np.zeros((3, 3)))


@pytest.mark.parametrize("size", [(48, 40), (900, 300), (64, 1)])
def test_result_holds_both_pictures_and_the_caption(size):
    picture = draw_result(draw(size=size), np.ones(size[::-1]), "what color is it? " * 20, ANSWERS)
    width, height = (size[0], size[1]) if 2 * size[0] >= 480 else (240, round(size[1] * 240 / size[0]))
    assert picture.width == 2 * width and picture.height > height
    left = np.asarray(picture)[:height, :width]
    assert np.abs(left.mean((0, 1)) - np.asarray(draw(size=size)).mean((0, 1))).max() < 6
    assert (np.asarray(picture)[height:] < 100).any()  # ink


def test_long_questions_are_cut_to_a_few_lines():
    short, long = (draw_result(draw(), np.ones((40, 48)), "word " * n, ANSWERS).height for n in (200, 2000))
    assert short == long

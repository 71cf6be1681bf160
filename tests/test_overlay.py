"""The picture of an answer: sizes and caption."""

import numpy as np
import pytest
from toy_data import draw

from vqafusion.analysis.overlay import _percent, draw_result

ANSWERS = [{"answer": "red", "score": 0.9}, {"answer": "blue", "score": 0.001}]


@pytest.mark.parametrize("size", [(48, 40), (900, 300), (64, 1)])
def test_result_holds_both_pictures_and_the_caption(size):
    picture = draw_result(draw(size=size), draw("blue", size), "what color is it? " * 20, ANSWERS)
    width, height = (size[0], size[1]) if 2 * size[0] >= 480 else (240, round(size[1] * 240 / size[0]))
    assert picture.width == 2 * width and picture.height > height
    for panel, colour in zip(np.split(np.asarray(picture)[:height], 2, axis=1), ("red", "blue")):
        assert np.abs(panel.mean((0, 1)) - np.asarray(draw(colour, size)).mean((0, 1))).max() < 6
    below = np.asarray(picture.convert("L"))[height:].astype(int)
    letter = max(13, picture.width // 36)
    bar = below[8 + letter // 2, width + width // 3 : -width // 3]  # what the colours mean, between two words
    assert (np.diff(bar) >= -1).all() and bar[-1] - bar[0] > 30
    assert (below[3 * letter :] < 100).any()  # the caption


def test_probabilities_are_in_percent():
    assert [_percent(score) for score in (0.9, 0.006, 0.001, 1)] == ["90 %", "1 %", "< 1 %", "100 %"]


def test_long_questions_are_cut_to_a_few_lines():
    one, few, many, too_many = (draw_result(draw(), draw(), "word " * n, ANSWERS).height for n in (1, 5, 200, 2000))
    assert one == few < many == too_many

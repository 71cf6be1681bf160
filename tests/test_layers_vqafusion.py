"""
Colours of patches, and words that look for patches: what they learn, what of it reaches the answers, and that padding
has no part.
"""

import pytest
import torch
from toy_model import COLORS, batch, tiny_config

from vqafusion import VqaFusionForVisualQuestionAnswering
from vqafusion.layers_vqafusion import Dropout, Projection, average_grid


def aligned(weight=0.5):
    torch.manual_seed(0)
    model = VqaFusionForVisualQuestionAnswering(tiny_config(alignment_weight=weight, dropout=0.0)).train()
    model.vqafusion.text_model.eval()  # no dropout there either
    return model


def test_each_patch_has_a_histogram_of_its_colors():
    model = VqaFusionForVisualQuestionAnswering(tiny_config(**COLORS)).eval()
    pixels = torch.full((1, 3, 32, 32), -2.0)  # black
    pixels[:, 0, :16, :16] = 2.0  # red, upper left
    pixels[:, 2, :16, 16:] = 2.0  # blue, upper right
    pixels[:, :, 16:, 16:] = 0.0  # half grey, between two levels of each colour
    states = model.vqafusion.encode_image(pixels)
    assert states.shape == (1, 17, 32 + 64)
    histograms = states[0, :, 32:]
    assert torch.allclose(histograms.sum(-1), torch.ones(17), atol=1e-5)
    black, red, blue, grey = 0, 3 * 16, 3, [16 * r + 4 * g + b for r in (1, 2) for g in (1, 2) for b in (1, 2)]
    grid = histograms[1:].view(4, 4, 64)
    assert (grid[:2, :2, red] == 1).all() and (grid[:2, 2:, blue] == 1).all() and (grid[2:, :2, black] == 1).all()
    assert torch.allclose(grid[2:, 2:, grey], torch.full((2, 2, 8), 1 / 8))
    assert histograms[0, [black, red, blue]].tolist() == [0.25] * 3  # the CLS token's are of the whole image


@pytest.mark.parametrize("power", [1, 0.5, 0.25])
def test_a_projection_raises_to_its_power_and_keeps_signs(power):
    projection = Projection(4, tiny_config(), power)
    norm, linear = projection
    states = torch.tensor([[4.0, -9.0, 0.0, 1.0]], requires_grad=True)
    expected = linear(norm(torch.tensor([[4.0**power, -(9.0**power), 0.0, 1.0]])))
    seen = projection(states)
    torch.testing.assert_close(seen, expected, atol=0.05 if power < 1 else 0, rtol=0)  # 0 becomes a little more
    seen.sum().backward()
    assert states.grad.isfinite().all() and states.grad.abs().sum() > 0


def test_the_image_and_its_colors_are_projected_by_powers():
    model = VqaFusionForVisualQuestionAnswering(tiny_config(power_normalization=0.25, **COLORS)).eval().vqafusion
    powers = [each.power for each in (model.image_projection, model.color_projection, model.question_projection)]
    assert powers == [0.25, 0.5, 1]


def test_averaging_keeps_the_cls_token():
    states = torch.arange(17.0).view(1, 17, 1)
    assert average_grid(states, 2)[0, :, 0].tolist() == [0.0, 3.5, 5.5, 11.5, 13.5]
    assert average_grid(states, 4) is states


def test_a_grid_that_could_be_taken_for_another_is_refused():
    states = torch.randn(1, 5 + 64, 32)
    with pytest.raises(ValueError, match="5 tokens beside its grid: take at least 3"):
        average_grid(states, 2)
    assert average_grid(states, 3).shape == (1, 5 + 9, 32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_takes_its_share_and_keeps_the_mean(dtype):
    torch.manual_seed(0)
    states = torch.full((100, 1000), 3.0, dtype=dtype, requires_grad=True)
    dropout = Dropout(0.2)
    found = dropout(states)
    assert found.dtype == dtype and found.unique().tolist() == [0, 3.75]
    assert (found == 0).float().mean() == pytest.approx(0.2, abs=0.005)
    found.sum().backward()
    assert torch.equal(states.grad, found.detach() / 3)
    assert not torch.equal(dropout(states), found) and torch.equal(dropout.eval()(states), states)
    assert torch.equal(Dropout(0.0)(states), states) and Dropout(1.0)(states).count_nonzero() == 0


def test_alignment_learns_which_image_a_question_is_about():
    model = aligned()
    inputs = {**batch(4, images=2), "image_index": torch.tensor([0, 1, 1, 0])}
    inputs["attention_mask"][0, 5:] = 0
    optimizer = torch.optim.Adam(model.vqafusion.alignment.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        losses.append(model(**inputs).alignment_loss)
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[0] > 0.1 and losses[-1] < 0.1 * losses[0]
    model.eval()
    own = model(**inputs).match
    other = model(**inputs | {"image_index": 1 - inputs["image_index"]}).match
    assert own.shape == (4, 1) and (own > other + 1).all()  # a word's cosine that is 0.05 higher
    assert (own > 0).all() and (other < 0).all()


def test_pairs_that_belong_together_weigh_as_much_as_those_that_do_not():
    matches = torch.tensor([[2.0, -1, 0], [-3, 1, 2]])
    together = torch.tensor([[True, False, False], [False, True, False]])
    losses = [torch.nn.functional.softplus(torch.tensor(x)).mean() for x in ([-2.0, -1], [-1.0, 0, -3, 2])]
    alignment = aligned().vqafusion.alignment
    torch.testing.assert_close(alignment._pair_loss(matches, together), sum(losses) / 2)
    one_image = alignment._pair_loss(matches[:, :1], torch.ones(2, 1, dtype=torch.bool))
    torch.testing.assert_close(one_image, torch.nn.functional.softplus(-matches[:, 0]).mean() / 2)


def test_the_match_speaks_for_answers():
    model = aligned().eval()
    output = model(**batch())
    without = output.logits - output.match * model.match_classifier.weight.T
    torch.testing.assert_close(without, model.classifier(output.pooler_output))
    assert not torch.allclose(without, output.logits)


def test_the_alignment_loss_is_part_of_the_loss_in_training_only():
    model = aligned()
    inputs = batch()
    output = model(**inputs, labels=torch.ones(3, 6))
    assert output.alignment_loss > 0
    torch.testing.assert_close(2 * output.alignment_loss, aligned(1.0)(**inputs).alignment_loss)
    assert torch.isclose(output.loss, model.answer_loss(output.logits, torch.ones(3, 6)) + output.alignment_loss)
    assert model.eval()(**inputs).alignment_loss is None
    assert VqaFusionForVisualQuestionAnswering(tiny_config(alignment_weight=1, blind=True)).vqafusion.alignment is None


def test_padding_changes_no_alignment():
    model, inputs = aligned(), batch()
    inputs["attention_mask"][0, 5:] = 0
    padded = {**inputs, **{k: torch.nn.functional.pad(inputs[k], (0, 3)) for k in ("input_ids", "attention_mask")}}
    inputs["input_ids"][0, 5:] = 9
    output, expected = (model(**x, output_attentions=True) for x in (padded, inputs))
    torch.testing.assert_close(output.alignment_loss, expected.alignment_loss)
    torch.testing.assert_close(output.match, expected.match)
    assert output.alignment.shape == (3, 10, 17) and (output.alignment[0, 5:] == 0).all()
    torch.testing.assert_close(output.alignment[1:, :7].sum(-1), torch.ones(2, 7))
    inputs["attention_mask"][1] = 0  # a question of no words at all
    assert model(**inputs).alignment_loss.isfinite()

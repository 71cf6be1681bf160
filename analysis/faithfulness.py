"""Whether a heat map shows what the answer rests on: deletion and insertion curves against maps that know nothing."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from tqdm import tqdm

from .heat_maps import VARIANTS, heat_map, map_inputs
from .scores import bootstrap_interval, rounded

SHARES = (0, 0.25, 0.5, 0.75, 1)  # of the patches taken away or put back
BASELINES = ("random", "centre")
_MAP_BATCH = 4  # questions
_BATCH = 2  # images per forward pass; larger ones take more memory and no less time on a CPU


def faithfulness(model, collator, rows, seed=0, variants=tuple(VARIANTS)):
    """
    Deletion and insertion (Petsiuk et al., RISE, BMVC 2018): patches are taken out of the picture, or put into an
    empty one, in the order of the map, and the probability of the answer to the whole picture is followed. A map is
    faithful where it falls early (small area under the curve) or rises early (large area). The empty picture is 0 in
    normalised pixels, the mean colour.

    Args:
        model: a [`VqaFusionForVisualQuestionAnswering`] in eval mode, on CPU or GPU.
        collator: a [`VqaCollator`] that gives pixels.
        rows: encoded rows, the sample.
        seed (`int`): of the random baseline.
        variants: names of `VARIANTS`.

    Returns:
        dict of each variant and each of `BASELINES` (a random order; nearest to the centre first) to `deletion` and
        `insertion`, mean areas in percent, and for all but the random order their `_gain` over it (positive is
        better) with `_gain_interval`, 95 %, over images.
    """
    maps = np.concatenate(
        [
            _maps(model, collator([rows[index] for index in range(at, min(at + _MAP_BATCH, len(rows)))]), variants)
            for at in tqdm(range(0, len(rows), _MAP_BATCH), desc="Drawing heat maps", unit="batch")
        ]
    )  # (questions, variants, rows, columns)
    side = maps.shape[-1]
    rng = np.random.default_rng(seed)
    orders = np.concatenate([maps, rng.random((len(rows), 1, side, side))], axis=1)
    orders = np.concatenate([orders, np.broadcast_to(_centre(side), (len(rows), 1, side, side))], axis=1)
    orders = np.argsort(-(orders + 1e-9 * rng.random(orders.shape)).reshape(*orders.shape[:2], -1), axis=-1)

    def measure(index):
        areas = _areas(model, collator([rows[index]]), orders[index], side)
        bar.update()
        return areas

    # Every core follows a question of its own.
    cores = torch.get_num_threads() if model.device.type == "cpu" else 1
    with (
        tqdm(total=len(rows), desc="Testing heat maps", unit="question") as bar,
        ThreadPoolExecutor(cores, "faithfulness", torch.set_num_threads, (1,)) as threads,
    ):
        areas = np.array(list(threads.map(measure, range(len(rows)))))  # (questions, maps, deletion and insertion)
    areas *= 100
    images, random = rows["image_id"][:], areas[:, len(variants)]
    result = {}
    for number, name in enumerate((*variants, *BASELINES)):
        result[name] = dict(zip(("deletion", "insertion"), areas[:, number].mean(axis=0).round(2).tolist()))
        if name != "random":
            gains = (random - areas[:, number]) * (1, -1)
            for curve, gain in zip(("deletion", "insertion"), gains.T):
                result[name][f"{curve}_gain"] = round(float(gain.mean()), 2)
                result[name][f"{curve}_gain_interval"] = rounded(bootstrap_interval(gain, images))
    return result


def _maps(model, batch, variants):
    """`(questions, variants, rows, columns)`"""
    features = map_inputs(model, batch)
    return np.stack([heat_map(model, features, name).cpu().numpy() for name in variants], axis=1)


def _areas(model, batch, orders, side):
    """`(maps, 2)`: areas under the deletion and insertion curves of one question, for each order of its patches."""
    question = {name: batch[name].to(model.device) for name in ("input_ids", "attention_mask")}
    pixels = batch["pixel_values"].to(model.device)
    counts = [round(share * side**2) for share in SHARES]
    kept = {}  # the same patches are often left by several maps; each set is looked at once
    numbers = [
        [[kept.setdefault(frozenset(part.tolist()), len(kept)) for part in parts] for parts in (
            [order[count:] for count in counts], [order[:count] for count in counts],
        )]
        for order in orders
    ]  # fmt: skip
    probabilities = _probabilities(model, question, pixels, list(kept), side)
    return np.trapezoid(probabilities[np.array(numbers)], np.array(counts) / side**2, axis=-1)


@torch.no_grad()
def _probabilities(model, question, pixels, kept, side):
    """Probability, for each set of patches that is left, of the answer to the whole picture."""
    masks = torch.zeros(len(kept), side**2)
    for mask, patches in zip(masks, kept):
        mask[list(patches)] = 1
    masks = torch.nn.functional.interpolate(masks.view(-1, 1, side, side), size=pixels.shape[-2:]).to(pixels.device)
    layout = torch.channels_last if pixels.device.type == "cpu" else torch.contiguous_format
    states = torch.cat([
        model.vqafusion.encode_image((pixels * part).contiguous(memory_format=layout))
        for part in masks.split(_BATCH)
    ])  # fmt: skip
    several = {name: value.expand(len(kept), -1) for name, value in question.items()}
    probabilities = model.probabilities(model(image_states=states, **several).logits)
    whole = max(range(len(kept)), key=lambda index: len(kept[index]))
    return probabilities[:, probabilities[whole].argmax()].float().cpu().numpy()


def _centre(side):
    place = np.arange(side) - (side - 1) / 2
    return -np.hypot(place[:, None], place)

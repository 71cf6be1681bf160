"""A saved model on a split: its ranked answers, its temperature, its heat maps."""

from functools import partial
from operator import itemgetter
from pathlib import Path

import torch
from accelerate.utils import gather_object
from torch.utils.data import DataLoader
from tqdm import tqdm

from ..command_line import read_json, write_json
from ..data_prep.encode import VqaCollator, encode
from ..data_prep.image_features import cache_image_states, this_process
from ..metrics.vqa_accuracy.vqa_accuracy import TOP_K, question_score
from ..processing_vqafusion import max_question_length
from .calibration import error_difference, expected_calibration_error, fit_temperature, in_first_half
from .heat_maps import DEFAULT, heat_map, map_inputs

MAP_BATCH = 8  # questions whose heat maps are drawn together, each of as many passes as it has patches
FIT_QUESTIONS = 20_000  # half of them for the temperature; the logits of these are held in memory


class ModelRun:
    """
    Args:
        loaded (`tuple`): what [`load_model`] returned.
        rows (`datasets.Dataset`): columns of `FEATURES`.
        batch_size (`int`): questions per forward pass.
        image_states_dir (`str`, *optional*): where states of the vision encoder are stored and looked for.
        num_proc (`int`): processes that encode questions.
    """

    def __init__(self, loaded, rows, batch_size=64, image_states_dir=None, num_proc=None):
        self.rows, self.batch_size = rows, batch_size
        self.processor, self.model = loaded
        self.folder = Path(self.model.config.name_or_path)  # of a name on the Hub, where it was fetched to
        self.process = this_process()
        self.model.to(self.process.device)
        length = max_question_length(self.model.config, self.processor.tokenizer)
        self.encoded = encode(rows, self.processor.tokenizer, self.model.config.label2id, length, num_proc)
        states = None
        if image_states_dir and not self.model.config.blind:
            states = cache_image_states(
                self.encoded, self.model.vqafusion, self.processor.image_processor, image_states_dir
            )
        collator = partial(VqaCollator, self.processor, self.model.config.num_labels, blind=self.model.config.blind)
        self.collator, self.pixel_collator = collator(image_states=states), collator()
        self.image_ids = rows["image_id"][:]
        self.extra = {}  # figures of the run beyond its answers
        self.training = self._kept("training.json")
        self.history = self._kept("trainer_state.json").get("log_history", [])

    def ranked(self):
        """For each row the best `TOP_K` answers, best first, as `{"answer", "score"}`; scores are probabilities."""
        order = sorted(range(len(self.rows)), key=self.image_ids.__getitem__)  # each image is encoded once
        answers = {}
        for indices, logits in self._logits(order, "Answering"):
            answers.update(zip(indices, self.model.ranked_answers(logits, TOP_K)))
        answers = dict(gather_object(list(answers.items())))
        return [answers[index] for index in range(len(order))]

    def fit_temperature(self):
        """
        Fit the temperature on half of the images; [`save_temperature`] keeps it.

        Returns:
            dict: `temperature`, and the expected calibration error in percent on the other half, at temperature 1 and
            at this one, with the 95 % interval of the second less the first.

        Raises:
            ValueError: all questions are about images of one half.
        """
        generator = torch.Generator().manual_seed(0)
        order = sorted(torch.randperm(len(self.rows), generator=generator)[:FIT_QUESTIONS].tolist())
        fit = torch.from_numpy(in_first_half([self.image_ids[index] for index in order]))
        if fit.all() or not fit.any():
            raise ValueError("the temperature needs questions about more images: it is fitted on half, tested on half")
        parts = [(rows[0], part.float().cpu()) for rows, part in self._logits(order, "Fitting the temperature")]
        logits = torch.cat([part for _, part in sorted(gather_object(parts), key=itemgetter(0))])
        names, answers = self.model.config.id2label, self.rows.select(order)["answers"]
        accuracy = torch.tensor([question_score(names[i], a) for i, a in zip(logits.argmax(-1).tolist(), answers)])
        config, confidences = self.model.config, []
        config.answer_temperature = 1.0
        found = fit_temperature(logits[fit], accuracy[fit], self.model.probabilities)
        for temperature in (1.0, found):
            config.answer_temperature = temperature
            confidences.append(self.model.probabilities(logits[~fit]).amax(dim=-1).numpy())
        tested = accuracy[~fit].numpy()
        at_1, error = (round(100 * expected_calibration_error(each, tested), 2) for each in confidences)
        images = [self.image_ids[index] for index, inside in zip(order, fit.tolist()) if not inside]
        difference = error_difference(*confidences[::-1], tested, images)
        return {
            "temperature": found, "error_at_1": at_1, "error": error, "questions": len(tested),
            "difference_interval": [round(100 * edge, 2) for edge in difference],
        }  # fmt: skip

    def seen(self, dataset, split):
        """`trained_on_this_split` and `chosen_on_this_split`, True each, as far as they hold and train.py noted it."""
        splits = {"trained_on_this_split": "train_split", "chosen_on_this_split": "eval_split"}
        same = self.training.get("dataset") == dataset
        return {name: True for name, key in splits.items() if same and self.training.get(key) == split}

    def save_temperature(self):
        """Write it to the folder's `config.json`."""
        file = self.folder / "config.json"
        found = self.model.config.answer_temperature
        write_json(file, {**read_json(file), "answer_temperature": found})

    def heat_maps(self, indices):
        """For each of the rows a nested list `(rows, columns)` that sums to 1; none of a model that does not look."""
        if self.model.config.blind:
            return {}
        indices = sorted(indices, key=self.image_ids.__getitem__)
        maps = {}
        for at in tqdm(range(0, len(indices), MAP_BATCH), desc="Drawing heat maps", unit="batch"):
            part = indices[at : at + MAP_BATCH]
            batch = self.collator([self.encoded[index] for index in part])
            maps.update(zip(part, heat_map(self.model, map_inputs(self.model, batch), DEFAULT).tolist()))
        return maps

    def _kept(self, name):
        """What train.py noted in a file of the model's folder; nothing of another model, or of one from the Hub."""
        file = self.folder / name
        return read_json(file) if file.is_file() else {}

    def _logits(self, order, desc):
        """
        Pairs of row indices and their `(batch, answers)` logits. Several processes take turns with the batches, which
        are the same ones however many processes there are, so that the figures are the same as well.
        """
        batches = [order[at : at + self.batch_size] for at in range(0, len(order), self.batch_size)]
        mine = batches[self.process.process_index :: self.process.num_processes]
        loader = DataLoader(self.encoded, batch_sampler=mine, collate_fn=self.collator)
        silent = not self.process.is_local_main_process
        for batch, indices in zip(tqdm(loader, desc=desc, unit="batch", disable=silent), mine):
            batch.pop("labels")
            with torch.inference_mode():
                logits = self.model(**{name: value.to(self.model.device) for name, value in batch.items()}).logits
            yield indices, logits

"""The order in which training sees the questions."""

import random
from collections import Counter

from torch.utils.data import Sampler

BUCKET_BATCHES = 40  # sorted by length together: enough to save most padding, few enough to stay random


class QuestionSampler(Sampler):
    """
    Training questions in random order, another one every epoch.

    Args:
        rows (`datasets.Dataset`): encoded rows.
        batch_size (`int`): questions per batch.
        seed (`int`)
        questions_per_image (`int`): keep up to so many questions of an image together, since a batch encodes each
            image once; large groups save encoding, small ones make batches of more, and more varied, images.
        group_by_length (`bool`): make batches of questions of similar length, which saves padding.
        answer_sampling (`dict[str, float]`, *optional*): the share of the questions that an epoch draws, by their most
            frequent answer; all of the questions with other answers.

    Raises:
        ValueError: a share that is not in (0, 1], or both ways of grouping at once.
    """

    def __init__(self, rows, batch_size, seed, questions_per_image=1, group_by_length=False, answer_sampling=None):
        if questions_per_image > 1 and group_by_length:
            raise ValueError("group questions by image or by length, not both")
        answer_sampling = answer_sampling or {}
        check_shares(answer_sampling)
        self.batch_size, self.seed, self.epoch = batch_size, seed, 0
        self.group_size = questions_per_image
        self.image_ids = rows["image_id"][:] if questions_per_image > 1 else None
        self.lengths = rows["length"][:] if group_by_length else None
        self.pools = {None: []}  # answer to questions; None for all answers that are not sampled
        answers = map(most_frequent, rows["answers"]) if answer_sampling else [None] * len(rows)
        for question, answer in enumerate(answers):
            self.pools.setdefault(answer if answer in answer_sampling else None, []).append(question)
        self.drawn = {answer: round(answer_sampling.get(answer, 1) * len(pool)) for answer, pool in self.pools.items()}

    def __len__(self):
        return sum(self.drawn.values())

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        rng = random.Random(f"{self.seed} {self.epoch}")
        self.epoch += 1
        questions = [q for answer, pool in self.pools.items() for q in rng.sample(pool, self.drawn[answer])]
        rng.shuffle(questions)
        if self.image_ids is not None:
            return iter(self._by_image(questions, rng))
        return iter(self._by_length(questions, rng) if self.lengths is not None else questions)

    def _by_image(self, questions, rng):
        by_image = {}
        for question in questions:
            by_image.setdefault(self.image_ids[question], []).append(question)
        groups = [
            group[at : at + self.group_size]
            for group in by_image.values()
            for at in range(0, len(group), self.group_size)
        ]
        rng.shuffle(groups)
        return [question for group in groups for question in group]

    def _by_length(self, questions, rng):
        batches, bucket = [], BUCKET_BATCHES * self.batch_size
        for at in range(0, len(questions), bucket):
            alike = sorted(questions[at : at + bucket], key=self.lengths.__getitem__)
            batches += [alike[start : start + self.batch_size] for start in range(0, len(alike), self.batch_size)]
        last = batches.pop()  # the one batch that may not be full
        rng.shuffle(batches)
        return [question for batch in [*batches, last] for question in batch]


def check_shares(answer_sampling):
    """Raise `ValueError` if a share of `answer_sampling` (`dict` or None) is not in (0, 1]."""
    for answer, share in (answer_sampling or {}).items():
        if not isinstance(share, (int, float)) or not 0 < share <= 1:
            raise ValueError(f"answer_sampling: the share of {answer!r} must be in (0, 1], not {share!r}")


def most_frequent(answers):
    """The first of the most frequent answers of a question; None without any."""
    return Counter(answers).most_common(1)[0][0] if answers else None

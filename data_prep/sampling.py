"""The order in which training sees the questions."""

import random

from torch.utils.data import Sampler

BUCKET_BATCHES = 40  # sorted by length together: enough to save most padding, few enough to stay random


class QuestionSampler(Sampler):
    """
    Training questions in random order, another one every epoch.

    Args:
        rows (`datasets.Dataset`): encoded rows.
        batch_size (`int`): questions per batch, of all processes together.
        seed (`int`)
        questions_per_image (`int`): keep up to so many questions of an image together, since a batch encodes each
            image once; large groups save encoding, small ones make batches of more, and more varied, images.
        group_by_length (`bool`): make batches of questions of similar length, which saves padding.
        answer_type_sampling (`dict[str, float]`, *optional*): the share of the questions that an epoch draws, by their
            answer type; all of the other types.

    Raises:
        ValueError: a share that is not in (0, 1], or of a type that no question has, or both ways of grouping at once.
    """

    def __init__(self, rows, batch_size, seed, questions_per_image=1, group_by_length=False, answer_type_sampling=None):
        if questions_per_image > 1 and group_by_length:
            raise ValueError("group questions by image or by length, not both")
        shares = answer_type_sampling or {}
        check_shares(shares)
        self.batch_size, self.seed, self.epoch = batch_size, seed, 0
        self.group_size = questions_per_image
        self.image_ids = rows["image_id"][:] if questions_per_image > 1 else None
        self.lengths = rows["length"][:] if group_by_length else None
        self.pools = {}  # answer type to questions
        for question, answer_type in enumerate(rows["answer_type"][:] if shares else [None] * len(rows)):
            self.pools.setdefault(answer_type, []).append(question)
        if unknown := shares.keys() - self.pools.keys():
            known = ", ".join(sorted(self.pools))
            raise ValueError(f"answer_type_sampling: no question is of type {min(unknown)!r}, only of {known}")
        self.drawn = {kind: max(1, round(shares.get(kind, 1) * len(pool))) for kind, pool in self.pools.items()}

    def __len__(self):
        return sum(self.drawn.values())

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        rng = random.Random(f"{self.seed} {self.epoch}")
        self.epoch += 1
        questions = [q for kind, pool in self.pools.items() for q in rng.sample(pool, self.drawn[kind])]
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


def check_shares(answer_type_sampling):
    """Raise `ValueError` if a share of `answer_type_sampling` (`dict` or None) is not in (0, 1]."""
    for answer_type, share in (answer_type_sampling or {}).items():
        if not isinstance(share, (int, float)) or not 0 < share <= 1:
            raise ValueError(f"answer_type_sampling: the share of {answer_type!r} must be in (0, 1], not {share!r}")

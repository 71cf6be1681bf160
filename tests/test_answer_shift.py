"""Training parts that were chosen by their answers: how far each answer's log odds are off."""

import pytest
import torch
from datasets import Dataset
from toy_model import tiny_config

from vqafusion.data_prep import DataError
from vqafusion.data_prep.answer_shift import answer_shifts
from vqafusion.modeling_vqafusion import VqaFusionForVisualQuestionAnswering
from vqafusion.trainer import VqaTrainer, VqaTrainingArguments

YES, NO, WHITE, KITE = range(4)


def rows(*parts):
    """Encoded rows; a part is (questions, provenance, answer type, question type, label)."""
    listed = [part[1:] for part in parts for _ in range(part[0])]
    provenance, answer_types, question_types, labels = zip(*listed)
    return Dataset.from_dict(
        {
            "provenance": provenance,
            "answer_type": answer_types,
            "question_type": question_types,
            "label_ids": [[label] for label in labels],
            "label_scores": [[1.0] for _ in labels],
        }
    )


PARTS = (
    (5000, "whole", "yes/no", "is the", YES), (5000, "whole", "yes/no", "is the", NO),
    (9000, "said yes", "yes/no", "is the", YES), (1000, "said yes", "yes/no", "is the", NO),
    (3000, "whole", "yes/no", "are", YES), (7000, "whole", "yes/no", "are", NO),
    (3000, "said yes", "yes/no", "are", YES), (7000, "said yes", "yes/no", "are", NO),
    (9000, "whole", "other", "what", WHITE), (1000, "whole", "other", "what", KITE),
    (500, "balanced", "other", "what is", WHITE), (500, "balanced", "other", "what is", KITE),
)  # fmt: skip


def test_shifts_are_differences_of_log_odds_by_type():
    table, of_question = answer_shifts(rows(*PARTS), ["whole"], 4)
    starts = [sum(part[0] for part in PARTS[:at]) for at in range(len(PARTS))]
    shift = {part[1:4]: table[of_question[start]] for part, start in zip(PARTS, starts)}
    nine = torch.tensor(9.0).log()
    for kind in (("yes/no", "is the"), ("yes/no", "are"), ("other", "what")):
        assert shift["whole", *kind].eq(0).all()
    torch.testing.assert_close(
        shift["said yes", "yes/no", "is the"][:2], torch.tensor([nine, -nine]), atol=0.05, rtol=0
    )
    assert shift["said yes", "yes/no", "are"].abs().max() < 0.05  # chosen by type: this one is complete
    other = shift["balanced", "other", "what is"]  # by answer type, though the reference never asks "what is"
    torch.testing.assert_close(other[2:], torch.tensor([-nine, nine]), atol=0.2, rtol=0)
    assert other[:2].abs().max() < 1e-6  # answers that neither part has


def test_few_questions_shift_little():
    few = rows((1000, "whole", "other", "what", WHITE), (2, "kites", "other", "what", KITE))
    table, of_question = answer_shifts(few, ["whole"], 4)
    assert 0 < table[of_question[-1]][KITE] < 4 and table.isfinite().all()
    rare = rows(*PARTS[:4], (1, "said yes", "yes/no", "can", YES))
    table, of_question = answer_shifts(rare, ["whole"], 4)
    assert 1.5 < table[of_question[-1]][YES] < 3  # nearly as its part's other questions, whose shift is 2.2
    said = {"whole": 1.0, "kites": 0.3}  # by one of ten people
    unsure = rows(*((1000, part, "other", "what", KITE) for part in said))
    table, of_question = answer_shifts(
        unsure.map(lambda row: {"label_scores": [said[row["provenance"]]]}), ["whole"], 4
    )
    assert table[of_question[-1]][KITE] < -1


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(DataError, match="provenance hole; known: balanced, said yes, whole"):
        answer_shifts(rows(*PARTS), ["hole"], 4)
    with pytest.raises(DataError, match="leave out --reference_provenance"):
        answer_shifts(rows(*PARTS), ["whole", "said yes", "balanced"], 4)
    with pytest.raises(DataError, match="known: none"):
        answer_shifts(rows((1, "", "other", "what", KITE)), ["whole"], 4)


def test_training_with_shifts_unlearns_what_a_part_was_chosen_by(tmp_path):
    """Half the questions have "yes" nine times in ten, half, the reference, five times; the model must say half."""
    torch.manual_seed(0)
    model = VqaFusionForVisualQuestionAnswering(tiny_config(num_labels=2, blind=True, dropout=0.0))
    labels = [YES] * 5 + [NO] * 5 + [YES] * 9 + [NO]
    table = torch.tensor([[0.0, 0.0], [9.0, 1 / 9]]).log().nan_to_num(neginf=0.0)
    shift = torch.tensor([0] * 10 + [1] * 10)
    batch = {
        "input_ids": torch.ones(20, 3, dtype=torch.long),
        "attention_mask": torch.ones(20, 3, dtype=torch.long),
        "labels": torch.nn.functional.one_hot(torch.tensor(labels), 2).float(),
    }
    args = VqaTrainingArguments(
        output_dir=str(tmp_path), max_steps=100, learning_rate=0.02, eval_strategy="no", save_strategy="no",
        load_best_model_at_end=False, report_to=[], disable_tqdm=True, per_device_train_batch_size=20,
    )  # fmt: skip
    for given, said in ((batch | {"answer_shifts": table[shift]}, 0.5), (batch, 0.7)):
        trainer = VqaTrainer(model, args, train_dataset=[{}] * 20)
        trainer.train_collator = lambda rows, given=given: given
        trainer.train()
        says = model.eval()(batch["input_ids"][:1], batch["attention_mask"][:1]).logits.sigmoid()[0]
        assert abs(says[YES] - said) < 0.03 and abs(says[NO] - (1 - said)) < 0.03

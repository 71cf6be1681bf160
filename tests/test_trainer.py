"""Learning rates by part, precision by processor, order, losses, arguments that are refused."""

import tempfile

import pytest
import torch
from datasets import Dataset
from toy_model import tiny_config

from vqafusion import VqaFusionForVisualQuestionAnswering
from vqafusion.trainer import VqaTrainer, VqaTrainingArguments

UNUSED = tempfile.gettempdir()


def test_learning_rates_by_part():
    model = VqaFusionForVisualQuestionAnswering(tiny_config(freeze_vision=False))
    args = VqaTrainingArguments(
        output_dir=UNUSED, learning_rate=1e-3, text_learning_rate=1e-5, vision_learning_rate=1e-6,
        weight_decay=0.1, eval_strategy="no",
        load_best_model_at_end=False, save_strategy="no",
    )  # fmt: skip
    optimizer = VqaTrainer(model=model, args=args).create_optimizer()
    found = {id(p): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}
    text, fusion = model.vqafusion.text_model, model.vqafusion.fusion_layers[0].question_to_image
    assert found[id(text.transformer.layer[0].ffn.lin1.weight)] == (1e-5, 0.1)
    assert found[id(text.transformer.layer[0].ffn.lin1.bias)] == (1e-5, 0.0)
    assert found[id(model.vqafusion.vision_model.embeddings.patch_embedding.weight)] == (1e-6, 0.1)
    assert found[id(fusion.attention.query.weight)] == (1e-3, 0.1) and found[id(fusion.norm.weight)] == (1e-3, 0.0)
    trainable = [p for p in model.parameters() if p.requires_grad]
    assert len(found) == len(trainable) == sum(len(group["params"]) for group in optimizer.param_groups)
    assert isinstance(optimizer, torch.optim.AdamW)
    args.text_learning_rate, args.vision_learning_rate = 0.0, None
    groups = VqaTrainer(model=model, args=args).create_optimizer().param_groups
    assert {group["part"]: group["lr"] for group in groups} == {"text": 0.0, "vision": 1e-3, "fusion": 1e-3}


def test_a_given_optimizer_keeps_its_rates():
    model = VqaFusionForVisualQuestionAnswering(tiny_config())
    args = VqaTrainingArguments(output_dir=UNUSED, learning_rate=1e-3, report_to=[])
    given = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    trainer = VqaTrainer(model, args, eval_dataset=[0], optimizers=(given, None))
    assert trainer.create_optimizer() is given and [group["lr"] for group in given.param_groups] == [0.5]


def test_evaluation_keeps_the_order_of_the_data_set():
    rows = Dataset.from_dict({"length": [9, 1, 5, 3, 7, 2], "answers": [["a"]] * 6, "image_id": list("aabbcc")})
    args = VqaTrainingArguments(
        output_dir=UNUSED, train_sampling_strategy="group_by_length", per_device_eval_batch_size=2,
        eval_strategy="no", save_strategy="no", load_best_model_at_end=False,
    )  # fmt: skip
    trainer = VqaTrainer(model=VqaFusionForVisualQuestionAnswering(tiny_config()), args=args, data_collator=list)
    trainer.train_dataset = rows
    assert [row["length"] for batch in trainer.get_eval_dataloader(rows) for row in batch] == rows["length"][:]
    assert sorted(row["length"] for batch in trainer.get_train_dataloader() for row in batch) == [1, 2, 3, 5, 7, 9]


def test_a_stream_is_collated_for_training():
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            yield from ()

    args = VqaTrainingArguments(output_dir=UNUSED, eval_strategy="no", load_best_model_at_end=False, max_steps=1)
    trainer = VqaTrainer(VqaFusionForVisualQuestionAnswering(tiny_config()), args, train_dataset=Stream())
    trainer.train_collator = list
    assert trainer.get_train_dataloader().collate_fn is list


def test_the_order_of_training_is_what_the_arguments_say():
    rows = Dataset.from_dict({"image_id": list("aabb"), "answer_type": ["yes/no", "number"] * 2})
    args = VqaTrainingArguments(
        output_dir=UNUSED, data_seed=7, questions_per_image=2, answer_type_sampling={"number": 0.5}, report_to=[]
    )  # fmt: skip
    trainer = VqaTrainer(VqaFusionForVisualQuestionAnswering(tiny_config()), args, eval_dataset=[0])
    sampler = trainer._get_train_sampler(rows)
    assert (sampler.seed, sampler.group_size, sampler.drawn) == (7, 2, {"yes/no": 2, "number": 1})
    trainer.args.data_seed, trainer.args.seed = None, 5
    assert trainer._get_train_sampler(rows).seed == 5


@pytest.mark.parametrize("shifted", [False, True])
def test_the_alignment_loss_is_in_every_training_loss(shifted):
    torch.manual_seed(0)
    model = VqaFusionForVisualQuestionAnswering(tiny_config(alignment_weight=0.5, dropout=0.0)).train()
    model.vqafusion.text_model.eval()
    labels, shifts = torch.rand(3, 6), torch.rand(3, 6) if shifted else torch.zeros(3, 6)
    inputs = {"input_ids": torch.randint(5, 200, (3, 7)), "image_states": torch.randn(3, 17, 32), "labels": labels}
    args = VqaTrainingArguments(output_dir=UNUSED, report_to=[])
    given = inputs | ({"answer_shifts": shifts} if shifted else {})
    loss, output = VqaTrainer(model, args, eval_dataset=[0]).compute_loss(model, given, return_outputs=True)
    assert output.alignment_loss > 0
    torch.testing.assert_close(loss, model.answer_loss(output.logits + shifts, labels) + output.alignment_loss)


@pytest.mark.parametrize(
    "changes",
    [
        {"label_smoothing_factor": 0.1},
        {"remove_unused_columns": True},
        {"train_sampling_strategy": "sequential"},
        {"train_sampling_strategy": "group_by_length", "questions_per_image": 2},
        {"num_teachers": -1},
        {"teacher_weight": 0},
        {"teacher_weight": 1.5},
        {"prediction_loss_only": True},
        {"eval_do_concat_batches": False},
        {"accelerator_config": {"dispatch_batches": True}},
        {"not_finite": "go on"},
        {"per_device_train_batch_size": 0},
    ],
)
def test_arguments_that_do_not_fit_are_refused(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        VqaTrainingArguments(output_dir=UNUSED, **changes)


def test_the_best_checkpoint_has_the_least_loss_or_the_highest_score(tmp_path):
    assert VqaTrainingArguments(str(tmp_path)).load_best_model_at_end
    for metric, greater in (("loss", False), ("eval_loss", False), ("overall", True), ("yes/no", True)):
        assert VqaTrainingArguments(str(tmp_path), metric_for_best_model=metric).greater_is_better is greater


@pytest.mark.parametrize("capabilities,expected", [({"avx512_bf16": True}, True), ({"avx2": True}, False), ({}, False)])
def test_bfloat16_only_where_the_processor_has_it(monkeypatch, capabilities, expected):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: capabilities)
    args = VqaTrainingArguments(output_dir=UNUSED, bf16_where_fast=True)
    assert args.bf16 is expected and not VqaTrainingArguments(output_dir=UNUSED).bf16
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)  # but not asked for
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda **how: True)
    assert VqaTrainingArguments(output_dir=UNUSED, bf16_where_fast=True, use_cpu=True).bf16 is expected

"""Which checkpoints and teachers a run goes on with."""

import json
from types import SimpleNamespace

import pytest
import torch
from toy_data import rows_of
from toy_model import tiny_config
from transformers import TrainerState

from vqafusion.resuming import RunData, check_checkpoint, check_goes_on, check_teacher, checkpoint


def test_a_run_with_teachers_goes_on_or_is_refused(tmp_path):
    with pytest.raises(ValueError, match="there is no checkpoint"):
        checkpoint("True", tmp_path)
    (tmp_path / "teachers" / "0").mkdir(parents=True)
    assert checkpoint(None, tmp_path) is None  # one that failed before its training
    (tmp_path / "teachers" / "0" / "trainer_state.json").touch()
    assert checkpoint("True", tmp_path) is None
    for no in (None, "False", False):
        with pytest.raises(ValueError, match="teachers/0/trainer_state.json of another run"):
            checkpoint(no, tmp_path)
    (tmp_path / "teachers" / "0" / "trainer_state.json").unlink()
    (tmp_path / "teachers" / "0" / "checkpoint-4").mkdir()
    with pytest.raises(ValueError, match="teachers/0/checkpoint-4 of another run"):
        checkpoint(None, tmp_path)


def test_the_checkpoint_that_is_named_is_taken(tmp_path):
    assert checkpoint("auto", tmp_path) is None
    named = tmp_path / "checkpoint-4"
    named.mkdir()
    (tmp_path / "checkpoint-6").mkdir()
    assert checkpoint(str(named), tmp_path) == str(named)


@pytest.fixture
def whole(tmp_path):
    """A checkpoint's folder, as far as it is looked into."""
    for name in ("scheduler.pt", "optimizer.pt", "rng_state.pth"):
        torch.save({"a": torch.arange(1000)}, tmp_path / name)
    (tmp_path / "trainer_state.json").write_text("{}")
    tiny_config().save_pretrained(tmp_path)
    check_checkpoint(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["scheduler.pt", "optimizer.pt", "rng_state.pth", "trainer_state.json"])
def test_a_checkpoint_that_lacks_something_is_refused(whole, name):
    (whole / name).unlink()
    with pytest.raises(ValueError, match=f"lacks {name.split('.')[0]}"):
        check_checkpoint(whole)
    with pytest.raises(ValueError, match="there is no checkpoint .* here"):
        check_checkpoint(whole / "nowhere")


@pytest.mark.parametrize("name", ["optimizer.pt", "rng_state.pth", "config.json"])
@pytest.mark.parametrize("cut", [True, False])
def test_a_damaged_checkpoint_is_refused(whole, name, cut):
    data = (whole / name).read_bytes()
    at = len(data) // 2 if cut or name != "config.json" else 0  # in the middle of a JSON may be a text, where all goes
    (whole / name).write_bytes(data[:at] + (b"" if cut else b"}}}}" + data[at + 4 :]))
    with pytest.raises(ValueError, match=f"{name} is damaged .*: remove .*, to go on from the one before"):
        check_checkpoint(whole)


def test_weights_of_other_encoders_are_refused(tmp_path):
    check_goes_on(tmp_path, SimpleNamespace(), tiny_config())  # pieces of FSDP have no configuration
    tiny_config().save_pretrained(tmp_path)
    check_goes_on(tmp_path, SimpleNamespace(), tiny_config())
    for kind, layers in (("vision", "num_hidden_layers"), ("text", "n_layers")):
        config = tiny_config()
        setattr(getattr(config, f"{kind}_config"), layers, 7)
        with pytest.raises(ValueError, match=f"another {kind} encoder"):
            check_goes_on(tmp_path, SimpleNamespace(), config)


@pytest.mark.parametrize(
    "name",
    [
        "dataset", "seed", "num_train_epochs", "max_steps", "learning_rate", "text_learning_rate",
        "vision_learning_rate", "answer_type_sampling", "reference_provenance",
    ],
)  # fmt: skip
def test_a_teacher_of_other_arguments_is_refused(tmp_path, name):
    (tmp_path / "training.json").write_text(json.dumps({name: "a", "output_dir": "b"}))
    check_teacher(tmp_path, {name: "a", "output_dir": "c"})
    with pytest.raises(ValueError, match=f"was trained with --{name} a, not b"):
        check_teacher(tmp_path, {name: "b"})


def test_a_run_goes_on_with_the_questions_it_was_begun_with(tmp_path):
    rows, others = rows_of([["cat"] * 10] * 8), rows_of([["cat"] * 10] * 7 + [["dog"] * 10])
    args, model = SimpleNamespace(metric_for_best_model="overall"), SimpleNamespace(image_size=None)
    begun = RunData(args, model, rows, others)
    state = {"global_step": 3, "stateful_callbacks": {"RunData": begun.state()}}
    (tmp_path / "trainer_state.json").write_text(json.dumps(state))
    RunData(args, model, rows.select(range(8)), others).check(tmp_path)
    for changed, words in (
        (RunData(args, model, rows.select([1, 0, *range(2, 8)]), others), "other training questions"),
        *(
            (RunData(args, model, rows.map(lambda row, name=name: {name: "x"}), others), "other training questions")
            for name in ("image_id", "question")
        ),
        (RunData(args, model, rows, rows), "other evaluation questions"),
        (
            RunData(SimpleNamespace(metric_for_best_model="loss"), model, rows, others),
            "--metric_for_best_model overall",
        ),
        (RunData(args, SimpleNamespace(image_size=64), rows, others), "--image_size None"),
    ):
        with pytest.raises(ValueError, match=words):
            changed.check(tmp_path)
    del state["stateful_callbacks"]["RunData"]["attributes"]["image_size"]  # of an earlier version
    (tmp_path / "trainer_state.json").write_text(json.dumps(state))
    begun.check(tmp_path)
    (tmp_path / "trainer_state.json").write_text('{"global_step": 3}')  # of an even earlier one
    begun.check(tmp_path)
    older = TrainerState()
    begun.on_train_begin(None, older, None)
    assert older.stateful_callbacks["RunData"] == {}  # a place that `Trainer` looks up before it fills it
    (tmp_path / "trainer_state.json").write_text("[]")
    with pytest.raises(ValueError, match="does not hold a training's state"):
        begun.check(tmp_path)

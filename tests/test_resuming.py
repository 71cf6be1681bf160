"""Which checkpoints and teachers a run goes on with."""

import json
from types import SimpleNamespace

import pytest
from toy_data import rows_of
from transformers import TrainerState

from vqafusion.resuming import RunData, checkpoint


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


def test_a_run_goes_on_with_the_questions_it_was_begun_with(tmp_path):
    rows, others = rows_of([["cat"] * 10] * 8), rows_of([["cat"] * 10] * 7 + [["dog"] * 10])
    args = SimpleNamespace(metric_for_best_model="overall")
    begun = RunData(args, rows, others)
    state = {"global_step": 3, "stateful_callbacks": {"RunData": begun.state()}}
    (tmp_path / "trainer_state.json").write_text(json.dumps(state))
    RunData(args, rows.select(range(8)), others).check(tmp_path)
    for changed, words in (
        (RunData(args, rows.select([1, 0, *range(2, 8)]), others), "other training questions"),
        (RunData(args, rows, rows), "other evaluation questions"),
        (RunData(SimpleNamespace(metric_for_best_model="loss"), rows, others), "--metric_for_best_model overall"),
    ):
        with pytest.raises(ValueError, match=words):
            changed.check(tmp_path)
    (tmp_path / "trainer_state.json").write_text('{"global_step": 3}')  # of an earlier version
    begun.check(tmp_path)
    older = TrainerState()
    begun.on_train_begin(None, older, None)
    assert older.stateful_callbacks["RunData"] == {}  # a place that `Trainer` looks up before it fills it
    (tmp_path / "trainer_state.json").write_text("[]")
    with pytest.raises(ValueError, match="does not hold a training's state"):
        begun.check(tmp_path)

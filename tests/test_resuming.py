"""Which checkpoints and teachers a run goes on with."""

import pytest

from vqafusion.resuming import checkpoint


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

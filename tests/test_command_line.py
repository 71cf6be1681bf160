"""Arguments, recipes, and errors in one line."""

import shutil
import sys

import pytest
from commands import run

from vqafusion.command_line import one_line_errors, parse
from vqafusion.trainer import VqaTrainingArguments


def test_recipes_and_what_is_printed_need_no_setting_of_the_language(trained, tmp_path):
    recipe = (trained / "recipe.yaml").read_text()
    (tmp_path / "recipe.yaml").write_text(f"# Größe – 日本\n{recipe}", encoding="utf-8")
    shutil.copyfile(trained / "base.yaml", tmp_path / "base.yaml")
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    result = run("train.py", tmp_path / "recipe.yaml", "--help", start=(sys.executable, "-X", "utf8=0"), **ascii_only)
    assert result.returncode == 0 and "--learning_rate" in result.stdout


def test_a_recipe_says_no_as_yaml_understands_it(tmp_path):
    (tmp_path / "base.yaml").write_text("learning_rate: 5\nnum_train_epochs: 7\n")
    (tmp_path / "recipe.yaml").write_text(
        "base: base.yaml\neval_strategy: no\nload_best_model_at_end: no\nlearning_rate: 1e-3\n"
    )
    (args,) = parse([str(tmp_path / "recipe.yaml"), "--output_dir", str(tmp_path)], "", VqaTrainingArguments)
    assert args.eval_strategy == "no" and args.load_best_model_at_end is False and args.learning_rate == 1e-3
    assert args.num_train_epochs == 7  # from the base, whose learning rate it overrides
    (tmp_path / "recipe.yaml").write_text("reference_provenance: real\n")  # not its letters
    (args,) = parse([str(tmp_path / "recipe.yaml"), "--output_dir", str(tmp_path)], "", VqaTrainingArguments)
    assert args.reference_provenance == ["real"]


@pytest.mark.parametrize(
    "error, code, said",
    [
        (ValueError("Caught DataError in DataLoader worker process 0.\nTraceback:\n…\nx.DataError: no a.png"),
         2, "error: no a.png"),
        (OSError("no\nroom"), 2, "error: no room"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)  # fmt: skip
def test_what_went_wrong_is_one_line(error, code, said, capsys):
    @one_line_errors
    def main(argv):
        raise error

    with pytest.raises(SystemExit) as stop:
        main([])
    assert (stop.value.code, capsys.readouterr().err) == (code, said + "\n")

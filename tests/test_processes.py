"""train.py and eval.py on one, two and three processes, and with FSDP: the same figures."""

import json
import subprocess
import sys
from functools import cache

import forks
import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from commands import ROOT, TINY
from conftest import free_port
from safetensors.torch import load_file
from toy_data import draw
from transformers import AutoModelForVisualQuestionAnswering

COLOURS = ("red", "blue", "green", "yellow")
BATCH, STEPS = 12, 50


def write(file, rows):
    """Questions about drawn pictures: their colour, and whether they are red."""
    with file.open("w") as lines:
        for number in range(rows):
            colour = COLOURS[number * 7 % 4]
            question, answer = (
                ("what color is it?", colour) if number % 3 else ("is it red?", "yes" if colour == "red" else "no")
            )
            row = {"image": f"{colour}{number % 5}.png", "question": f"{question} {number % 5}", "answer": answer}
            lines.write(json.dumps(row | {"answer_type": "other" if number % 3 else "yes/no"}) + "\n")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """`trained(processes, *arguments)`: the folder of a model that was trained so."""
    folder = tmp_path_factory.mktemp("processes")
    for colour in COLOURS:
        for number in range(5):
            draw(colour).save(folder / f"{colour}{number}.png")
    write(folder / "train.jsonl", 10 * BATCH)
    write(folder / "dev.jsonl", 31)  # neither two nor three processes divide it
    still = {"dropout": 0.0, "attention_dropout": 0.0}
    recipe = TINY | {
        "dataset": "own", "data_dir": str(folder), "train_split": "train.jsonl", "eval_split": "dev.jsonl",
        "alignment_weight": 0.0,  # which compares the images of one process's batch
        "dropout": 0.0, "text_config": TINY["text_config"] | still, "max_steps": STEPS, "logging_steps": 1,
        "questions_per_image": 1, "train_sampling_strategy": "group_by_length", "per_device_eval_batch_size": 4,
        "report_to": "none", "lr_scheduler_type": "constant",  # so that few steps are the first ones of many
    }  # fmt: skip
    (folder / "recipe.json").write_text(json.dumps(recipe))

    @cache
    def train(processes, *arguments):
        output = folder / f"model{len(list(folder.glob('model*')))}"
        run(processes, "train.py", folder / "recipe.json", "--output_dir", output,
            "--per_device_train_batch_size", BATCH // processes, *arguments)  # fmt: skip
        return output

    return train


def run(processes, script, *arguments):
    command = [sys.executable, ROOT / script, *arguments]
    environment = forks.usual_environment() | {"OMP_NUM_THREADS": "1"}
    done = forks.run(command, ROOT, environment, processes=processes)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def test_two_hosts_meet_at_an_address(trained, tmp_path):
    one = trained(1)
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", 2, "--nproc_per_node", 1]
    command += ["--rdzv_backend", "c10d", "--rdzv_endpoint", f"127.0.0.1:{free_port()}", "--rdzv_id", "test"]
    command += [ROOT / "train.py", one.parent / "recipe.json", "--output_dir", tmp_path / "model"]
    command += ["--per_device_train_batch_size", BATCH // 2, "--max_steps", 5]
    hosts = [
        subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for host in hosts:
        said = host.communicate(timeout=300)[1]
        assert host.returncode == 0, said[-3000:]
    torch.testing.assert_close(logged(tmp_path / "model", "loss"), logged(one, "loss")[:5], atol=1e-4, rtol=0)


@pytest.mark.parametrize("file", sorted((ROOT / "recipes" / "accelerate").iterdir()), ids=lambda file: file.name)
def test_accelerate_understands_its_recipes(file):
    config = load_config_from_file(str(file))
    assert config.num_processes == 2 and config.mixed_precision == "bf16"
    assert config.distributed_type.value in ("MULTI_GPU", "FSDP", "DEEPSPEED")


def logged(folder, name):
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return torch.tensor([entry[name] for entry in history if name in entry], dtype=torch.float64)


def scores(file):
    kept = ("overall", "per_answer_type", "top_5", "questions", "calibration", "intervals", "temperature")
    metrics = json.loads(file.read_text())
    return {name: metrics[name] for name in kept if name in metrics}


@pytest.mark.parametrize("processes", [2, 3])
def test_losses_and_scores_are_those_of_one_process(trained, processes):
    one, several = trained(1), trained(processes)
    losses = logged(one, "loss")
    assert len(losses) == STEPS and losses[-1] < losses[0] - 0.5
    torch.testing.assert_close(logged(several, "loss"), losses, atol=1e-4, rtol=0)
    for name in ("eval_overall", "eval_top_5", "eval_yes/no", "eval_other"):
        assert logged(several, name).tolist() == logged(one, name).tolist()
    assert scores(several / "metrics.json") == scores(one / "metrics.json")


def test_evaluation_is_shared_and_its_figures_stay_the_same(trained, tmp_path):
    model, results = trained(1), {}
    for processes in (1, 2, 3):
        output = tmp_path / str(processes)
        run(processes, "eval.py", "--model", model, "--dataset", "own", "--data_dir", model.parent, "--split",
            "dev.jsonl", "--output_dir", output, "--batch_size", 4, "--fit_temperature", "True")  # fmt: skip
        results[processes] = scores(output / "metrics.json"), (output / "answers.jsonl").read_text()
        config = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps(config | {"answer_temperature": 1.0}))
    assert results[1] == results[2] == results[3] and results[1][0]["questions"] == 31


def test_fsdp_trains_and_one_process_loads_what_it_saved(trained):
    one, sharded = trained(1), trained(2, "--fsdp")
    torch.testing.assert_close(logged(sharded, "loss"), logged(one, "loss"), atol=1e-4, rtol=0)
    assert list(sharded.glob("checkpoint-*/pytorch_model_fsdp.bin"))  # it was FSDP that saved
    model = AutoModelForVisualQuestionAnswering.from_pretrained(sharded, trust_remote_code=True)
    expected = load_file(one / "model.safetensors")
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, expected[name], atol=1e-3, rtol=1e-3)


def test_answers_are_looked_for_on_two_processes_but_not_with_fsdp(trained):
    steps = ("--alignment_weight", 0.3, "--max_steps", 5)
    looked = load_file(trained(2, *steps) / "model.safetensors")
    assert looked["shown_answers.words"].any() and looked["shown_answers.usual"].any()
    sharded = load_file(trained(2, *steps, "--fsdp") / "model.safetensors")
    assert not sharded["shown_answers.words"].any() and sharded["shown_answers.usual"].isfinite().all()


def test_two_processes_train_what_has_parameters_without_gradients(trained):
    losses = logged(trained(2, "--blind", "True", "--gradient_checkpointing", "True", "--max_steps", 3), "loss")
    assert len(losses) == 3 and losses.isfinite().all()


def test_two_processes_learn_from_a_teacher(trained):
    model = trained(2, "--num_teachers", 1, "--max_steps", 20)
    assert (model / "teachers" / "0" / "model.safetensors").exists()
    losses = logged(model, "loss")
    assert len(losses) == 20 and losses[-1] < losses[0]

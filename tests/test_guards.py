"""What keeps a run whole, by breaking it: signals, numbers that are not finite, full disks, two runs at once."""

import json
import os
import resource
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from toy_data import draw
from toy_model import QUESTIONS, tiny_config
from transformers import TrainerCallback

from vqafusion import VqaFusionForVisualQuestionAnswering
from vqafusion.command_line import remove_orphans, whole_file, write_json
from vqafusion.data_prep.encode import VqaCollator
from vqafusion.guards import SAVING, StopAtSignal, Stopped, only_run_in
from vqafusion.trainer import VqaTrainer, VqaTrainingArguments


@pytest.fixture
def make(processor, tmp_path):
    """
    A trainer of 6 steps with a checkpoint after every second, in `tmp_path / name`: blind, or of moved pictures.
    """

    def make(name="run", blind=True, **changes):
        torch.manual_seed(0)
        ids = processor.tokenizer([QUESTIONS[n % 3] for n in range(24)])["input_ids"]
        images = [None if blind else draw(color) for color in ("red", "blue", "gray")]
        rows = [
            {"input_ids": each, "length": len(each), "image_id": str(n), "image": images[n % 3],
             "answers": ["red"] * 10, "label_ids": [n % 6], "label_scores": [1.0], "question_id": n}
            for n, each in enumerate(ids)
        ]  # fmt: skip
        args = VqaTrainingArguments(**{
            "output_dir": str(tmp_path / name), "max_steps": 6, "save_strategy": "steps", "save_steps": 2,
            "eval_strategy": "no", "load_best_model_at_end": False, "per_device_train_batch_size": 4,
            "learning_rate": 1e-3, "logging_steps": 1, "report_to": "none", "disable_tqdm": True, **changes,
        })  # fmt: skip
        model = VqaFusionForVisualQuestionAnswering(tiny_config(blind=blind))
        return VqaTrainer(
            model=model, args=args, train_dataset=Dataset.from_list(rows), eval_dataset=Dataset.from_list(rows[:5]),
            data_collator=VqaCollator(processor, 6, flip=True, max_shift=4, blind=blind),
        )  # fmt: skip

    return make


class AtStep(TrainerCallback):
    def __init__(self, step, act):
        self.step, self.act = step, act

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.act()


def checkpoints(trainer):
    return sorted(os.listdir(trainer.args.output_dir))


def saved_weights(trainer, step):
    return load_file(f"{trainer.args.output_dir}/checkpoint-{step}/model.safetensors")


def evaluated_at(trainer):
    return [entry["step"] for entry in trainer.state.log_history if "eval_loss" in entry]


def scored(make, scores, *name, **changes):
    """A trainer of 8 steps, each second of which is evaluated, with these scores; the best one is kept."""
    usual = {
        "eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": True, "metric_for_best_model": "overall",
        "max_steps": 8,
    }  # fmt: skip
    trainer, each = make(*name, **usual | changes), iter(scores)
    trainer.compute_metrics = lambda prediction: {"overall": next(each)}
    return trainer


@pytest.mark.parametrize("received, blind", [(signal.SIGTERM, True), (signal.SIGINT, False)])
def test_a_signal_saves_and_the_run_goes_on_to_the_same_weights(make, received, blind):
    before = signal.getsignal(received)
    whole = make("whole", blind)
    whole.train()
    stopped = make("stopped", blind)
    stopped.add_callback(AtStep(2, lambda: os.kill(os.getpid(), received)))
    with pytest.raises(Stopped, match=f"{received.name} after step 3, saved; .*--resume_from_checkpoint True") as stop:
        stopped.train()
    assert stop.value.received == received and signal.getsignal(received) == before
    assert checkpoints(stopped) == ["checkpoint-3"]
    resumed = make("stopped", blind)
    resumed.train(resume_from_checkpoint=f"{stopped.args.output_dir}/checkpoint-3")
    expected, found = saved_weights(whole, 6), saved_weights(resumed, 6)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_run_that_goes_back_keeps_its_own_checkpoints(make):
    make(save_total_limit=9).train()
    trainer = make(save_total_limit=1, max_steps=4)
    trainer.train(resume_from_checkpoint=f"{trainer.args.output_dir}/checkpoint-2")
    assert checkpoints(trainer) == ["checkpoint-4"]  # not the 6 of the run that it went back behind


def test_a_signal_saves_though_nobody_reads_what_is_said(make, monkeypatch):
    def no_reader(*written):
        raise BrokenPipeError

    trainer = make()
    monkeypatch.setattr("vqafusion.guards.os.write", no_reader)
    trainer.add_callback(AtStep(1, lambda: os.kill(os.getpid(), signal.SIGINT)))
    with pytest.raises(Stopped):
        trainer.train()
    assert checkpoints(trainer) == ["checkpoint-2"]


def test_a_signal_in_the_last_step_of_an_epoch_costs_no_evaluation(make):
    epochs = {"eval_strategy": "epoch", "save_strategy": "epoch", "max_steps": 12, "metric_for_best_model": "loss"}
    whole = make("whole", **epochs)
    whole.train()
    stopped = make("stopped", **epochs)
    stopped.add_callback(AtStep(5, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    with pytest.raises(Stopped, match="after step 6"):
        stopped.train()
    resumed = make("stopped", **epochs)
    resumed.train(resume_from_checkpoint=f"{stopped.args.output_dir}/checkpoint-6")
    for trainer in (whole, resumed):
        assert evaluated_at(trainer) == [6, 12]
    expected, found = saved_weights(whole, 12), saved_weights(resumed, 12)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    hurried = make("hurried", **epochs)
    hurried.add_callback(AtStep(3, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    with pytest.raises(Stopped, match="after step 4"):
        hurried.train()
    assert evaluated_at(hurried) == []  # within an epoch there is none to be lost, and no time to lose


def test_a_second_ctrl_c_stops_at_once(make):
    trainer = make()
    trainer.add_callback(AtStep(1, lambda: [os.kill(os.getpid(), signal.SIGINT) for _ in range(2)]))
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert checkpoints(trainer) == []


def test_a_second_sigterm_costs_no_checkpoint(make):
    trainer = make()
    trainer.add_callback(AtStep(1, lambda: [os.kill(os.getpid(), signal.SIGTERM) for _ in range(2)]))
    with pytest.raises(Stopped):
        trainer.train()
    assert checkpoints(trainer) == ["checkpoint-2"]


def test_a_signal_to_one_process_stops_all():
    def gather(mine):
        return torch.cat([mine, torch.tensor([signal.SIGTERM])])

    callback = StopAtSignal(SimpleNamespace(num_processes=2, device="cpu", gather=gather))
    control, state = SimpleNamespace(should_save=False), SimpleNamespace(global_step=3)
    callback.on_step_end(SimpleNamespace(eval_strategy="steps"), state, control)
    assert control.should_save
    with pytest.raises(Stopped, match="SIGTERM after step 3"):
        callback.on_save(None, state, control)


def test_numbers_that_are_not_finite_stop_the_run_before_they_reach_the_weights(make):
    trainer = make()
    weight = trainer.model.classifier[-1].weight

    def poison():
        with torch.no_grad():
            trainer.model.classifier[-1].bias[0] = float("nan")

    trainer.add_callback(AtStep(3, poison))
    with pytest.raises(ValueError, match="not finite at step 4.*not_finite.json.*--not_finite skip"):
        trainer.train()
    told = json.loads(Path(trainer.args.output_dir, "not_finite.json").read_text())
    questions = [question.replace(" ?", "?") for question in told["last_questions_of_process_0"]]
    assert len(questions) == 4 and set(questions) <= set(QUESTIONS)
    assert told["step"] == 4 and told["weights_not_finite"] == ["classifier.4.bias"]
    assert [entry["step"] for entry in told["log"]] == [1, 2, 3] and weight.isfinite().all()
    assert checkpoints(trainer) == ["checkpoint-2", "not_finite.json"]
    trainer.accelerator.scaler = "float16's"  # which leaves out such steps itself
    trainer.finite_only.on_pre_optimizer_step(trainer.args, trainer.state, None)


def test_skipped_steps_change_nothing_and_are_counted(make):
    trainer = make(not_finite="skip")
    collate, kept = trainer.train_collator, {}

    def spoiled(rows):
        batch = collate(rows)
        if spoiled.left == 0:
            batch["labels"][0, 0] = float("inf")
        spoiled.left -= 1
        return batch

    spoiled.left = 2  # the third batch
    trainer.train_collator = spoiled

    def keep(step):
        kept[step] = {name: value.clone() for name, value in trainer.model.state_dict().items()}

    for step in (2, 3):
        trainer.add_callback(AtStep(step, lambda step=step: keep(step)))
    trainer.train()
    assert all(torch.equal(kept[2][name], kept[3][name]) for name in kept[2])
    assert all(value.isfinite().all() for value in trainer.model.state_dict().values())
    logged = [entry["skipped_steps"] for entry in trainer.state.log_history if "loss" in entry]
    assert logged == [0, 0, 1, 1, 1, 1]


def test_a_full_disk_costs_no_checkpoint(make):
    trainer = make(save_total_limit=1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    trainer.add_callback(AtStep(3, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))))
    try:
        with pytest.raises(OSError, match=r"checkpoint of step 4 cannot be written to .*make room, then the same"):
            trainer.train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert checkpoints(trainer) == ["checkpoint-2"]
    make().train(resume_from_checkpoint=f"{trainer.args.output_dir}/checkpoint-2")


@pytest.mark.parametrize(
    "error, raised, words",
    [
        ("PytorchStreamWriter failed writing file data/0", OSError, "checkpoint of step 2 cannot be written"),
        ("out of memory", RuntimeError, "^out of memory"),
    ],
)
def test_only_a_disk_that_takes_no_more_is_told_as_one(make, monkeypatch, error, raised, words):
    def fail(*given):
        raise RuntimeError(error)

    trainer = make()
    monkeypatch.setattr(trainer, "_save_optimizer_and_scheduler", fail)
    with pytest.raises(raised, match=words):
        trainer.train()
    assert checkpoints(trainer) == []


def test_the_best_checkpoint_outlives_rotation(make, processor):
    trainer = scored(make, [3.0, 9.0, 5.0, 1.0], save_total_limit=1)
    trainer.train()
    assert checkpoints(trainer) == ["checkpoint-4"]
    assert trainer.state.best_model_checkpoint == f"{trainer.args.output_dir}/checkpoint-4"
    saved = json.loads(Path(trainer.args.output_dir, "checkpoint-4", "trainer_state.json").read_text())
    assert saved["best_model_checkpoint"] == trainer.state.best_model_checkpoint


def test_the_best_checkpoint_is_found_in_a_folder_that_has_moved(make, tmp_path):
    begun = scored(make, [3.0, 9.0, 5.0], "here", save_total_limit=2)
    begun.add_callback(AtStep(5, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    with pytest.raises(Stopped, match="after step 6"):
        begun.train()
    # Once with steps that are left, and once with none.
    for scores, before, place in (([4.0], "here", "there"), ([], "there", "elsewhere")):
        (tmp_path / before).rename(tmp_path / place)
        trainer = scored(make, scores, place, save_total_limit=2)
        trainer.train(resume_from_checkpoint=str(max((tmp_path / place).glob("checkpoint-*"))))
        assert checkpoints(trainer) == ["checkpoint-4", "checkpoint-8"] and trainer.state.global_step == 8
        best = saved_weights(trainer, 4)
        assert all(torch.equal(value, best[name]) for name, value in trainer.model.state_dict().items())


@pytest.mark.parametrize("chosen, saved", [(True, "2468"), (False, "48")])
def test_the_best_step_is_saved_though_others_are_saved_less_often(make, chosen, saved):
    trainer = scored(make, [3.0, 2.0, 9.0, 1.0], save_steps=4, save_total_limit=9, load_best_model_at_end=chosen)
    trainer.train()
    assert checkpoints(trainer) == [f"checkpoint-{step}" for step in saved]
    if not chosen:
        return
    assert trainer.state.best_model_checkpoint == f"{trainer.args.output_dir}/checkpoint-6"
    best = saved_weights(trainer, 6)
    assert all(torch.equal(value, best[name]) for name, value in trainer.model.state_dict().items())


def test_logs_tell_rates_by_part_and_speed(make):
    trainer = make(text_learning_rate=1e-5, lr_scheduler_type="linear")
    trainer.train()
    entry = [entry for entry in trainer.state.log_history if "loss" in entry][-1]
    assert entry["learning_rate"] == pytest.approx(1e-3 / 6)  # of the last step, not of the one that would follow
    assert entry["text_learning_rate"] == pytest.approx(1e-5 / 6)
    trainer._logged = 6, 0.0
    trainer.evaluate()
    assert trainer._logged[1] > 0  # the time that it took is left out
    trainer.args.gradient_accumulation_steps, trainer._logged = 3, (0, time.perf_counter() - 2)
    trainer.log({"loss": 1.0, "learning_rate": 0.0})
    assert trainer.state.log_history[-1]["questions_per_second"] == pytest.approx(6 * 3 * 4 / 2, rel=0.1)
    assert entry["questions_per_second"] > 0 and entry["grad_norm"] > 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # perhaps of the process that started this one
    assert 0 < entry["peak_memory_gib"] <= most + 0.01


def test_one_run_in_a_folder(tmp_path):
    (tmp_path / SAVING).mkdir()
    (tmp_path / ".a.writing.elsewhere.7.json").touch()
    os.utime(tmp_path / ".a.writing.elsewhere.7.json", (1, 1))
    with only_run_in(tmp_path):
        assert not (tmp_path / SAVING).exists()  # left by a run that was killed
        with pytest.raises(ValueError, match="another run is writing"), only_run_in(tmp_path):
            pass
    with only_run_in(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("host", [socket.gethostname(), "node1.cluster.local"])
def test_only_files_of_ended_processes_are_orphans(tmp_path, monkeypatch, host):
    gone = subprocess.Popen(["true"])
    gone.wait()
    monkeypatch.setattr(socket, "gethostname", lambda: host)
    orphan, elsewhere, other = (
        tmp_path / name
        for name in (f".a.writing.{host}.{gone.pid}.json", ".a.writing.elsewhere.7.json", ".bashrc.bak.20240101")
    )
    for file in (orphan, elsewhere, other):
        file.touch()
    with whole_file(tmp_path / "b.json") as mine:
        mine.touch()
        remove_orphans(tmp_path)
        assert mine.exists() and elsewhere.exists() and other.exists() and not orphan.exists()
    for file in (elsewhere, other):
        os.utime(file, (1, 1))
    remove_orphans(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [".bashrc.bak.20240101", "b.json"]

    def of_another_user(process, number):
        raise PermissionError

    monkeypatch.setattr(os, "kill", of_another_user)
    orphan.touch()
    remove_orphans(tmp_path)
    assert orphan.exists()


def test_a_file_is_whole_or_as_it_was(tmp_path, monkeypatch):
    write_json(tmp_path / "a.json", 1)
    with pytest.raises(OSError), whole_file(tmp_path / "a.json") as temporary:
        temporary.write_text("2")
        raise OSError

    def half(file, text, **settings):
        file.write_bytes(text[:3].encode())
        raise OSError

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(OSError):
        write_json(tmp_path / "a.json", [1, 2, 3])
    monkeypatch.undo()
    assert (tmp_path / "a.json").read_text() == "1" and len(list(tmp_path.iterdir())) == 1

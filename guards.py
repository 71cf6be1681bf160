"""What keeps a training run whole: one run per folder, signals, numbers that are not finite, checkpoints."""

import os
import shutil
import signal
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from accelerate import DistributedType
from transformers import TrainerCallback
from transformers.trainer_utils import get_last_checkpoint, rotate_checkpoints

from .command_line import locked, remove_orphans, write_json

SAVING = ".saving"  # below the output folder: a checkpoint, or the model, in the making
HOW_TO_GO_ON = "the same command with --resume_from_checkpoint True goes on"


@contextmanager
def only_run_in(folder, is_main_process=True):
    """
    Keep a second training run out of the output folder, and sweep out what a killed one left half-written.

    Raises:
        ValueError: another run, of this or another process, is at work in it.
    """
    folder = Path(folder)
    if not is_main_process:
        yield
        return
    with locked(folder, "choose another --output_dir"):
        remove_orphans(folder)
        shutil.rmtree(folder / SAVING, ignore_errors=True)
        yield


class WholeCheckpoints:
    """
    For a `Trainer`: a checkpoint is written aside and takes its name when it is whole, so that a run that is killed
    never goes on from half of one; only then do older ones go, so that a full disk costs none.
    """

    _run_dir = None

    def _get_output_dir(self, trial):
        return self._run_dir or super()._get_output_dir(trial)

    def _save_checkpoint(self, model, trial):
        folder = Path(self.args.output_dir)
        final = folder / f"checkpoint-{self.state.global_step}"
        self._run_dir = str(folder / SAVING)
        try:
            super()._save_checkpoint(model, trial)
        except Exception as error:
            shutil.rmtree(folder / SAVING, ignore_errors=True)
            if isinstance(error, OSError) or "write" in str(error).lower() or "I/O" in str(error):
                # safetensors and torch have errors of their own for a disk that takes no more
                free = shutil.disk_usage(folder).free / 2**30
                raise OSError(
                    f"the checkpoint of step {self.state.global_step} cannot be written to {folder} ({free:.1f} GiB "
                    f"free): {error}. Earlier checkpoints are whole; make room, then {HOW_TO_GO_ON}"
                ) from None
            raise
        finally:
            self._run_dir = None
        self.accelerator.wait_for_everyone()
        self._find_best(saved=self.state.global_step)
        if self.args.should_save:
            self.state.save_to_json(folder / SAVING / final.name / "trainer_state.json")
            if final.exists():  # of a run that this one has gone back behind
                os.replace(final, folder / SAVING / "former")
            os.replace(folder / SAVING / final.name, final)
            shutil.rmtree(folder / SAVING)
            while Path(newest := get_last_checkpoint(folder)) != final:  # likewise: the newest must be this run's
                shutil.rmtree(newest)
            rotate_checkpoints(str(folder), self.args.save_total_limit, self.state.best_model_checkpoint)
        self.accelerator.wait_for_everyone()

    def _find_best(self, saved=None):
        """Where the best checkpoint is now: `Trainer` has the place of writing, or where the folder once was."""
        step = self.state.best_global_step
        best = Path(self.args.output_dir) / f"checkpoint-{step}"
        if step and (step == saved or best.is_dir()):
            self.state.best_model_checkpoint = str(best)

    def _load_callback_state(self):
        """As in `Trainer`, which, where a run goes on, has just looked for the best checkpoint where it once was."""
        self._find_best()
        super()._load_callback_state()


class Stopped(Exception):
    """A signal came, and the run has saved a checkpoint."""

    def __init__(self, received, step):
        self.received = received
        super().__init__(f"stopped by {signal.Signals(received).name} after step {step}, saved; {HOW_TO_GO_ON}")


class StopAtSignal(TrainerCallback):
    """At SIGTERM or Ctrl-C the step is ended, a checkpoint saved, [`Stopped`] raised; a second Ctrl-C stops at once."""

    def __init__(self, accelerator):
        self.accelerator, self.received, self.agreed, self.kept = accelerator, 0, 0, {}

    def on_train_begin(self, args, state, control, **kwargs):
        for number in (signal.SIGTERM, signal.SIGINT):
            self.kept[number] = signal.signal(number, self._receive)

    def _receive(self, number, frame):
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number
        with suppress(OSError):  # not print: Ctrl-C ends a pipe's other end as well, and a print may be under way
            os.write(2, f"\n{signal.Signals(number).name}: saving after this step\n".encode())

    def on_step_end(self, args, state, control, **kwargs):
        self.agreed = self.received
        if self.accelerator.num_processes > 1:  # a signal reaches them at different steps
            seen = torch.tensor([self.received], device=self.accelerator.device)
            self.agreed = int(self.accelerator.gather(seen).max())
        if self.agreed:
            control.should_save = True
            if args.eval_strategy == "epoch" and state.epoch == int(state.epoch):  # a run that goes on begins after it
                control.should_evaluate = True

    def on_save(self, args, state, control, **kwargs):
        if self.agreed:
            raise Stopped(self.agreed, state.global_step)

    def restore(self):
        for number, handler in self.kept.items():
            signal.signal(number, handler)


class FiniteOnly(TrainerCallback):
    """
    Looks at the gradients before each step; several processes hold the same ones by then, so they decide alike.

    Args:
        trainer: the [`VqaTrainer`], for the batch that led to it.
        skip (`bool`): leave the step out and count it; else the run stops.
    """

    def __init__(self, trainer, skip):
        self.trainer, self.skip, self.skipped = trainer, skip, 0

    def on_train_begin(self, args, state, control, **kwargs):
        if self.trainer.accelerator.distributed_type == DistributedType.DEEPSPEED:
            print("DeepSpeed steps by itself: --not_finite does not reach it")

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        if self.trainer.accelerator.scaler is not None:
            return  # float16's scaler leaves out such steps itself, and is meant to
        gradients = [p.grad for p in self.trainer.model.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # FSDP
        finite = norm.isfinite().reshape(1)
        if self.trainer.is_fsdp_enabled:  # of its first version each process has its own part
            finite = self.trainer.accelerator.gather(finite)
        if finite.all():
            return
        if self.skip:
            self.skipped += 1
            self.trainer.model.zero_grad()  # the optimizer passes over parameters that have no gradient
            return
        file = Path(args.output_dir) / "not_finite.json"
        if args.should_save:
            write_json(file, self._what_led_to_it(state))
        raise ValueError(
            f"loss or gradients are not finite at step {state.global_step + 1}, before it changed the weights; what "
            f"led to it is in {file}. Lower --learning_rate, or leave out such steps: --not_finite skip"
        )

    def _what_led_to_it(self, state):
        tokenizer = self.trainer.train_collator.processor.tokenizer
        questions = tokenizer.batch_decode(self.trainer.last_batch["input_ids"], skip_special_tokens=True)
        weights = [name for name, value in self.trainer.model.named_parameters() if not value.isfinite().all()]
        return {
            "step": state.global_step + 1, "last_questions_of_process_0": questions, "weights_not_finite": weights,
            "learning_rates": [group["lr"] for group in self.trainer.optimizer.param_groups],
            "log": state.log_history[-10:],
        }  # fmt: skip

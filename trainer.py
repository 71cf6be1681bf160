"""`Trainer` for VQA: a learning rate per encoder, questions in groups, guards."""

import math
import os
import signal
import threading
import time
from dataclasses import dataclass, field
from functools import partial

import torch
from accelerate import DistributedType, FullyShardedDataParallelPlugin, PartialState
from torch.utils.data import DataLoader, IterableDataset, SequentialSampler
from transformers import Trainer, TrainerCallback, TrainingArguments, get_scheduler
from transformers.integrations import get_reporting_integration_callbacks

from .answer_head import look_for_answers
from .command_line import peak_memory
from .data_prep.sampling import QuestionSampler
from .guards import FiniteOnly, StopAtSignal, WholeCheckpoints
from .metrics.vqa_accuracy.vqa_accuracy import TOP_K


@dataclass
class VqaTrainingArguments(TrainingArguments):
    output_dir: str | None = field(default=None, metadata={"help": "where the model goes (needed)"})
    text_learning_rate: float | None = field(
        default=None, metadata={"help": "learning rate of the text encoder; that of the rest if not given"}
    )
    vision_learning_rate: float | None = field(
        default=None, metadata={"help": "that of an unfrozen vision encoder, likewise"}
    )
    questions_per_image: int = field(
        default=1,
        metadata={
            "help": "keep up to so many questions of an image together in a batch, which encodes it once for them"
        },
    )
    answer_type_sampling: dict | str | None = field(
        default=None,
        metadata={"help": 'such as {"number": 0.5}: share of the questions of this answer type that an epoch draws'},
    )
    reference_provenance: list[str] | None = field(
        default=None,
        metadata={
            "help": "values of the column provenance: the questions whose answers are as frequent as in use; what the "
            "others were chosen by is then not learned from them"
        },
    )
    num_teachers: int = field(
        default=0,
        metadata={
            "help": "train so many models first, with seeds from num_teachers times the seed on, and distil them"
        },
    )
    teacher_epochs: float | None = field(
        default=None, metadata={"help": "epochs of each teacher; num_train_epochs if not given"}
    )
    teacher_weight: float = field(default=0.6, metadata={"help": "weight of the teachers against the answers"})
    bf16_where_fast: bool = field(
        default=False,
        metadata={"help": "bfloat16 where the GPU or CPU computes in it; float32 where it would be emulated"},
    )
    eval_strategy: str = field(default="epoch", metadata={"help": "when to evaluate: no, steps or epoch"})
    save_strategy: str = field(default="epoch", metadata={"help": "when to save: no, steps, epoch or best"})
    save_total_limit: int | None = field(default=1, metadata={"help": "checkpoints to keep, beside the best one"})
    load_best_model_at_end: bool | None = field(
        default=True, metadata={"help": "whether the best checkpoint becomes the model, or the last one"}
    )
    metric_for_best_model: str | None = field(
        default="overall", metadata={"help": "the best by what: overall, top_5, loss or an answer type"}
    )
    remove_unused_columns: bool | None = field(default=False)
    resume_from_checkpoint: str | None = field(
        default=None,
        metadata={
            "help": "True: go on from the newest checkpoint in --output_dir; auto: likewise, or from the start if "
            "there is none; or a checkpoint's folder"
        },
    )
    label_names: list[str] | None = field(default_factory=lambda: ["labels"])
    # BERT's pooler and the image branch of a blind model get no gradient; `Trainer` takes that into account by default,
    # but not with --gradient_checkpointing.
    ddp_find_unused_parameters: bool | None = field(default=True)
    report_to: None | str | list[str] = field(
        default="tensorboard", metadata={"help": "where to log to, such as tensorboard or wandb; none for nowhere"}
    )
    not_finite: str = field(
        default="stop", metadata={"help": "what a loss or gradient that is not finite does: stop, or skip the step"}
    )
    logging_steps: float = field(default=50, metadata={"help": "steps between logs; below 1, as a share of all"})

    def __post_init__(self):
        if self.output_dir is None:  # transformers would make a folder of its own in the working folder
            raise ValueError("give --output_dir, the folder that the model goes to")
        for name, value in vars(self).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"--{name} must be a finite number, not {value}")
            if name.endswith("learning_rate") and value is not None and value < 0:
                raise ValueError(f"--{name} must be at least 0, not {value}")
        if self.max_steps <= 0 and self.num_train_epochs <= 0:
            raise ValueError(f"--num_train_epochs must be above 0, not {self.num_train_epochs}")
        for name in (
            "per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps",
            "questions_per_image",
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} must be at least 1, not {getattr(self, name)}")
        if self.bf16_where_fast and torch.cuda.is_available() and not self.use_cpu:
            self.bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        elif self.bf16_where_fast:
            capabilities = torch.cpu.get_capabilities()
            self.bf16 = any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16"))
        # Without it `TrainingArguments` refuses bf16 on a CPU, and torchrun's processes there do not find each other.
        self.use_cpu = self.use_cpu or not torch.accelerator.is_available()
        super().__post_init__()
        if self.n_gpu > 1:  # `DataParallel` would cut a batch's questions from its images; `accelerate launch` does not
            self._n_gpu = 1
        for name, value in (
            ("label_smoothing_factor", 0),
            ("remove_unused_columns", False),
            ("batch_eval_metrics", False),
            ("prediction_loss_only", False),
            ("eval_do_concat_batches", True),
        ):
            if getattr(self, name) != value:
                raise ValueError(f"--{name} does not go with soft targets and images: leave it at {value}")
        if self.accelerator_config.dispatch_batches:  # it cuts a batch's questions from its images
            raise ValueError("--accelerator_config: dispatch_batches does not go with batches that share images")
        if self.train_sampling_strategy not in ("random", "group_by_length"):
            raise ValueError(
                f"--train_sampling_strategy is random or group_by_length, not {self.train_sampling_strategy}"
            )
        if self.teacher_epochs is not None and not self.teacher_epochs > 0:
            raise ValueError(f"--teacher_epochs must be above 0, not {self.teacher_epochs}")
        if self.num_teachers < 0:
            raise ValueError(f"--num_teachers must be at least 0, not {self.num_teachers}")
        if not 0 < self.teacher_weight <= 1:
            raise ValueError(f"--teacher_weight must be in (0, 1], not {self.teacher_weight}")
        if self.not_finite not in ("stop", "skip"):
            raise ValueError(f"--not_finite is stop or skip, not {self.not_finite}")
        if self.questions_per_image > 1 and self.train_sampling_strategy == "group_by_length":
            raise ValueError("--questions_per_image and --train_sampling_strategy group_by_length exclude each other")


class _TellEpoch(TrainerCallback):
    """accelerate tells a sampler its epoch, but not when several processes go on in the middle of one."""

    def __init__(self, sampler):
        self.sampler = sampler

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.sampler.set_epoch(int(state.epoch or 0))


def _leave_signals(then, worker):
    """A signal to a whole group of processes is for the main one, which saves first and then ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        threading.Thread(target=_end_for_parent, daemon=True).start()
    if then is not None:
        then(worker)


def _end_for_parent():
    """SIGTERM of the main process ends this one, as torch has it; it waits for that when it ends itself."""
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != os.getppid():
        pass
    os._exit(0)


class VqaTrainer(WholeCheckpoints, Trainer):
    """
    `Trainer` with a learning rate per encoder, grouped batches, and what guards a run. `train_collator` makes the
    training batches, `data_collator` unless it is set.
    """

    def __init__(self, model, args, **kwargs):
        # What FSDP cuts into pieces; the encoders name layers of their whole families, which are not all here.
        known = {type(module).__name__ for module in model.modules()} - {type(model).__name__}
        model._no_split_modules = sorted(known & set(model._no_split_modules or ()))
        super().__init__(model, args, **kwargs)
        self.finite_only = FiniteOnly(self, skip=self.args.not_finite == "skip")
        self.stop_at_signal = StopAtSignal(self.accelerator)
        for callback in (self.finite_only, self.stop_at_signal):
            self.add_callback(callback)
        self.answer_tokens = None  # what `look_for_answers` is given, of a model that is to look for them
        self.train_collator = self.data_collator
        self._logged = None  # when, and at which step
        self._rates = {}  # of the last step, by part

    def create_accelerator_and_postprocess(self):
        super().create_accelerator_and_postprocess()
        if self.args.fsdp and not self.is_fsdp_enabled and self.args.world_size > 1:
            # accelerate turns to it on GPUs only, and would go on without a word; torch has it for CPUs as well
            state = self.accelerator.state
            state.fsdp_plugin = FullyShardedDataParallelPlugin(**self.args.fsdp_plugin_args)
            PartialState._shared_state["distributed_type"] = state.distributed_type = DistributedType.FSDP
            self.is_fsdp_enabled = True

    def train(self, *args, **kwargs):
        try:
            return super().train(*args, **kwargs)
        finally:
            self.stop_at_signal.restore()

    def _run_epoch(self, *args, **kwargs):
        if self.state.global_step >= self.state.max_steps:  # `Trainer` would take one more step in an epoch's middle
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **kwargs)

    def evaluate(self, *args, **kwargs):
        start = time.perf_counter()
        self.look_for_answers()
        metrics = super().evaluate(*args, **kwargs)
        if self._logged:  # the questions per second are those of training
            self._logged = self._logged[0], self._logged[1] + time.perf_counter() - start
        return metrics

    def look_for_answers(self):
        """Tell the model where its answers' words point now (not with FSDP, which cuts the weights up)."""
        if self.answer_tokens is not None and not self.is_fsdp_enabled:
            model = self.accelerator.unwrap_model(self.model)
            look_for_answers(model, **self.answer_tokens.to(model.device))
            usual = model.shown_answers.usual  # DDP sends the first process's to all, but not after the last step
            usual.copy_(self.accelerator.reduce(usual, "mean"))

    def training_step(self, model, inputs, *args, **kwargs):
        self.last_batch = inputs  # `FiniteOnly` tells what it held
        self._rates = {group.get("part"): group["lr"] for group in self.optimizer.param_groups}
        return super().training_step(model, inputs, *args, **kwargs)

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        """
        As in `Trainer`; where a batch has `answer_shifts`, they are added to the logits before the loss, and where it
        has `teacher_probabilities`, these are targets as well, of the logits as they are.
        """
        shifts, taught = inputs.pop("answer_shifts", None), inputs.pop("teacher_probabilities", None)
        if shifts is None and taught is None:
            return super().compute_loss(model, inputs, return_outputs, **kwargs)
        labels = inputs.pop("labels")
        output = model(**inputs)
        answer_loss = self.accelerator.unwrap_model(model).answer_loss
        loss = answer_loss(output.logits if shifts is None else output.logits + shifts, labels)
        if taught is not None:
            loss = torch.lerp(loss, answer_loss(output.logits, taught), self.args.teacher_weight)
        if output.alignment_loss is not None:
            loss = loss + output.alignment_loss
        return (loss, output) if return_outputs else loss

    def log(self, logs, *args, **kwargs):
        """As in `Trainer`, and with each training loss: learning rates by part, questions per second, memory."""
        if "loss" in logs:
            step, now = self.state.global_step, time.perf_counter()
            if self._logged and step > self._logged[0]:
                batch = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
                logs["questions_per_second"] = round(batch * (step - self._logged[0]) / (now - self._logged[1]), 1)
            self._logged = step, now
            logs["learning_rate"] = self._rates.get("fusion", logs["learning_rate"])
            logs |= {f"{part}_learning_rate": rate for part, rate in self._rates.items() if part != "fusion"}
            logs |= {"peak_memory_gib": peak_memory(), "skipped_steps": self.finite_only.skipped}
        super().log(logs, *args, **kwargs)

    def _get_train_sampler(self, train_dataset=None):
        args = self.args
        sampler = QuestionSampler(
            train_dataset or self.train_dataset,
            args.per_device_train_batch_size * args.world_size,
            args.seed if args.data_seed is None else args.data_seed,
            args.questions_per_image,
            args.train_sampling_strategy == "group_by_length",
            args.answer_type_sampling,
        )
        self.add_callback(_TellEpoch(sampler))
        return sampler

    def _get_eval_sampler(self, eval_dataset):
        """In the data set's order, whatever that of training is: predictions are compared with its answers by place."""
        return SequentialSampler(eval_dataset)

    def get_train_dataloader(self):
        """With `train_collator`; `Trainer` itself has one collator for training and evaluation."""
        if isinstance(self.train_dataset, IterableDataset):
            # Not prepared by accelerate, which would cut the process's share once more.
            own = torch.Generator()  # a loader draws a number when it begins, which dropout would miss later
            return DataLoader(self.train_dataset, self._train_batch_size, collate_fn=self.train_collator, generator=own)
        kept, self.data_collator = self.data_collator, self.train_collator
        try:
            return super().get_train_dataloader()
        finally:
            self.data_collator = kept

    def _get_dataloader(self, *args, **kwargs):
        loader = super()._get_dataloader(*args, **kwargs)
        inner = getattr(loader, "base_dataloader", loader)  # accelerate's stands around it
        inner.worker_init_fn = partial(_leave_signals, inner.worker_init_fn)
        return loader

    def _determine_best_metric(self, metrics, trial):
        """As in `Trainer`, which may evaluate more often than it saves, and would then lose the best step's weights."""
        is_best = super()._determine_best_metric(metrics, trial)
        self.control.should_save |= is_best and self.args.load_best_model_at_end
        return is_best

    def prediction_step(self, *args, **kwargs):
        """As in `Trainer`, without the soft targets: gathered, they would fill a gigabyte that nobody reads."""
        loss, answers, labels = super().prediction_step(*args, **kwargs)
        return loss, answers, None if labels is None else labels[:, :1]

    def create_optimizer(self, *args, **kwargs):
        if self.optimizer is not None:  # given, with rates of its own
            return self.optimizer
        optimizer = super().create_optimizer(*args, **kwargs)
        parts = {}
        for part, rate in (("text", self.args.text_learning_rate), ("vision", self.args.vision_learning_rate)):
            for parameter in getattr(self.model.vqafusion, f"{part}_model").parameters():
                parts[parameter] = part, self.args.learning_rate if rate is None else rate
        groups = []
        for group in optimizer.param_groups:
            by_part = {}
            for parameter in group["params"]:
                by_part.setdefault(parts.get(parameter, ("fusion", self.args.learning_rate)), []).append(parameter)
            groups += [
                {**group, "params": parameters, "part": part, "lr": rate}
                for (part, rate), parameters in by_part.items()
            ]
        optimizer.param_groups = groups
        return optimizer

    def _load_optimizer_and_scheduler(self, checkpoint):
        """As in `Trainer`, which would go on with the checkpoint's learning rates whatever the arguments say."""
        given = getattr(self.lr_scheduler, "base_lrs", None)
        super()._load_optimizer_and_scheduler(checkpoint)
        kept = getattr(self.lr_scheduler, "base_lrs", None)
        if kept != given:
            raise ValueError(
                f"{checkpoint} was begun with learning rates of {sorted(set(kept))}, not {sorted(set(given))}: leave "
                "them as they were, or train into another --output_dir"
            )


def check_reporting(report_to):
    """Raise `ValueError` for a tracker that is not installed; `Trainer` would find that when all data is loaded."""
    try:
        for tracker in get_reporting_integration_callbacks(report_to):
            tracker()
    except (ImportError, RuntimeError, ValueError) as error:
        raise ValueError(f"--report_to: {error}") from None


def check_schedule(args):
    """Raise `ValueError` for `lr_scheduler_kwargs` that its kind does not take; found here as by the last function."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)])
    kwargs = args.lr_scheduler_kwargs or {}
    try:
        get_scheduler(args.lr_scheduler_type, optimizer, 1, 2, scheduler_specific_kwargs=dict(kwargs))
    except (TypeError, ValueError) as error:
        raise ValueError(f"--lr_scheduler_kwargs {kwargs}: {error}") from None


def top_labels(logits, labels):
    """What evaluation keeps of each batch: `(batch, TOP_K)` label ids, best first; not 1,000 logits a question."""
    return logits.topk(min(TOP_K, logits.shape[-1])).indices

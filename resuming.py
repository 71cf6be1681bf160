"""Where training goes on, and whether what is there belongs to the run that is asked for."""

import zipfile
from hashlib import blake2b
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import get_last_checkpoint

from .arguments import ENCODERS
from .command_line import read_json
from .configuration_vqafusion import VqaFusionConfig, computed_by

_SAME_AGAIN = "go on with the data and arguments that it was begun with, remove it, or choose another --output_dir"
_CHECKED = ("trainer_state.json", "config.json", "model.safetensors.index.json")
TEACHERS = "teachers"  # below the output folder
TEACHING = (  # what a trained teacher must have been trained with to be taken
    "dataset", "seed", "num_train_epochs", "max_steps", "learning_rate", "text_learning_rate", "vision_learning_rate",
    "answer_type_sampling", "reference_provenance",
)  # fmt: skip


def checkpoint(resume, output_dir):
    """
    Where training goes on: a checkpoint's path; for True the newest one in the output folder; for auto likewise, but
    from the start if there is none.
    """
    newest = get_last_checkpoint(output_dir)
    teachers = Path(output_dir) / TEACHERS
    begun = [newest] if newest else [*teachers.glob("*/checkpoint-*"), *teachers.glob("*/trainer_state.json")]
    if resume == "auto":
        return newest
    resume = None if resume in ("False", "false", False) else resume
    if resume in ("True", "true", True):
        if not begun:
            raise ValueError(f"--resume_from_checkpoint: there is no checkpoint in {output_dir}")
        return newest
    if begun and resume is None:
        raise ValueError(
            f"{output_dir} holds {begun[0]} of another run: go on with it (--resume_from_checkpoint True), remove it, "
            "or choose another --output_dir"
        )
    return resume


def check_checkpoint(folder):
    """Raise `ValueError` unless the checkpoint is there and whole, with what training goes on with beside weights."""
    if not Path(folder).is_dir():
        raise ValueError(f"there is no checkpoint {folder} here: all machines must see the same --output_dir")
    # The optimizer's of FSDP is a folder, and DeepSpeed has all elsewhere.
    needed = ("scheduler.pt", "optimizer*", "rng_state*", "trainer_state.json")
    lacking = [name for name in needed if not any(Path(folder).glob(name))]
    if lacking and not any(Path(folder).glob("global_step*")):
        raise ValueError(
            f"{folder} lacks {', '.join(lacking)}, as --save_only_model leaves it: training cannot go on where it was"
        )
    for file in Path(folder).iterdir():
        try:
            if file.suffix in (".pt", ".pth", ".bin"):  # as torch writes them
                with zipfile.ZipFile(file) as archive:
                    if damaged := archive.testzip():
                        raise zipfile.BadZipFile(damaged)
            elif file.suffix == ".safetensors":
                safe_open(file, "pt")
            elif file.name in _CHECKED:
                read_json(file)
        except (zipfile.BadZipFile, SafetensorError, ValueError) as error:
            raise ValueError(f"{file} is damaged ({error}): remove {folder}, to go on from the one before") from None


class RunData(TrainerCallback, ExportableState):
    """Keeps in every `trainer_state.json` what a run that goes on must have been begun with."""

    def __init__(self, args, model_arguments, train_set, eval_set):
        self.noted = {
            "metric_for_best_model": args.metric_for_best_model,  # whose best score is kept as well
            "image_size": model_arguments.image_size,  # which no weight depends on
            "training_questions": _digest(train_set),
            "evaluation_questions": _digest(eval_set),
        }

    def on_train_begin(self, args, state, control, **kwargs):
        state.stateful_callbacks.setdefault(type(self).__name__, {})  # an older checkpoint has none to be replaced

    def state(self):
        return {"args": {}, "attributes": self.noted}

    def check(self, folder):
        """Raise `ValueError` if a checkpoint's or a teacher's folder is of a run with others, as far as it says."""
        file = Path(folder) / "trainer_state.json"
        state = read_json(file)
        if not isinstance(state, dict) or "global_step" not in state:
            raise ValueError(f"{file} does not hold a training's state")
        kept = state.get("stateful_callbacks", {}).get(type(self).__name__, {}).get("attributes", self.noted)
        for name, now in self.noted.items():
            then = kept.get(name, now)
            if then != now:
                what = f"other {name.replace('_', ' ')}" if name.endswith("_questions") else f"--{name} {then}"
                raise ValueError(f"{folder} is of a run with {what}: {_SAME_AGAIN}")


def _digest(rows):
    """Of questions, their images' names and their answers, in their order."""
    found = blake2b(digest_size=8)
    for part in rows.select_columns(["question_id", "image_id", "question", "answers"]).iter(batch_size=10_000):
        found.update(repr(part).encode())
    return found.hexdigest()


def check_goes_on(folder, model_arguments, config):
    """Raise `ValueError` if the weights in a checkpoint's or a teacher's folder are of other answers or sizes."""
    if not (Path(folder) / "config.json").exists():
        return  # FSDP's pieces, which torch compares itself
    kept = VqaFusionConfig.from_pretrained(folder)
    for name in ("vision_config", "text_config"):
        if computed_by(getattr(kept, name)) != computed_by(getattr(config, name)):
            raise ValueError(
                f"{folder} is of a model with another {name.removesuffix('_config')} encoder: {_SAME_AGAIN}"
            )
    # The last two make no difference to weights that are there.
    apart = (*ENCODERS, "attn_implementation", "initializer_range")
    for name in ("id2label", *(name for name in vars(model_arguments) if name not in apart)):
        if getattr(kept, name) != getattr(config, name):
            was = "other answers" if name == "id2label" else f"{name} {getattr(kept, name)}"
            raise ValueError(f"{folder} is of a model with {was}: {_SAME_AGAIN}")


def check_teacher(folder, wanted):
    """Raise `ValueError` if a trained teacher was made with other arguments than those `wanted`, by their names."""
    kept = read_json(folder / "training.json")
    for name in TEACHING:
        if kept.get(name) != wanted.get(name):
            raise ValueError(
                f"{folder} was trained with --{name} {kept.get(name)}, not {wanted.get(name)}: remove {folder.parent} "
                "to train teachers anew, or choose another --output_dir"
            )

"""What several trained models make of the training questions together, for another one to learn from."""

import numpy as np
import torch
from accelerate.utils import gather_object
from tqdm import tqdm

from .command_line import remove_orphans, whole_file
from .data_prep.image_features import this_process
from .modeling_vqafusion import VqaFusionForVisualQuestionAnswering


def teacher_probabilities(folders, rows, collator, file, batch_size, bf16=False):
    """
    The mean of the models' probabilities (an ensemble, distilled as by Hinton et al., 2015, with temperature 1). A
    file that is there already is taken as it is.

    Args:
        folders: of the models; they share one vocabulary, that of `rows`.
        rows (`datasets.Dataset`): encoded rows.
        collator: what makes batches of them, without augmentation.
        file: where the probabilities go, a NumPy array.
        batch_size (`int`): questions per forward pass.
        bf16 (`bool`): compute in bfloat16.

    Returns:
        `(questions, answers)` float16 array, memory-mapped. Several processes take turns with the batches, and the
        first one writes what all found: after every round, so that none waits long.

    Raises:
        ValueError: the file that is there is of other questions or answers.
    """
    process = this_process()
    if not file.exists():
        rounds = _rounds(folders, rows, collator, batch_size, bf16, process)
        if process.is_main_process:
            remove_orphans(file.parent)
            with whole_file(file) as temporary:
                written = np.lib.format.open_memmap(temporary, "w+", np.float16, (len(rows), collator.num_labels))
                for questions, probabilities in rounds:
                    written[questions] = probabilities
                written.flush()
                del written  # Windows renames no file that is mapped
        else:
            for _ in rounds:  # which brings its batches to the first one
                pass
    process.wait_for_everyone()
    probabilities = np.load(file, mmap_mode="r")
    if probabilities.shape != (len(rows), collator.num_labels):
        raise ValueError(
            f"{file} was made for other training questions or answers: remove it to ask the teachers again"
        )
    return probabilities


@torch.inference_mode()
def _rounds(folders, rows, collator, batch_size, bf16, process):
    """Question numbers and their `(batch, answers)` probabilities, of every process's batch in turn."""
    device = process.device
    models = [VqaFusionForVisualQuestionAnswering.from_pretrained(folder).eval().to(device) for folder in folders]
    longest_last = np.argsort(rows["length"][:], kind="stable")  # which saves padding
    starts = range(0, len(rows), batch_size * process.num_processes)
    for start in tqdm(starts, desc="Asking the teachers", unit="round", disable=not process.is_main_process):
        at = start + batch_size * process.process_index
        questions, found = longest_last[at : at + batch_size], []
        if len(questions):
            inputs = collator([rows[int(question)] for question in questions])
            del inputs["labels"]
            inputs = {name: value.to(device) for name, value in inputs.items()}
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                logits = [model(**inputs).logits.float() for model in models]
            probabilities = [model.probabilities(scores) for model, scores in zip(models, logits)]
            found = [(questions, torch.stack(probabilities).mean(dim=0).half().cpu().numpy())]
        yield from gather_object(found)

"""What several trained models make of the training questions together, for another one to learn from."""

import numpy as np
import torch
from tqdm import tqdm

from .command_line import whole_file
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
        `(questions, answers)` float16 array, memory-mapped. With several processes the first one computes it.

    Raises:
        ValueError: the file that is there is of other questions or answers.
    """
    process = this_process()
    if process.is_main_process and not file.exists():
        _write(folders, rows, collator, file, batch_size, bf16, process.device)
    process.wait_for_everyone()
    probabilities = np.load(file, mmap_mode="r")
    if probabilities.shape != (len(rows), collator.num_labels):
        raise ValueError(
            f"{file} was made for other training questions or answers: remove it to ask the teachers again"
        )
    return probabilities


@torch.inference_mode()
def _write(folders, rows, collator, file, batch_size, bf16, device):
    models = [VqaFusionForVisualQuestionAnswering.from_pretrained(folder).eval().to(device) for folder in folders]
    longest_last = np.argsort(rows["length"][:], kind="stable")  # which saves padding
    with whole_file(file) as temporary:
        shape = (len(rows), models[0].config.num_labels)
        written = np.lib.format.open_memmap(temporary, "w+", np.float16, shape)
        for at in tqdm(range(0, len(rows), batch_size), desc="Asking the teachers", unit="batch"):
            batch = longest_last[at : at + batch_size]
            inputs = collator([rows[int(question)] for question in batch])
            del inputs["labels"]
            inputs = {name: value.to(device) for name, value in inputs.items()}
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                logits = [model(**inputs).logits.float() for model in models]
            probabilities = [model.probabilities(scores) for model, scores in zip(models, logits)]
            written[batch] = torch.stack(probabilities).mean(dim=0).cpu().numpy()
        written.flush()

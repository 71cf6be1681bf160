"""kill -9 at random moments of a short training run, restarted each time, against the same run left alone.

python benchmarks/kills.py --kills 20 [--processes 2]

The run stores image states, then trains with a checkpoint every tenth step. Both ends must be the same to the last bit:
weights and states; and no temporary file may be left.
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from vqafusion.command_line import write_json

TRAIN = Path(__file__).parents[1] / "train.py"
RUN = {
    "dataset": "easy_vqa", "max_train_samples": 2000, "max_eval_samples": 100, "per_device_train_batch_size": 16,
    "vision_config": {
        "model_type": "clip_vision_model", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 2, "image_size": 64, "patch_size": 8,
    },
    "text_config": {"model_type": "distilbert", "dim": 64, "hidden_dim": 128, "n_layers": 2, "n_heads": 2},
    "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "save_strategy": "steps",
    "eval_strategy": "steps", "save_steps": 10, "eval_steps": 10, "save_total_limit": 2, "learning_rate": 1e-3,
    "disable_tqdm": True, "resume_from_checkpoint": "auto", "load_best_model_at_end": False, "report_to": "none",
}  # fmt: skip


def start(folder, processes):
    several = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [sys.executable, *(several if processes > 1 else []), str(TRAIN), str(folder.parent / "run.json")]
    command += ["--output_dir", str(folder / "model"), "--image_states_dir", str(folder / "states")]
    log = (folder / "log.txt").open("ab")
    return subprocess.Popen(command, stdout=log, stderr=log)


def files(folder):
    """Bytes of the weights and of the image states, by path."""
    found = {"model.safetensors": (folder / "model" / "model.safetensors").read_bytes()}
    states = (file for file in (folder / "states").rglob("*") if file.is_file())
    return found | {str(file.relative_to(folder)): file.read_bytes() for file in states}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--steps", type=int, default=240, help="of training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", default="runs/kills.json")
    args = parser.parse_args(argv)
    rng, place = random.Random(args.seed), Path(tempfile.mkdtemp(prefix="vqafusion-kills-"))
    try:
        write_json(place / "run.json", RUN | {"max_steps": args.steps})
        whole, killed = place / "whole", place / "killed"
        whole.mkdir()
        killed.mkdir()
        begin = time.monotonic()
        if start(whole, args.processes).wait():
            sys.exit((whole / "log.txt").read_text()[-2000:])
        seconds, moments, steps = time.monotonic() - begin, [], []
        while len(moments) < args.kills:
            run, moment = start(killed, args.processes), rng.uniform(0, seconds)
            try:
                if run.wait(moment):
                    sys.exit((killed / "log.txt").read_text()[-2000:])
                shutil.rmtree(killed / "model")  # it came to its end: the next one begins anew
                shutil.rmtree(killed / "states")
            except subprocess.TimeoutExpired:
                family = [*psutil.Process(run.pid).children(recursive=True), psutil.Process(run.pid)]
                for process in family:  # torchrun's workers are in sessions of their own
                    process.kill()
                psutil.wait_procs(family)
                moments.append(round(moment, 2))
            steps.append(max((int(each.name.split("-")[1]) for each in killed.glob("model/checkpoint-*")), default=0))
        if start(killed, args.processes).wait():
            sys.exit((killed / "log.txt").read_text()[-2000:])
        expected, found = files(whole), files(killed)
        differ = sorted(name for name in expected | found if expected.get(name) != found.get(name))
        left = sorted(str(file.relative_to(killed)) for file in killed.rglob(".*"))
    finally:
        shutil.rmtree(place, ignore_errors=True)
    result = {
        "processes": args.processes, "seconds_of_the_whole_run": round(seconds, 1), "killed_after_s": moments,
        "checkpoint_then": steps, "files_compared": len(expected), "files_that_differ": differ, "files_left": left,
    }  # fmt: skip
    print(json.dumps(result, indent=1))
    Path(args.output).parent.mkdir(parents=True, exist_ok=True)
    write_json(args.output, result)
    return 1 if differ or left else 0


if __name__ == "__main__":
    sys.exit(main())

"""Time and memory of reading and encoding VQA v2 at its real size, and how they grow.

python benchmarks/encoding.py --questions v2_Questions_Val_mscoco.zip --output runs/encoding.json

The questions are the official ones (a zip or JSON file); the ten answers of each are invented, in the official format,
so that no annotations are needed. More questions than the file has are the same ones with new ids.
"""

import json
import random
import resource
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

from results import arguments, record

SIZES = (50_000, 100_000, 214_354, 443_757, 650_000)
SPLIT = "train2014"
STEPS = ("read", "vocabulary", "tokenizer", "encode", "ceiling")
WORDS = "yes no 0 1 2 3 white red blue black green brown dog cat man woman table pizza tennis grass frisbee".split()


def write_files(folder, questions, size):
    """Questions, invented annotations and (empty) image files of one split in the official layout."""
    rng = random.Random(0)
    rare = [f"{word} {number}" for word in WORDS for number in range(500)]
    asked = [{**questions[i % len(questions)], "question_id": i} for i in range(size)]
    answered = []
    for question in asked:
        main = rng.choice(WORDS if rng.random() < 0.9 else rare)
        texts = [main if rng.random() < 0.6 else rng.choice(rare) for _ in range(10)]
        answers = [{"answer": t, "answer_confidence": "yes", "answer_id": i} for i, t in enumerate(texts, 1)]
        common = {"question_type": " ".join(question["question"].lower().split()[:2]), "answer_type": "other"}
        answered.append({**question, **common, "answers": answers, "multiple_choice_answer": main})
        del answered[-1]["question"]
    (folder / f"v2_OpenEnded_mscoco_{SPLIT}_questions.json").write_text(json.dumps({"questions": asked}))
    (folder / f"v2_mscoco_{SPLIT}_annotations.json").write_text(json.dumps({"annotations": answered}))
    (folder / SPLIT).mkdir()
    for image_id in {question["image_id"] for question in asked}:
        (folder / SPLIT / f"COCO_{SPLIT}_{image_id:012d}.jpg").touch()


def measure(folder, tokenizer):
    """Run in a process of its own: seconds of each step, and the peak memory of this process and its workers."""
    import datasets
    from transformers import AutoTokenizer

    from vqafusion.command_line import peak_memory
    from vqafusion.data_prep import load_split
    from vqafusion.data_prep.answers import build_vocabulary, ceiling, vocabulary_best
    from vqafusion.data_prep.encode import encode, train_tokenizer

    datasets.config.HF_DATASETS_CACHE = Path(folder) / "cache"
    times, peaks, last = {}, {}, time.perf_counter()

    def lap(name):
        nonlocal last
        times[name], last = round(time.perf_counter() - last, 2), time.perf_counter()
        workers = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
        peaks[name] = max(peak_memory(), round(workers, 2))

    rows = load_split("vqa_v2", SPLIT, folder)
    lap("read")
    answers = build_vocabulary(rows["answers"][:], 1000)
    lap("vocabulary")
    tokenizer = AutoTokenizer.from_pretrained(tokenizer) if tokenizer else train_tokenizer(rows["question"][:20_000])
    lap("tokenizer")
    encoded = encode(rows, tokenizer, {answer: i for i, answer in enumerate(answers)}, num_proc=2)
    lap("encode")
    allowed = ceiling(vocabulary_best(encoded, answers))
    lap("ceiling")
    print(json.dumps({"questions": len(encoded), **times, "gib": peaks["ceiling"], "peaks": peaks, "allowed": allowed}))


def read_questions(file):
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            text = archive.read(next(name for name in archive.namelist() if "OpenEnded" in name))
    else:
        text = Path(file).read_bytes()
    return json.loads(text)["questions"]


def main(argv=None):
    parser = arguments(__doc__, "encoding")
    parser.add_argument("--questions", help="official question file, zipped or not")
    parser.add_argument("--tokenizer", help="name or folder; one learned from the questions by default")
    parser.add_argument("--sizes", nargs="+", type=int, default=SIZES)
    parser.add_argument("--measure", help="(for its own processes)")
    args = parser.parse_args(argv)
    if args.measure:
        return measure(args.measure, args.tokenizer)
    if not args.questions:
        parser.error("--questions is needed")
    questions, results = read_questions(args.questions), []
    for size in args.sizes:
        with tempfile.TemporaryDirectory() as folder:
            write_files(Path(folder), questions, size)
            command = [sys.executable, __file__, "--measure", folder]
            command += ["--tokenizer", args.tokenizer] if args.tokenizer else []
            run = subprocess.run(command, check=True, capture_output=True, text=True)
        results.append(json.loads(run.stdout.splitlines()[-1]))
        print(results[-1], flush=True)
    lines = []
    for found in results:
        seconds = sum(found[step] for step in STEPS)
        figures = f"{seconds:.0f} s, {found['gib']} GiB"
        lines.append(
            (f"{found['questions']:,} questions", figures, f"{1e6 * seconds / found['questions']:.0f} µs each")
        )
    record(args, "encoding", results, lines)


if __name__ == "__main__":
    main()

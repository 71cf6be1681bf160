"""Which of two runs is better, and whether that is more than chance.

vqafusion-compare runs/a/minidev2014 runs/b/minidev2014
"""

import argparse
import json

from ..command_line import one_line_errors
from .records import read_run, same_questions
from .scores import p_text, paired_difference


@one_line_errors
def main(argv=None):
    parser = argparse.ArgumentParser(
        description="Compare two eval.py runs on the same questions: paired differences in official accuracy, with "
        "95 % bootstrap intervals over images and the p-value of a randomisation test.",
    )
    parser.add_argument("run_a", help="--output_dir of an eval.py run")
    parser.add_argument("run_b", help="--output_dir of another")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args(argv)
    _, records = read_run(args.run_a)
    _, others = read_run(args.run_b)
    try:
        others = same_questions(records, others)
    except ValueError as error:
        raise ValueError(f"{args.run_b} cannot be compared with {args.run_a}: {error}") from None
    kinds = sorted({record["answer_type"] or "" for record in records})
    rows = {}
    for kind in ("overall", *kinds):
        pairs = [(a, b) for a, b in zip(records, others) if kind in ("overall", a["answer_type"] or "")]
        accuracy = [[pair[side]["accuracy"] for pair in pairs] for side in (0, 1)]
        difference = paired_difference(*accuracy, [a["image_id"] for a, _ in pairs])
        means = [sum(values) / len(pairs) for values in accuracy]
        rows[kind] = {"questions": len(pairs), "a": means[0], "b": means[1], **difference}
    if args.json:
        print(json.dumps(rows))
        return
    print(f"A: {args.run_a}\nB: {args.run_b}\n\n{'':<12}{'A':>8}{'B':>8}{'A − B':>8}   95 % interval          p")
    for kind, row in rows.items():
        interval = "{:+.2f} to {:+.2f}".format(*row["interval"]) if row["interval"] else "of too few images"
        numbers = f"{row['a']:>8.2f}{row['b']:>8.2f}{row['difference']:>+8.2f}"
        print(f"{kind:<12}{numbers}   {interval:<20}{p_text(row['p_value']):>10}")
    if len(kinds) > 1:
        print("\nEach p is of its line alone: among several, one is small by chance more often.")


if __name__ == "__main__":
    main()

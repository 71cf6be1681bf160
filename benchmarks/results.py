"""How the benchmarks take turns, and where their figures go: a JSON file each, and lines of the table in README.md."""

import argparse
import statistics
import time
from pathlib import Path

from vqafusion.command_line import write_json


def arguments(description, name):
    """A parser with what all benchmarks share."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--output", default=f"runs/benchmarks/{name}.json", help="JSON file for the figures")
    parser.add_argument("--table", help="Markdown file whose lines of this benchmark are replaced, such as README.md")
    return parser


def take_turns(sides, rounds, repeats=1):
    """
    Args:
        sides: `{name: function without arguments}`.
        rounds (`int`): how often every side has its turn; one round more goes before, which warms up.
        repeats (`int`): calls per turn, for short ones.

    Returns:
        `{name: [seconds of a call in each round]}`.
    """
    seconds = {name: [] for name in sides}
    for turn in range(rounds + 1):
        for name, function in sides.items():
            start = time.perf_counter()
            for _ in range(repeats):
                function()
            if turn:
                seconds[name].append((time.perf_counter() - start) / repeats)
    return seconds


def times_as_fast(seconds, fast, slow):
    """Median over the rounds of how many times as fast one side was as another in the same round."""
    return round(statistics.median(b / a for a, b in zip(seconds[fast], seconds[slow])), 2)


def spread(values, digits=2):
    """`{"median", "least", "most"}` of several rounds' figures."""
    found = {"median": statistics.median(values), "least": min(values), "most": max(values)}
    return {name: round(value, digits) for name, value in found.items()}


def shown(figure, unit=""):
    """What [`spread`] made, as text."""
    return f"{figure['median']:g}{unit} [{figure['least']:g}–{figure['most']:g}]"


def rates(seconds, questions):
    """Questions per second of each side that [`take_turns`] timed, as [`spread`] gives them."""
    return {name: spread([questions / each for each in values]) for name, values in seconds.items()}


def sides_shown(rates):
    """What [`rates`] made, as text."""
    return ", ".join(f"{name} {shown(figure, '/s')}" for name, figure in rates.items())


def ratios_shown(ratios):
    """`{other side: how many times as fast}` as text."""
    return ", ".join(f"{value} × {other}" for other, value in ratios.items())


def record(args, name, result, lines):
    """
    Args:
        args: what [`arguments`]' parser read.
        name (`str`): of the script, without its ending.
        result (`dict`): goes into the JSON file.
        lines: `(case, figures, ratio)` each, three texts for the table.
    """
    output = Path(args.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_json(output, result)
    rows = [f"| [{name}]({name}.py) | {' | '.join(line)} |" for line in lines]
    print("\n".join(rows))
    if args.table:
        table = Path(args.table)
        kept = table.read_text().splitlines()
        old = [number for number, line in enumerate(kept) if line.startswith(f"| [{name}](")]
        rows_end = max((number + 1 for number, line in enumerate(kept) if line.startswith("|")), default=len(kept))
        at = old[0] if old else rows_end
        kept = [line for number, line in enumerate(kept) if number not in old]
        table.write_text("\n".join([*kept[:at], *rows, *kept[at:]]) + "\n")

"""The short runs of a folder here as a table: python results/recipes/screens.py FOLDER [BASE_FOLDER] BASE

Mean and standard deviation over seeds, in %, and the mean difference from the run BASE, seed by seed, with its
standard deviation. Reads table.csv and runs.csv, which `openjepa compare` wrote.
"""

from __future__ import annotations

import csv
import re
import statistics
import sys
from pathlib import Path

HERE = Path(__file__).parent
TASKS = {"knn": "20-NN", "linear": "linear"}


def read(folder: Path) -> dict[str, dict[str, dict[int, float]]]:
    """{run: {task or "seconds" or "images": {seed: number}}}."""
    found: dict[str, dict[str, dict[int, float]]] = {}
    with (folder / "table.csv").open() as file:
        rows = [(row["run"], f"{row['task']} {row['question']}", row["value"]) for row in csv.DictReader(file)]
    with (folder / "runs.csv").open() as file:
        costs = list(csv.DictReader(file))
    rows += [(row["run"], name, row[name]) for row in costs for name in ("images", "seconds")]
    for run, name, value in rows:
        # ijepa-NAME[-momentum-FROM-TO]-seed0, a run's, where --set gave the momentum; or "NAME, seed 0", a control's
        match = re.fullmatch(r"(?:ijepa-)?(.*?)(?:-momentum-[\d.]+-[\d.]+)?(?:-seed|, seed )(\d+)", run)
        assert match is not None
        found.setdefault(match[1], {}).setdefault(name, {})[int(match[2])] = float(value or "nan")
    return found


def spread(values: list[float]) -> str:
    """'47.4 ± 0.5'; nothing for a run that was not measured."""
    if not values:
        return ""
    return f"{statistics.mean(values):.1f}" + (f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else "")


def main(folder: str, *base: str) -> None:
    """Print the table."""
    runs = read(HERE / folder)
    is_here = len(base) == 1
    bases = runs if is_here else read(HERE / base[0])
    if base[-1] not in bases:
        sys.exit(f"no run {base[-1]!r}; there are {', '.join(bases)}")
    against = bases[base[-1]]
    names = [name for name in against if name not in ("images", "seconds")]
    heads = [TASKS.get(name.removesuffix(" class"), name) for name in names]
    lines = [["setting", *(cell for head in heads for cell in (head, f"less `{base[-1]}`")), "images", "seconds"]]
    lines.append(["---"] * len(lines[0]))
    for run, figures in runs.items():
        line = [run]
        for name in names:
            mine = {seed: 100 * value for seed, value in figures.get(name, {}).items()}
            less = [value - 100 * against[name][seed] for seed, value in mine.items() if seed in against[name]]
            line += [spread(list(mine.values())), "" if is_here and run == base[-1] else spread(less)]
        for name in ("images", "seconds"):
            line.append(f"{statistics.mean(figures[name].values()):,.0f}" if name in figures else "")
        lines.append(line)
    sys.stdout.writelines(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""When is which objective ahead on depth? `bench depth --sweep`: ranks, budgets, and a tuned rate for each objective.

The paper has Diff2Flow ahead of naive flow matching, the table of `bench depth` has it behind. Three things differ that
can be varied here: the rank, the budget, and the prediction type of the network (`--model v`). The paper's depth model
is SD2.1, a v network; near pure noise an eps network says x0 only through a division by alpha (docs/math.md).

Learning rates are chosen by the rule of `bench_shared/rates.py`: least AbsRel at 2 NFE on scenes of their own, after
half the largest budget at the middle rank. Budgets are steps of one run at a constant rate.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from diff2flow_kit.nodes.training.load_lora import D2FLoadLora

from .. import Part, Rows, bars, kept, select, spread
from ..rates import TUNING_SEED, rates_of, tuned

OBJECTIVES = ("diff2flow", "naive_fm", "diffusion")
COLUMNS, NFE = ("absrel", "delta1"), (1, 2)
_STEADY = {"lr_schedule": "constant", "resume": "auto"}
OPTIONS = ("sweep", "ranks", "budgets", "rates")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Settings of the sweep."""
    parser.add_argument("--sweep", action="store_true", help="over ranks and budgets, instead of the table")
    parser.add_argument("--ranks", nargs="+", type=int, default=[2, 8, 64])
    parser.add_argument("--budgets", nargs="+", type=int, default=[75, 150, 300, 600])
    parser.add_argument("--rates", nargs="+", type=float, default=[1e-3, 2e-3, 4e-3])


def run(bench: Any, options: argparse.Namespace) -> Rows:
    """Rows of the choice of rates, and of each objective, rank, budget, seed and number of calls.

    bench: what `bench depth` has: `train`, `by_node`, `scores`, `tuning_scenes`, `model`.
    """
    chosen = {name: _kept(options, f"rate-{name}", [], _choice(bench, options, name)) for name in OBJECTIVES}
    rates = {name: rows[0]["rate"] for name, rows in chosen.items()}
    runs = [
        _kept(options, f"{name}-{rank}-{seed}", [rates[name]], _run(bench, options, name, rank, seed, rates[name]))
        for seed in options.seeds
        for rank in options.ranks
        for name in OBJECTIVES
    ]
    return [row for rows in (*chosen.values(), *runs) for row in rows]


def _kept(options: argparse.Namespace, name: str, more: list, rows: Iterator[dict[str, Any]]) -> Rows:
    skipped = ("seeds", "ranks", "work", "quick", "steps", "nfe")
    wanted = {k: v for k, v in vars(options).items() if k not in skipped}
    part: Part = kept(options.work, f"sweep-{name}", [wanted, *more], lambda: {"rows": list(rows)})
    return part["rows"]


def _choice(bench: Any, options: argparse.Namespace, name: str) -> Iterator[dict[str, Any]]:
    rank, steps = sorted(options.ranks)[len(options.ranks) // 2], max(options.budgets) // 2
    images, depth = bench.tuning_scenes()

    def error(rate: float) -> float:
        run_name = f"tune_{name}_{rate:g}"
        lora = bench.train(name, TUNING_SEED, run_name, rank=rank, steps=steps, learning_rate=rate, **_STEADY)
        model = D2FLoadLora.execute(bench.model, "none", 1.0, lora).args[0]
        return bench.scores(bench.by_node(model, TUNING_SEED, 2, images)[1], depth)["absrel"]

    yield tuned(name, options.rates, error)


def _run(
    bench: Any, options: argparse.Namespace, name: str, rank: int, seed: int, rate: float
) -> Iterator[dict[str, Any]]:
    for budget in sorted(options.budgets):  # each goes on where the one before stopped
        widgets = {"rank": rank, "steps": budget, "learning_rate": rate, **_STEADY}
        lora = bench.train(name, seed, f"sweep_{name}_{rank}_{seed}", **widgets)
        model = D2FLoadLora.execute(bench.model, "none", 1.0, lora).args[0]
        for nfe in NFE:
            scores = bench.scores(bench.by_node(model, seed, nfe)[1])
            found = {column: scores[column] for column in COLUMNS}
            yield {"method": name, "rank": rank, "budget": budget, "nfe": nfe, "seed": seed, **found}


def markdown(rows: Rows) -> str:
    """AbsRel at 2 NFE of each rank and budget, who is ahead with every seed, and the chosen rates."""
    lines = ["| rank | steps | " + " | ".join(OBJECTIVES) + " | ahead with every seed |"]
    lines.append("| --- " * (3 + len(OBJECTIVES)) + "|")
    for rank, budget in sorted({(row["rank"], row["budget"]) for row in rows if "budget" in row}):
        cells = {name: select(rows, "absrel", method=name, rank=rank, budget=budget, nfe=2) for name in OBJECTIVES}
        texts = " | ".join(spread(cell, ".4f") for cell in cells.values())
        lines.append(f"| {rank} | {budget} | {texts} | {ahead(cells)} |")
    return "\n".join([*lines, "", *rates_of(rows), ""])


def ahead(cells: dict[str, list[float]]) -> str:
    """The name whose value is the least with every seed; a dash if there is none."""
    firsts = {min(cells, key=lambda name: cells[name][seed]) for seed in range(min(map(len, cells.values())))}
    return firsts.pop() if len(firsts) == 1 else "-"


def plot(rows: Rows, axes: Any) -> None:
    """AbsRel at 2 NFE over steps, a panel a rank; lines are means, bars go from least to most."""
    figure = axes.figure
    axes.remove()
    figure.set_size_inches(11, 4)
    ranks, budgets = ({row[key] for row in rows if key in row} for key in ("rank", "budget"))
    panels = figure.subplots(1, len(ranks), sharey=True, squeeze=False)[0]
    for panel, rank in zip(panels, sorted(ranks)):
        for name in OBJECTIVES:
            cells = [select(rows, "absrel", method=name, rank=rank, budget=b, nfe=2) for b in sorted(budgets)]
            panel.errorbar(sorted(budgets), *bars(cells), marker="o", markersize=3, capsize=2, label=name)
        panel.set_title(f"rank {rank}")
        panel.set_xlabel("training steps")
        panel.set_yscale("log")
    panels[0].set_ylabel("AbsRel, 2 NFE")
    panels[0].legend(fontsize=8)

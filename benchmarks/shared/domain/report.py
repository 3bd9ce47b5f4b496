"""Table and plot of `bench domain`."""

from __future__ import annotations

from typing import Any

from .. import Rows, bars, select, spread
from ..rates import rates_of

FORMS = {"velocity_error": ".4f", "eps_error": ".4f", "frechet": ".2f"}


def markdown(rows: Rows, methods: tuple[str, ...]) -> str:
    """The chosen rates, and a row for each method, rank and budget."""
    lines = ["| method | rank | steps | " + " | ".join(FORMS) + " |", "| --- " * (3 + len(FORMS)) + "|"]
    for method in ("glyphs", "none", *methods):
        for rank, budget in places(rows, method):
            where = {"method": method, "rank": rank, "budget": budget}
            cells = [spread(select(rows, column, **where), form) for column, form in FORMS.items()]
            lines.append(f"| {method} | {rank or ''} | {budget or ''} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *rates_of(rows), ""])


def places(rows: Rows, method: str) -> list[tuple[int, int]]:
    """(rank, budget) of a method's rows, each once."""
    found = {(row["rank"], row["budget"]) for row in rows if row.get("method") == method and "frechet" in row}
    return sorted(found)


def plot(rows: Rows, axes: Any, methods: tuple[str, ...]) -> None:
    """Frechet distance over steps, a panel a rank; lines are means, bars go from least to most."""
    figure = axes.figure
    axes.remove()
    ranks = sorted({rank for method in methods for rank, _ in places(rows, method)})
    panels = figure.subplots(1, len(ranks), sharey=True, squeeze=False)[0]
    for panel, rank in zip(panels, ranks):
        for method in methods:
            budgets = [budget for other, budget in places(rows, method) if other == rank]
            cells = [select(rows, "frechet", method=method, rank=rank, budget=budget) for budget in budgets]
            panel.errorbar(budgets, *bars(cells), marker="o", markersize=3, capsize=2, label=method)
        for value in select(rows, "frechet", method="none")[:1]:
            panel.axhline(value, color="gray", linewidth=0.8, linestyle=":", label="none")
        panel.set_title(f"rank {rank}")
        panel.set_xlabel("training steps")
    panels[0].set_ylabel("Frechet distance, random features")
    panels[0].legend(fontsize=8)

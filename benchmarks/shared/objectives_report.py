"""Tables and plot of `bench objectives`."""

from __future__ import annotations

from statistics import mean
from typing import Any

from . import Rows, bars, select

METHODS = ("none", "diff2flow", "diffusion", "diffusion_ddim", "naive_fm", "integer_timesteps", "stock")


def budgets_and_nfe(rows: Rows) -> tuple[list[int], list[int]]:
    return tuple(sorted({row[key] for row in rows if row.get("budget")}) for key in ("budget", "nfe"))


def markdown(rows: Rows) -> str:
    """Tables of accuracy and Frechet distance, a row a method and NFE, a column a budget: mean (least to most)."""
    budgets, nfes = budgets_and_nfe(rows)
    lines = []
    for name, form in (("accuracy", "{:.2f} ({:.2f} to {:.2f})"), ("frechet", "{:.0f} ({:.0f} to {:.0f})")):
        lines.append(f"| {name} | NFE | {' | '.join(f'{b} steps' for b in budgets)} |")
        lines.append("| --- " * (len(budgets) + 2) + "|")
        for method in METHODS:
            for nfe in nfes:
                fitting = [{"nfe": nfe, "budget": 0 if method == "none" else b} for b in budgets]
                cells = [select(rows, name, method=method, **where) for where in fitting]
                texts = [form.format(mean(cell), min(cell), max(cell)) if cell else "-" for cell in cells]
                lines.append(f"| {method} | {nfe} | {' | '.join(texts)} |")
        lines.append("")
    for row in rows:
        if "vs_diffusion" in row:
            lines.append(f"A step of {row['method']}: {row['cpu_seconds_a_step']:.4f} s of the processor, "
                         f"{row['vs_diffusion']:.3f} times that of diffusion.")  # fmt: skip
    return "\n".join(lines) + "\n"


def plot(rows: Rows, axes: Any) -> None:
    """Accuracy and Frechet distance over steps, a panel an NFE; lines are means, bars go from least to most."""
    figure = axes.figure
    axes.remove()
    figure.set_size_inches(10, 6)
    budgets, nfes = budgets_and_nfe(rows)
    panels = figure.subplots(2, len(nfes), sharex=True, sharey="row", squeeze=False)
    for line, name in zip(panels, ("accuracy", "frechet")):
        for panel, nfe in zip(line, nfes):
            draw_panel(panel, rows, name, nfe, budgets)
        line[0].set_ylabel(name)
    for panel, nfe in zip(panels[0], nfes):
        panel.set_title(f"{nfe} NFE")
    for panel in panels[1]:
        panel.set_xlabel("training steps")
    panels[0][0].legend(fontsize=8)


def draw_panel(panel: Any, rows: Rows, name: str, nfe: int, budgets: list[int]) -> None:
    for method in METHODS[1:]:
        found = [(b, cell) for b in budgets if (cell := select(rows, name, method=method, nfe=nfe, budget=b))]
        if found:
            places, cells = zip(*found)
            panel.errorbar(places, *bars(cells), marker="o", markersize=3, capsize=2, label=method)
    for value in select(rows, name, method="none", nfe=nfe)[:1]:
        panel.axhline(value, color="gray", linewidth=0.8, linestyle=":", label="none")
    panel.set_xscale("log", base=2)
    panel.set_xticks(budgets, [str(budget) for budget in budgets])

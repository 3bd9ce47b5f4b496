"""Table, verdict and plot of `bench depth`."""

from __future__ import annotations

from typing import Any

from .. import Rows, bars, select, spread

TRAINED = ("diff2flow", "naive_fm", "diffusion", "diffusion_flow_times", "integer_timesteps")
METHODS = (*TRAINED, "diffusion_ddim")
BASELINES = ("constant", "luminance", "mean_map", "vae")
COLUMNS = ("absrel", "delta1", "delta2", "rmse")
FORMS = {"absrel": ".4f", "delta1": ".4f"}


def markdown(rows: Rows) -> str:
    """A table with a row for each method and number of calls, and below it the bars and the costs."""
    lines = [f"| method | NFE | {' | '.join(COLUMNS)} |", "| --- " * (len(COLUMNS) + 2) + "|"]
    calls = sorted({row["nfe"] for row in rows})
    for method in (*METHODS, *BASELINES):
        for nfe in calls:
            cells = [spread(select(rows, each, method=method, nfe=nfe), FORMS.get(each, ".3f")) for each in COLUMNS]
            if set(cells) != {"-"}:
                lines.append(f"| {method} | {nfe or ''} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *verdict(rows), ""])


def verdict(rows: Rows) -> list[str]:
    """What each method is judged by, over the seeds, and its cost."""
    lines = []
    for method in METHODS:
        two = {name: select(rows, name, method=method, nfe=2) for name in ("absrel", "delta1")}
        reached = min(two["delta1"]) >= 0.95 and max(two["absrel"]) <= 0.08
        ratios = [one / ten for one, ten in zip(*(select(rows, "absrel", method=method, nfe=n) for n in (1, 10)))]
        lines.append(f"- {method}: delta1 >= 0.95 and AbsRel <= 0.08 at 2 NFE with every seed: {_word(reached)}; "
                     f"AbsRel at 1 NFE by that at 10: {spread(ratios, '.3f')}, <= 1.1 with every seed: "
                     f"{_word(max(ratios) <= 1.1)}")  # fmt: skip
    for method in TRAINED:
        seconds = select(rows, "cpu_seconds", method=method, nfe=2)
        lines.append(f"- {method}: training took {spread(seconds, '.0f')} s of the processor")
    return lines


def _word(true: bool) -> str:
    return "yes" if true else "no"


def plot(rows: Rows, axes: Any) -> None:
    """AbsRel and delta1 over NFE; lines are means, bars go from least to most; dotted: no model."""
    figure = axes.figure
    axes.remove()
    figure.set_size_inches(10, 4.5)
    for panel, column in zip(figure.subplots(1, 2), ("absrel", "delta1")):
        for number, method in enumerate(METHODS):
            calls = sorted({row["nfe"] for row in rows if row["method"] == method})
            centre, reach = bars([select(rows, column, method=method, nfe=nfe) for nfe in calls])
            panel.errorbar(calls, centre, reach, color=f"C{number}", marker="o", markersize=3, capsize=2, label=method)
        for method, color in zip(BASELINES, ("0.75", "0.6", "0.4", "0.1")):
            for value in select(rows, column, method=method):
                panel.axhline(value, color=color, linewidth=1, linestyle=":", label=method)
        panel.set_xscale("log", base=2)
        panel.set_xticks(calls, [str(nfe) for nfe in calls])
        panel.set_xlabel("NFE")
        panel.set_title(column)
    panel.legend(fontsize=7)

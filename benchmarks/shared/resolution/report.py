"""Table and plot of `bench resolution`."""

from __future__ import annotations

from typing import Any

from .. import Rows, bars, select, spread
from ..rates import rates_of

FORMS = {"accuracy": ".3f", "duplicated": ".3f", "frechet": ".1f"}


def sizes(rows: Rows) -> list[str]:
    """Sizes of the rows, each once."""
    return list(dict.fromkeys(row["size"] for row in rows if "size" in row))


def methods(rows: Rows) -> list[str]:
    """Ways to make pictures, each once."""
    return list(dict.fromkeys(row["method"] for row in rows if "method" in row))


def markdown(rows: Rows) -> str:
    """A row for each size, method and number of calls, and the chosen rates."""
    lines = ["| size | method | NFE | " + " | ".join(FORMS) + " |", "| --- " * (3 + len(FORMS)) + "|"]
    for size in sizes(rows):
        for method in methods(rows):
            for nfe in sorted({row["nfe"] for row in rows if row.get("method") == method}):
                where = {"size": size, "method": method, "nfe": nfe}
                cells = [spread(select(rows, column, **where), form) for column, form in FORMS.items()]
                lines.append(f"| {size} | {method} | {nfe or ''} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *rates_of(rows), ""])


def plot(rows: Rows, axes: Any) -> None:
    """Frechet distance at the most calls, bars a method, a panel a size; marks go from least to most."""
    figure = axes.figure
    axes.remove()
    figure.set_size_inches(11, 4.5)
    most, found = max(row["nfe"] for row in rows if "nfe" in row), sizes(rows)
    panels = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    for panel, size in zip(panels, found):
        names = [name for name in methods(rows) if select(rows, "frechet", size=size, method=name, nfe=most)]
        centre, reach = bars([select(rows, "frechet", size=size, method=name, nfe=most) for name in names])
        panel.barh(names, centre, xerr=reach, color="0.7", ecolor="C3", capsize=3)
        for value in select(rows, "frechet", size=size, method="renders")[:1]:
            panel.axvline(value, color="gray", linewidth=0.8, linestyle=":")
        panel.invert_yaxis()
        panel.set_title(f"{size}, {most} NFE")
        panel.set_xlabel("Frechet distance to renders")

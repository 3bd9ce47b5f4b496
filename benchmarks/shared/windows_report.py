"""The table of `bench windows`."""

from __future__ import annotations

from typing import Any

from . import Rows, select, spread


def markdown(rows: Rows) -> str:
    """Distance, accuracy and Frechet distance of each model, windows, rank and number of calls, over the seeds."""
    forms = {"distance": ".4f", "accuracy": ".3f", "frechet": ".1f", "frechet_teacher": ".1f", "straightness": ".4f"}
    lines = [f"| model | windows | rank | NFE | {' | '.join(forms)} |", "| --- " * (len(forms) + 4) + "|"]
    keys = ("model", "windows", "rank", "nfe")
    for about in dict.fromkeys(tuple(row.get(key) for key in keys) for row in rows):
        where = {key: value for key, value in zip(keys, about) if value is not None}
        cells = [str(value or "") for value in about]
        cells += [spread(select(rows, column, **where), form) for column, form in forms.items()]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", "Nearer to the teacher's own end from the same noise:", "", *_gains(rows), ""])


def _gains(rows: Rows) -> list[str]:
    """What several windows gain on one at as many steps, by rank; and a finish on as much plain reflow, at 1 and 2."""
    found, plain = [], {"model": "reflow"}
    for rank in dict.fromkeys(row["rank"] for row in rows if row["model"] == "reflow"):
        for windows in sorted({row["windows"] for row in rows if row["model"] == "reflow"} - {1}):
            where = {"rank": rank, "nfe": windows}
            gain = _nearer(rows, {**plain, "windows": windows, **where}, {**plain, "windows": 1, **where})
            if gain:
                found.append(f"- rank {rank}: {windows} windows at {windows} steps are {gain} nearer than one window")
    for name in ("few_steps", "finish"):
        for windows in sorted({row["windows"] for row in rows if row["model"] == name}):
            for nfe in (1, 2):
                finish, long = {"model": name, "windows": windows, "nfe": nfe}, {"model": "reflow_long", "nfe": nfe}
                if gain := _nearer(rows, finish, long):
                    found.append(f"- {name} after {windows} windows, {nfe} steps: {gain} nearer than reflow_long")
    return found


def _nearer(rows: Rows, one: dict[str, Any], other: dict[str, Any]) -> str:
    """By how much the distance of one model is below another's, over the seeds; "" if a seed of one is missing."""
    nearer, farther = select(rows, "distance", **one), select(rows, "distance", **other)
    if not nearer or len(nearer) != len(farther):
        return ""
    return spread([1 - a / b for a, b in zip(nearer, farther)], ".1%")

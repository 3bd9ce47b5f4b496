"""The table of `bench windows`."""

from __future__ import annotations

from . import Rows, select, spread


def markdown(rows: Rows) -> str:
    """Distance, accuracy and Frechet distance of each model, windows, rank and number of calls, over the seeds."""
    lines = ["| model | windows | rank | NFE | distance | accuracy | frechet_teacher |",
             "| --- | --- | --- | --- | --- | --- | --- |"]  # fmt: skip
    keys = ("model", "windows", "rank", "nfe")
    for about in dict.fromkeys(tuple(row.get(key) for key in keys) for row in rows):
        where = {key: value for key, value in zip(keys, about) if value is not None}
        figures = (select(rows, "distance", **where), select(rows, "accuracy", **where),
                   select(rows, "frechet_teacher", **where))  # fmt: skip
        cells = [str(value or "") for value in about]
        cells += [spread(values, form) for values, form in zip(figures, (".4f", ".3f", ".1f"))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *_gains(rows), ""])


def _gains(rows: Rows) -> list[str]:
    """How much nearer to the teacher several windows come than one, by rank, at as many steps."""
    found = []
    for rank in dict.fromkeys(row["rank"] for row in rows if row["model"] == "reflow"):
        for windows in sorted({row["windows"] for row in rows if row["model"] == "reflow"} - {1}):
            where = {"model": "reflow", "rank": rank, "nfe": windows}
            many, one = (select(rows, "distance", windows=number, **where) for number in (windows, 1))
            if many and len(many) == len(one):
                ratios = [1 - a / b for a, b in zip(many, one)]
                found.append(f"- rank {rank}: {windows} windows at {windows} steps are {spread(ratios, '.1%')} nearer "
                             "to the teacher than one window")  # fmt: skip
    return found

"""Tables of `bench flow`."""

from __future__ import annotations

from . import Rows, select, spread


def markdown(rows: Rows) -> str:
    """What was named and refused, what a LoRA has learned, and what reflow has done."""
    tables = {"probe": [*probes(rows), "", *refusals(rows)], "cyan": learned(rows), "reflow": reflowed(rows)}
    return "\n".join(line for part, table in tables.items() if of_part(rows, part) for line in (*table, ""))


def of_part(rows: Rows, part: str) -> Rows:
    return [row for row in rows if row["part"] == part]


def names(rows: Rows, key: str) -> list[str]:
    return list(dict.fromkeys(row[key] for row in rows))


def probes(rows: Rows) -> list[str]:
    """A row a network: how often it was named right, and the figures over all probes."""
    lines = ["| network | named right | relative error | next best | difference of squares | slope off by |"]
    lines.append("| --- " * 6 + "|")
    for name in names(of_part(rows, "probe"), "network"):
        mine = [row for row in of_part(rows, "probe") if row["network"] == name]
        gaps = [row["next"] ** 2 - row["error"] ** 2 for row in mine]
        columns = [[row[key] for row in mine] for key in ("error", "next")]
        after = ", ".join(sorted({row["after"] for row in mine}))
        lines.append(
            f"| {name} | {sum(row['right'] for row in mine)} of {len(mine)} | {spread(columns[0], '.2f')} | "
            f"{spread(columns[1], '.2f')}: {after} | {min(gaps):.2f} and more | "
            f"{max(row['slope_off'] for row in mine):.2f} at most |"
        )
    return lines


def refusals(rows: Rows) -> list[str]:
    """A row a kind of wrong latents: how often no network was named."""
    lines = ["| latents | refused | slope off by |", "| --- | --- | --- |"]
    for name in names(of_part(rows, "refuse"), "latents"):
        mine = [row for row in of_part(rows, "refuse") if row["latents"] == name]
        off = min(row["slope_off"] for row in mine)
        lines.append(f"| {name} | {sum(row['right'] for row in mine)} of {len(mine)} | {off:.2f} and more |")
    return lines


def learned(rows: Rows) -> list[str]:
    """A row a LoRA and number of calls."""
    lines = ["| cyan | NFE | accuracy | new | kept | frechet |", "| --- " * 6 + "|"]
    return lines + cells(rows, "cyan", {"accuracy": ".2f", "new": ".2f", "kept": ".2f", "frechet": ".0f"})


def reflowed(rows: Rows) -> list[str]:
    """A row a model and number of calls."""
    lines = ["| reflow | NFE | accuracy | frechet |", "| --- " * 4 + "|"]
    return lines + cells(rows, "reflow", {"accuracy": ".3f", "frechet": ".1f"})


def cells(rows: Rows, part: str, forms: dict[str, str]) -> list[str]:
    mine, lines = of_part(rows, part), []
    for method in names(mine, "method"):
        for nfe in sorted({row["nfe"] for row in mine if row["method"] == method}):
            texts = [spread(select(mine, key, method=method, nfe=nfe), form) for key, form in forms.items()]
            lines.append(f"| {method} | {nfe} | {' | '.join(texts)} |")
    return lines

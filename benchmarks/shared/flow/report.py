"""Tables of `bench flow`."""

from __future__ import annotations

from .. import Rows, select, spread


def markdown(rows: Rows) -> str:
    """What was named and refused, what a LoRA has learned, what reflow has done, and what is left below t_min."""
    parts = [part for part in TABLES if of_part(rows, part)]
    return "\n".join(line for part in parts for line in (*TABLES[part](rows), ""))


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


def below(rows: Rows) -> list[str]:
    """A row a network and time below t_min, and a line on the latents."""
    mine = of_part(rows, "below")
    lines = ["| below t_min | t | best delta^2 | delta = 0 | delta = 1 | best delta | change by delta = 1 |"]
    lines.append("| --- " * 7 + "|")
    forms = {"best": ".2f", "as_is": ".4f", "as_v": ".4f", "corrected": ".4f"}
    for name, measure in (("ideal", "error"), ("demo", "loss")):
        for t in sorted({row["t"] for row in mine if row["network"] == name}):
            found = {key: select(mine, key, network=name, t=t) for key in forms}
            change = spread([one / zero - 1 for one, zero in zip(found["as_v"], found["as_is"])], "+.1%")
            cells = [f"{name}, {measure}", f"{t:g}", *(spread(found[key], form) for key, form in forms.items()), change]
            lines.append(f"| {' | '.join(cells)} |")
    forms = {"variance": ".2f", "first": ".0f", "second": ".0f", "third": ".0f"}
    value, *first = (spread(select(mine, key, network="latents"), form) for key, form in forms.items())
    return [*lines, "", f"Variance of the latents: {value} per value, along the first directions {', '.join(first)}."]


TABLES = {"probe": probes, "refuse": refusals, "cyan": learned, "reflow": reflowed, "below": below}
"""Part of the rows -> its table, in their order."""

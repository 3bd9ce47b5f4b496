"""The rule by which a learning rate is chosen, the same for every objective.

Each rate of one list trains the same few steps, with a seed and items that the results do not use; the rate with the
least error is taken for all ranks, budgets and seeds of that objective. If it is an end of the list, the row says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

TUNING_SEED = 1000


def tuned(name: str, rates: Sequence[float], error: Callable[[float], float]) -> dict[str, Any]:
    """A row with the rate of least error, and the errors of all; an error that is not a number counts as infinite."""
    tried = {rate: error(rate) for rate in sorted(rates)}
    best = min(tried, key=lambda rate: tried[rate] if tried[rate] == tried[rate] else float("inf"))
    texts = ", ".join(f"{rate:g}: {value:.4g}" for rate, value in tried.items())
    return {"tuned": name, "rate": best, "at_edge": len(tried) > 1 and best in (min(tried), max(tried)), "tried": texts}


def rates_of(rows: list[dict[str, Any]]) -> list[str]:
    """A line for each choice among the rows: what every learning rate came to."""
    lines = []
    for row in rows:
        if "tuned" in row:
            edge = "; an end of the list, so a rate beyond might be better" if row["at_edge"] else ""
            lines.append(f"- {row['tuned']}: learning rate {row['rate']:g} ({row['tried']}{edge})")
    return lines

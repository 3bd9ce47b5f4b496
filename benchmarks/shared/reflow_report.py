"""Table, verdict and plot of `bench reflow`."""

from __future__ import annotations

from typing import Any

from . import Rows, bars, select, spread

STUDENTS = ("reflow", "reflow_diffusion", "reflow_integer")
MODELS = ("teacher", "ddim", "converted", *STUDENTS)


def ways(rows: Rows, name: str) -> list[tuple[int, float]]:
    """(NFE, guidance) of a model's rows, each once."""
    return list(dict.fromkeys((row["nfe"], row["cfg"]) for row in rows if row["model"] == name))


def markdown(rows: Rows) -> str:
    """A table with a row for each model, NFE and guidance, and below it the figures that reflow is judged by."""
    forms = {"accuracy": ".3f", "frechet": ".1f", "frechet_teacher": ".1f", "straightness": ".4f"}
    lines = [f"| model | NFE | CFG | {' | '.join(forms)} |", "| --- " * (len(forms) + 3) + "|"]
    for name in MODELS:
        for nfe, cfg in ways(rows, name):
            cells = [spread(select(rows, column, model=name, nfe=nfe, cfg=cfg), form) for column, form in forms.items()]
            lines.append(f"| {name} | {nfe} | {cfg:g} | {' | '.join(cells)} |")
    floor = [spread(select(rows, column, model="renders"), form) for column, form in forms.items()]
    lines += [f"| renders |  |  | {' | '.join(floor)} |", "", *verdict(rows), ""]
    return "\n".join(lines)


def verdict(rows: Rows) -> list[str]:
    """Ratios of reflow to what it is compared with, over the seeds, and the costs."""
    two, four = {"nfe": 2, "cfg": 1.0}, {"nfe": 4, "cfg": 1.0}
    lines = []
    for name in STUDENTS:
        ratios = {
            "accuracy at 2 NFE by the teacher's": ratio(rows, "accuracy", {"model": name, **two}, {"model": "teacher"}),
            "straightness of the converted model by its own":
                ratio(rows, "straightness", {"model": "converted", **four}, {"model": name, **two}),
            "straightness of the guided teacher by its own":
                ratio(rows, "straightness", {"model": "teacher"}, {"model": name, **two}),
        }  # fmt: skip
        for column, what in (("frechet", "renders"), ("frechet_teacher", "the teacher's samples")):
            ratios[f"Frechet distance to {what} at 2 NFE by the converted model's at 4"] = ratio(
                rows, column, {"model": name, **two}, {"model": "converted", **four})  # fmt: skip
        lines += [f"- {name}: {text}: {spread(values, '.3f')}" for text, values in ratios.items()]
        lines.append(f"- {name}: training took {spread(select(rows, 'cpu_seconds', model=name, **two), '.0f')} s "
                     "of the processor")  # fmt: skip
    for row in rows:
        if row["model"] == "pairs":
            lines.append(f"- pairs: {row['pairs_a_second']:g} a second at {row['steps']} steps, "
                         f"{row['vs_sampling']:g} times the rate of plain sampling")  # fmt: skip
    return lines


def ratio(rows: Rows, column: str, above: dict[str, Any], below: dict[str, Any]) -> list[float]:
    """Quotients of two models' values, one per seed."""
    return [a / b for a, b in zip(select(rows, column, **above), select(rows, column, **below), strict=True)]


def plot(rows: Rows, axes: Any) -> None:
    """Accuracy and both Frechet distances over NFE; lines are means, bars go from least to most."""
    figure = axes.figure
    axes.remove()
    figure.set_size_inches(12, 4.2)
    panels = figure.subplots(1, 3)
    for panel, column in zip(panels, ("accuracy", "frechet", "frechet_teacher")):
        for name in MODELS:
            for cfg in dict.fromkeys(cfg for _, cfg in ways(rows, name)):
                draw_line(panel, rows, column, name, cfg)
        for value in select(rows, column, model="renders")[:1]:
            panel.axhline(value, color="gray", linewidth=0.8, linestyle=":", label="renders")
        panel.set_xscale("log", base=2)
        calls = sorted({nfe for name in MODELS for nfe, _ in ways(rows, name)})
        panel.set_xticks(calls, [str(nfe) for nfe in calls])
        panel.set_xlabel("NFE")
        panel.set_title(column)
    panels[1].legend(fontsize=7)


def draw_line(panel: Any, rows: Rows, column: str, name: str, cfg: float) -> None:
    places = sorted(nfe for nfe, guidance in ways(rows, name) if guidance == cfg)
    cells = [select(rows, column, model=name, nfe=nfe, cfg=cfg) for nfe in places]
    centre, reach = bars(cells)
    label, style = (name, "-") if cfg == 1 else (f"{name}, CFG {cfg:g}", "--")
    color = f"C{MODELS.index(name)}"
    panel.errorbar(places, centre, reach, color=color, ls=style, marker="o", markersize=3, capsize=2, label=label)

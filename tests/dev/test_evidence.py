"""docs/evidence.md: every figure is a mean of rows that are committed, every test that it names exists."""

import json
import re
from statistics import mean

import pytest

FIGURE = re.compile(r"`(\w+): (\w+)\(([^)]*)\) = ([\d.]+)`")
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
VERDICTS = {"reproduced", "partly", "not reproduced", "not tested"}


def claims(root):
    """(claim, verdict, what shows it) of every row."""
    lines = (root / "docs" / "evidence.md").read_text(encoding="utf-8").splitlines()
    return [tuple(cell.strip() for cell in line.strip("|").split(" | ")) for line in lines if line.startswith("| ")][2:]


def value_of(root, file, column, where):
    """Mean of the column over the rows that match; rows without it do not count."""
    wanted = dict(part.split("=") for part in where.split(", "))
    rows = json.loads((root / "benchmarks" / "results" / f"{file}.json").read_text(encoding="utf-8"))["rows"]

    def matches(row):
        return row.get(column) is not None and all(
            key in row and (f"{row[key]:g}" if isinstance(row[key], float) else str(row[key])) == value
            for key, value in wanted.items()
        )

    found = [row[column] for row in rows if matches(row)]
    return mean(found) if found else None


def test_every_claim_has_a_verdict_and_those_that_were_tested_have_a_witness(root):
    found = claims(root)
    assert len(found) > 12
    for claim, verdict, shown in found:
        assert claim and verdict in VERDICTS, claim
        assert (verdict == "not tested") != bool(FIGURE.search(shown) or TEST.search(shown)), claim


def test_every_figure_is_that_of_the_committed_rows(root):
    cited = [found for _, _, shown in claims(root) for found in FIGURE.findall(shown)]
    assert len(cited) > 20
    for file, column, where, text in cited:
        value = value_of(root, file, column, where)
        assert value is not None, f"no row of {file}: {where}"
        assert f"{value:.{len(text.partition('.')[2])}f}" == text, (file, column, where, value)


def test_no_figure_is_written_in_a_way_that_the_test_overlooks(root):
    for claim, _, shown in claims(root):
        spans = [span for span in re.findall(r"`[^`]+`", shown) if "=" in span]
        assert [span for span in spans if not FIGURE.fullmatch(span)] == [], claim


@pytest.mark.parametrize("where", ["method=diff2flow, nfe=10, budget=99", "method=nobody"])
def test_a_row_that_is_not_there_is_not_found(root, where):
    assert value_of(root, "objectives", "accuracy", where) is None


def test_every_test_that_is_named_exists(root):
    named = [found for _, _, shown in claims(root) for found in TEST.findall(shown)]
    assert named
    for file, name in named:
        assert f"def {name}(" in (root / file).read_text(encoding="utf-8"), (file, name)

"""docs/trainers.md: every row is whole, and what it says that ours can do names a test that exists."""

import ast
import re
from functools import cache

import pytest

COLUMNS = ["feature", "Diff2Flow Kit", "stock", "FluxTrainer", "ai-toolkit", "OneTrainer", "kohya"]
CELL = re.compile(r"yes|no|\?|(yes|no|partly): \S.*")
NOTE = re.compile(r"\[\^(\w+)\]")
TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


@pytest.fixture(scope="module")
def lines(root):
    return (root / "docs" / "trainers.md").read_text(encoding="utf-8").splitlines()


def cells(line):
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


@pytest.fixture(scope="module")
def rows(lines):
    """The rows of all tables that compare, without their heads."""
    found, inside = [], False
    for line in lines:
        inside = line.startswith("|") and (inside or cells(line) == COLUMNS)
        if inside and cells(line) != COLUMNS and not set(line) <= set("|- "):
            found.append(cells(line))
    return found


@pytest.fixture(scope="module")
def notes(lines):
    """Name of a footnote -> its text."""
    found = [re.match(r"\[\^(\w+)\]: (.*)", line) for line in lines]
    pairs = [match.groups() for match in found if match]
    assert len(dict(pairs)) == len(pairs), "a footnote is there twice"
    return dict(pairs)


@pytest.fixture(scope="module")
def tests_of(root):
    """`tests_of("tests/dev/test_x.py")` -> the names of its tests."""

    @cache
    def names(path):
        tree = ast.parse((root / path).read_text(encoding="utf-8"))
        return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}

    return names


def test_there_are_many_rows_with_all_columns(rows):
    assert len(rows) >= 40
    assert len({row[0] for row in rows}) == len(rows), "a feature is there twice"
    for row in rows:
        assert len(row) == len(COLUMNS) and row[0], row
        assert all(CELL.fullmatch(NOTE.sub("", cell)) for cell in row[1:]), row


def test_what_ours_can_do_is_proved(rows, notes):
    for feature, ours, *others in rows:
        claims = ours.startswith(("yes", "partly"))
        assert bool(NOTE.search(ours)) == claims, f"{feature}: {ours}"
        assert not any(NOTE.search(cell) for cell in others), feature
    used = {name for row in rows for name in NOTE.findall(row[1])}
    assert used == notes.keys()


def test_every_named_test_exists(notes, tests_of):
    for name, text in notes.items():
        assert re.sub(rf"{TEST.pattern}(, )?", "", text) == "" and TEST.search(text), f"{name}: {text}"
        for path, test in TEST.findall(text):
            assert test in tests_of(path), f"{name}: {path} has no {test}"

"""The README is short, the pages of docs/ are in their index, links lead somewhere, and pictures come from commands."""

import re

import pytest

from devtools.screenshots import GRAPHS

MOST_LINES = 180
LINK = re.compile(r"\]\(([^)\s]+)\)")
INDEX = "docs/README.md"


def pages(root):
    """The README and every page of docs/, by their names from the root."""
    return [root / "README.md", *sorted((root / "docs").glob("*.md"))]


def without_code(text):
    """Text whose blocks and spans of code are blank, as nothing in them is a link or a heading."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"(?<=\n\n)(?: {4}.*\n)+", "", text)
    return re.sub(r"`[^`\n]*`", "", text)


def links(page):
    """(target, heading) of every relative link of a page; an empty target is the page itself."""
    found = LINK.findall(without_code(page.read_text(encoding="utf-8")))
    return [link.partition("#")[::2] for link in found if "://" not in link]


def headings(page):
    """The names that GitHub gives the headings of a page."""
    lines = re.findall(r"^#{1,6} +(.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    lines = [re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", line) for line in lines]
    return {re.sub(r"[^\w\- ]", "", line.lower()).strip().replace(" ", "-") for line in lines}


def faults(page):
    """The links of a page that lead nowhere."""
    for target, heading in links(page):
        file = page.parent / target if target else page
        if not file.exists():
            yield f"{page.name}: {target}"
        elif heading and heading not in headings(file):
            yield f"{page.name}: {target}#{heading}"


def test_the_readme_is_short(root):
    assert len((root / "README.md").read_text(encoding="utf-8").splitlines()) <= MOST_LINES


def test_every_relative_link_leads_to_a_file_and_a_heading(root):
    assert len(pages(root)) > 10
    assert [fault for page in pages(root) for fault in faults(page)] == []


def test_a_link_that_leads_nowhere_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A `name`, and: more\n\n[a](#a-name-and-more) [b](#b) [c](no.md) `[d](d.md)` [e](page.md#e)\n")
    assert list(faults(page)) == ["page.md: #b", "page.md: no.md", "page.md: page.md#e"]


def test_every_page_is_in_the_index(root):
    index = root / INDEX
    listed = {(index.parent / target).resolve() for target, _ in links(index) if target}
    rooms = {path for path in (root / "docs").iterdir() if path.suffix in {".md", ".py"}}
    assert sorted(path.name for path in rooms - listed - {index}) == []
    assert index in {(root / target).resolve() for target, _ in links(root / "README.md")}


def command_behind(root, picture):
    """The command that makes a picture of the repository; a KeyError if there is none."""
    demo = pytest.importorskip("devtools.demo")
    if picture.parent == root / "benchmarks" / "results":
        commands = {
            name + suffix: f"python dev.py bench {name}{option}"
            for name in pytest.importorskip("devtools.bench").names()
            for suffix, option in {"": "", "_v": " --model v", "_sweep": " --sweep", "_sweep_v": " --sweep"}.items()
        }
        return commands[picture.stem.removesuffix("_grid")]
    commands = {
        **dict.fromkeys([*demo.DOCS, *demo.PLOTS], "python dev.py demo"),
        **dict.fromkeys(GRAPHS, "python dev.py test --browser --pictures"),
    }
    return commands[picture.name]


def pictures(page):
    """(file, the text from there to the next picture or heading) of every picture of a page."""
    parts = re.split(r"!\[[^\]]*\]\(([^)]+)\)", page.read_text(encoding="utf-8"))
    return [
        ((page.parent / path).resolve(), re.split(r"^#", text, flags=re.MULTILINE)[0])
        for path, text in zip(parts[1::2], parts[2::2], strict=True)
    ]


def test_every_picture_is_made_by_a_command_that_is_named_beside_it(root):
    shown = [(page, *each) for page in pages(root) if page != root / INDEX for each in pictures(page)]
    assert len([page for page, _, _ in shown if page.name == "README.md"]) == 3 and len(shown) > 10
    silent = [(page.name, file.name) for page, file, text in shown if command_behind(root, file) not in text]
    assert silent == []

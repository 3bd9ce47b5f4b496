"""The in-app help: one page per node, which names every input, output and option, and nothing that does not exist.

`docs/<node>.md` is English, `docs/<node>/<language>.md` is its translation, which has to say the same.
"""

import re
from pathlib import Path

import pytest

from devtools.schemas import LISTED, walk
from devtools.snapshot import LOCALES, read
from devtools.words import key

SECTIONS = ["Inputs", "Outputs", "Example", "Mistakes people make"]
# Regex for the unit of a number, which its line on the page has to match. None: it has no unit.
UNITS = {
    "accumulation": "Batches",
    "alpha": None,
    "atol": "latent units",
    "batch_size": "at once|forward pass",
    "bucket_step": "pixels",
    "caption_dropout": "Share",
    "caption_variants": "per image",
    "cfg": None,
    "cfg_2": None,
    "clip": "norm",
    "colour": "Strength",
    "count": "Number|Paths|Pairs",
    "crop": "part of a side",
    "denoise": None,
    "density_mean": "logit",
    "density_std": "logit",
    "dropout": "Share",
    "ema": "per step",
    "ensemble": "Samples",
    "epochs": "in epochs",
    "height": "pixels",
    "high_percentile": "Percentiles",
    "huber_delta": "latent units",
    "invalid_value": "Stored value",
    "keep_tokens": "Number of tags",
    "learning_rate": "per step",
    "low_percentile": "Percentiles",
    "max_nfe": "model evaluations",
    "mean": "logit",
    "preview_cfg": None,
    "preview_every": "Steps",
    "rank": None,
    "rank_ratio": "share",
    "reference_steps": "Steps",
    "regularisation_weight": "Weight of the loss",
    "repeats": "Rows",
    "resolution": "pixels",
    "rtol": "fraction",
    "save_every": "Steps",
    "seed": None,
    "shard_size": "Pairs",
    "shift": None,
    "std": "logit",
    "steps": "[Ss]teps",
    "strength": "Factor",
    "t_high": "flow times",
    "t_low": "flow times",
    "tag_dropout": "Probability",
    "target_scale": "Factor",
    "text_encoder_lr": "Learning rate",
    "text_encoder_rank": "Rank",
    "unmasked_weight": "Weight of the loss",
    "validate_every": "Steps",
    "variants": "versions",
    "warmup_steps": "[Ss]teps",
    "weight_decay": "per step",
    "weight_gamma": None,
    "width": "pixels",
}
DOCS = Path(__file__).parents[2] / "web" / "docs"
PAGES = sorted(DOCS.glob("*.md"))
TRANSLATIONS = sorted(DOCS.glob("*/*.md"))
ITEM = re.compile(r"- ((?:`\w+`(?:, )?)+)(?: \(([^)]+)\))?: (.+)")


def section(text, title):
    return text.split(f"\n## {title}\n")[1].split("\n## ")[0] if f"\n## {title}\n" in text else ""


def items(text, title):
    """{name: (marks, meaning)} of a section whose items are like "- `width`, `height` (optional): In pixels.".

    Lists, as the page cuts tables off: it shows the help in a narrow column.
    """
    found = {}
    for line in re.findall(r"^- .*$", section(text, title), re.MULTILINE):
        names, marks, meaning = ITEM.fullmatch(line).groups()
        found |= dict.fromkeys(re.findall(r"`(\w+)`", names), (marks or "", meaning))
    return found


@pytest.fixture(params=PAGES, ids=lambda path: path.stem)
def page(request):
    return request.param.read_text(encoding="utf-8")


@pytest.fixture
def schema(request, schemas):
    return schemas[request.node.callspec.params["page"].stem]


@pytest.fixture
def inputs(schema):
    """{name: input}; nested ones go by their own name."""
    return {name.split(".")[-1]: one for name, one in walk(schema.inputs)}


def test_every_node_has_a_page_and_no_page_is_left_over(schemas):
    assert {path.stem for path in PAGES} == set(schemas)


def test_sections(page, schema):
    """What it is, under the node's name; when to use it; then the rest, in this order."""
    titles = re.findall(r"^# (.+)$", page, re.MULTILINE)
    assert titles == [schema.display_name]
    what, when = page.split("\n## ")[0].split("\n\n**When.** ")
    assert len(what.split("\n\n", 1)[1]) > 60 and len(when) > 40
    expected = [title for title in SECTIONS if title != "Inputs" or schema.inputs]
    assert [title for title in re.findall(r"^## (.+)$", page, re.MULTILINE) if title in SECTIONS] == expected


def test_inputs_and_outputs_are_those_of_the_node(page, schema, inputs):
    assert set(items(page, "Inputs")) == set(inputs)
    assert list(items(page, "Outputs")) == [output.display_name for output in schema.outputs]


def test_optional_and_advanced_ones_are_marked(page, schema):
    rows = items(page, "Inputs")
    for one in schema.inputs:
        assert ("optional" in rows[one.id][0]) == bool(one.optional), one.id
    for name, one in walk(schema.inputs):
        assert ("advanced" in rows[name.split(".")[-1]][0]) == bool(getattr(one, "advanced", False)), name


def test_options_are_named(page, schema):
    for name, one in walk(schema.inputs):
        if one.id not in LISTED:
            for option in getattr(one, "options", None) or []:
                assert f"`{getattr(option, 'key', option)}`" in page, (name, option)


def test_numbers_have_their_unit(page, inputs):
    rows = items(page, "Inputs")
    for name, one in inputs.items():
        if one.get_io_type() in ("INT", "FLOAT") and UNITS[name]:
            assert re.search(UNITS[name], rows[name][1]), (name, UNITS[name], rows[name][1])


def test_there_is_an_example_and_there_are_mistakes(page):
    example, mistakes = (section(page, title) for title in SECTIONS[2:])
    assert len(example.strip()) > 40
    assert len(re.findall(r"^- \*.+?\*", mistakes, re.MULTILINE)) >= 2


def test_nothing_is_wider_than_the_help(page):
    """No tables, no blocks of code, no long paths; the browser tests look at the true width."""
    assert not re.search(r"^(\||```)", page, re.MULTILINE)
    assert [word for code in re.findall(r"`([^`\n]+)`", page) for word in code.split() if len(word) > 27] == []


def shape(text):
    """Headings by their level, and items of lists by the names that they begin with."""
    lines = re.findall(r"^(#+|-) (.*)$", text, re.MULTILINE)
    heads = [(mark, re.split(": |\uff1a", rest)[0]) for mark, rest in lines]
    return [(mark, re.findall(r"`(\w+)`", head) if mark == "-" else []) for mark, head in heads]


def facts(text):
    """All code and all numbers of a page, whatever the language."""
    code = set(re.findall(r"`[^`\n]+`", text))
    return code, set(re.findall(r"\d+(?:[.,^]\d+)*(?:e-?\d+)?", text))


@pytest.fixture(params=TRANSLATIONS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def translation(request):
    return request.param


def test_every_page_is_translated(schemas):
    languages = {path.name for path in LOCALES.iterdir()} - {"en"}
    assert {(path.parent.name, path.stem) for path in TRANSLATIONS} == {(n, la) for n in schemas for la in languages}


def test_a_translation_says_the_same(translation):
    english = (DOCS / f"{translation.parent.name}.md").read_text(encoding="utf-8")
    other = translation.read_text(encoding="utf-8")
    assert shape(other) == shape(english)
    assert facts(other) == facts(english)


def test_a_translation_uses_the_names_on_the_page(translation, schemas):
    node, text = translation.parent.name, translation.read_text(encoding="utf-8")
    words = read(LOCALES / translation.stem / "nodeDefs.json")[node]
    assert text.startswith(f"# {words['display_name']}\n")
    schema = schemas[node]
    entries = [(name.split(".")[-1], words["inputs"][key(name)]) for name, _ in walk(schema.inputs)]
    entries += [(output.display_name, words["outputs"][str(i)]) for i, output in enumerate(schema.outputs)]
    for name, entry in entries:
        assert f"{entry['name']} `{name}`" in text, name

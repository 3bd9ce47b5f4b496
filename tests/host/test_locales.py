"""The nodes' words in every language: complete, none left over, and saying the same."""

import json
import re

import pytest

from devtools.schemas import walk
from devtools.snapshot import COMMAND, LOCALES, read
from devtools.words import english, key

LANGUAGES = ["en", "zh"]
NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e-?\d+)?")
IDENTIFIER = re.compile(r"\b[A-Za-z0-9]+(?:_[A-Za-z0-9]+)+\b")
SPECIAL = set("{}|@")  # the page's translator would take these for its own


@pytest.fixture(scope="module")
def words():
    return {language: read(LOCALES / language / "nodeDefs.json") for language in LANGUAGES}


@pytest.fixture(scope="module")
def pairs(words):
    """(place, English, Chinese, English of the node, Chinese of the node) of every description and tooltip."""
    found = []
    for node, mine in words["en"].items():
        other = words["zh"][node]
        found.append((node, mine["description"], other["description"], mine, other))
        for kind in ("inputs", "outputs"):
            for name, entry in mine[kind].items():
                found.append((f"{node}.{name}", entry["tooltip"], other[kind][name]["tooltip"], mine, other))
    return found


def strings(tree):
    return [tree] if isinstance(tree, str) else [text for one in tree.values() for text in strings(one)]


def test_there_are_two_languages():
    assert sorted(path.name for path in LOCALES.iterdir()) == LANGUAGES


@pytest.mark.parametrize("name", ["nodeDefs.json", "main.json"])
def test_english_is_what_the_nodes_say(schemas, name):
    assert read(LOCALES / "en" / name) == english(schemas)[name], f"run `{COMMAND}`"


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_node_input_and_output_has_its_words(schemas, words, language):
    assert list(words[language]) == list(schemas)
    for node, schema in schemas.items():
        entry = words[language][node]
        assert entry["display_name"] and entry["description"]
        inputs = {key(name) for name, _ in walk(schema.inputs)}
        assert set(entry["inputs"]) == inputs, node
        assert list(entry["outputs"]) == [str(i) for i in range(len(schema.outputs))], node
        for name in inputs:
            assert entry["inputs"][name]["name"] and entry["inputs"][name]["tooltip"], (node, name)
        for output in entry["outputs"].values():
            assert output["name"] and output["tooltip"], node


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_sign_means_something_to_the_translator(words, language):
    assert [text for text in strings(words[language]) if set(text) & SPECIAL] == []


def test_other_languages_have_the_same_entries(words):
    def shape(tree):
        return {name: shape(one) if isinstance(one, dict) else None for name, one in tree.items()}

    assert shape(words["zh"]) == shape(words["en"])
    assert shape(read(LOCALES / "zh" / "main.json")) == shape(read(LOCALES / "en" / "main.json"))


def test_what_is_translated_is_not_english(words, pairs):
    chinese = re.compile("[\u4e00-\u9fff]")
    names = [entry["display_name"] for entry in words["zh"].values()]
    assert [name for name in names if not chinese.search(name)] == []
    assert [other for _, _, other, *_ in pairs if not chinese.search(other)] == []


def test_numbers_are_the_same(pairs):
    odd = [place for place, mine, other, *_ in pairs if set(NUMBER.findall(mine)) != set(NUMBER.findall(other))]
    assert odd == []


def test_identifiers_are_the_same(pairs):
    """Names with underscores stand as they are, but for those of inputs, which the page shows translated."""
    for place, mine, other, _, node in pairs:
        for name in IDENTIFIER.findall(mine):
            expected = node["inputs"][name]["name"] if name in node["inputs"] else name
            assert expected in other, place


def test_options_are_explained_by_their_own_names(schemas, words):
    """`t_min: ...` in English is `t_min` in Chinese, as the page shows options untranslated."""
    explained = 0
    for node, schema in schemas.items():
        for name, one in walk(schema.inputs):
            for option in getattr(one, "options", None) or []:
                option = getattr(option, "key", option)
                if re.search(rf"\b{re.escape(option)}:", one.tooltip):
                    explained += 1
                    assert f"{option}\uff1a" in words["zh"][node]["inputs"][key(name)]["tooltip"], (node, name, option)
    assert explained > 30


def test_quoted_names_are_those_on_the_page(pairs):
    """'steps' in English is the translated name of that input, in quotes."""
    quoted = 0
    for place, mine, other, english_node, node in pairs:
        for name in re.findall(r"'(\w+)'", mine):
            if name in english_node["inputs"]:
                quoted += 1
                assert f"\u201c{node['inputs'][name]['name']}\u201d" in other, (place, name)
    assert quoted > 5


def test_nodes_are_called_by_their_names(pairs, words):
    short = re.compile(r" \(|\uff08")
    names = [[short.split(words[lang][node]["display_name"])[0] for lang in LANGUAGES] for node in words["en"]]
    mentioned = 0
    for place, mine, other, *_ in pairs:
        for english_name, name in names:
            if english_name in mine:
                mentioned += 1
                assert name in other, (place, english_name)
    assert mentioned > 15


def test_the_server_hands_out_both_languages(server, words):
    served = json.loads(server.request("/i18n"))
    for language in LANGUAGES:
        assert {node: served[language]["nodeDefs"][node] for node in words[language]} == words[language]
        mine = read(LOCALES / language / "main.json")
        assert served[language]["nodeCategories"].items() >= mine["nodeCategories"].items()
        assert (
            served[language]["templateWorkflows"]["category"].items() >= mine["templateWorkflows"]["category"].items()
        )


def test_every_menu_has_its_words(schemas):
    menus = {part for schema in schemas.values() for part in schema.category.split("/")}
    for language in LANGUAGES:
        assert set(read(LOCALES / language / "main.json")["nodeCategories"]) == menus

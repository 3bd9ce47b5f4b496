"""The text of sample prompts: options as kohya's trainers read them, and errors that name line and option."""

import dataclasses

import pytest

from d2f_data.training.sample_prompts import MOST_PROMPTS, SamplePrompt, parse_prompts


def test_all_options_of_a_line():
    (prompt,) = parse_prompts("a cat, sat --n blurry, (text:1.2) --w 512 --h 768 --s 12 --l 5.5 --d 42")
    assert prompt == SamplePrompt("a cat, sat", "blurry, (text:1.2)", 512, 768, 12, 5.5, 42)


def test_what_a_line_does_not_say_is_that_of_the_defaults():
    defaults = SamplePrompt("", "bad", 640, 64, 3, 2.0, 9, "shifted", 3.0)
    one, two = parse_prompts("a cat\na dog --l 1", defaults)
    assert one == dataclasses.replace(defaults, text="a cat")
    assert two == dataclasses.replace(defaults, text="a dog", cfg=1.0)


@pytest.mark.parametrize("line, expected", [
    ("a cat --W 512 --D 3", SamplePrompt("a cat", width=512, seed=3)),
    ("a cat --d=3   --s  4 ", SamplePrompt("a cat", seed=3, steps=4)),
    ("a cat\t--d 3\r", SamplePrompt("a cat", seed=3)),
    ("--d 3", SamplePrompt("", seed=3)),
    ("well-lit -- a cat --- b", SamplePrompt("well-lit -- a cat --- b")),
    ("a cat --n", SamplePrompt("a cat", negative="")),
    ("\u4e00\u53ea\u732b, caf\u00e9 --n \u6a21\u7cca --d 1",
     SamplePrompt("\u4e00\u53ea\u732b, caf\u00e9", "\u6a21\u7cca", seed=1)),
    ("a\u2028b --d 18446744073709551615", SamplePrompt("a\u2028b", seed=2**64 - 1)),
    ("a cat --l 0", SamplePrompt("a cat", cfg=0.0)),
])  # fmt: skip
def test_a_line(line, expected):
    assert parse_prompts(line, SamplePrompt()) == [expected]


def test_comments_and_empty_lines_are_left_out():
    text = "# header --w nonsense\n\n  \na cat\n   # b --zz\n#\na dog"
    assert [prompt.text for prompt in parse_prompts(text)] == ["a cat", "a dog"]


@pytest.mark.parametrize("line, words", [
    ("a --ss euler", "unknown option --ss; allowed are --n (negative), --w (width)"),
    ("a --w512", "unknown option --w512"),
    ("a --w 512 --w 512", "--w twice"),
    ("a --w 512 --W 64", "--W twice"),
    ("a --w 512 cat", "--w (width) is '512 cat'; it must be a whole number from 64 to 8192"),
    ("a --h", "--h (height) is ''; it must be a whole number"),
    ("a --s 2.5", "--s (steps) is '2.5'; it must be a whole number"),
    ("a --l high", "--l (cfg) is 'high'; it must be a number from 0 to 100"),
    ("a --w 63", "--w (width) is 63; allowed are 64 to 8192"),
    ("a --h 8193", "--h (height) is 8193; allowed are 64 to 8192"),
    ("a --s 0", "--s (steps) is 0; allowed are 1 to 1000"),
    ("a --s 1001", "--s (steps) is 1001"),
    ("a --l -1", "--l (cfg) is -1; allowed are 0 to 100"),
    ("a --l nan", "--l (cfg) is nan"),
    ("a --l inf", "--l (cfg) is inf"),
    ("a --d -1", "--d (seed) is -1; allowed are 0 to 18446744073709551615"),
    ("a --d 18446744073709551616", "--d (seed) is 18446744073709551616"),
    ("a --w 100", "width is 100; it must be a multiple of 8, such as 96"),
])  # fmt: skip
def test_an_error_names_line_option_and_remedy(line, words):
    with pytest.raises(ValueError) as caught:
        parse_prompts(f"# comment\nfine --d 1\n{line}")
    assert str(caught.value).startswith("line 3 of 'prompts'") and words in str(caught.value)


def test_sizes_fit_the_vae():
    assert parse_prompts("a --w 96 --h 96", multiple=32)[0].width == 96
    with pytest.raises(ValueError, match=r"line 1 .*: height is 104; it must be a multiple of 32, such as 96"):
        parse_prompts("a --w 96 --h 104", multiple=32)


@pytest.mark.parametrize("text", ["", "\n \n", "# a"])
def test_no_prompt_is_refused(text):
    with pytest.raises(ValueError, match="there are no prompts; write one per line into 'prompts'"):
        parse_prompts(text)


def test_there_is_a_limit():
    assert len(parse_prompts("a\n" * MOST_PROMPTS)) == MOST_PROMPTS
    with pytest.raises(ValueError, match=f"has {MOST_PROMPTS + 1} prompts; {MOST_PROMPTS} are allowed"):
        parse_prompts("a\n" * (MOST_PROMPTS + 1))


def test_the_identity_is_all_of_it():
    one = SamplePrompt("a", "b", 64, 64, 2, 3.0, 4, "shifted", 5.0)
    changed = {"text": "c", "negative": "c", "width": 72, "height": 72, "steps": 3, "cfg": 2.0, "seed": 5,
               "grid": "uniform", "shift": 2.0, "mean": 1.0, "std": 2.0}  # fmt: skip
    assert set(changed) == {field.name for field in dataclasses.fields(one)}
    others = {dataclasses.replace(one, **{name: value}).identity for name, value in changed.items()}
    assert len(others | {one.identity}) == len(changed) + 1
    assert dataclasses.replace(one).identity == one.identity

"""Write the tokenizer directory: `python demo make_tokenizer`, with `--world second` that of the second world.

A CLIP byte-pair encoding with just enough merges for each word of the captions to be one token; any other
word is split into letters and short pieces. Merges for a word are appended after those of earlier words, so
the encoding of earlier words never changes: until such a word is one token, an older merge applies to it.
"""

import argparse
import json
from pathlib import Path

from .worlds import FIRST, WORLDS

TOKENIZER = FIRST.tokenizer
START, END = "<|startoftext|>", "<|endoftext|>"
Merge = tuple[str, str]


def byte_symbols() -> list[str]:
    """The printable characters that stand for the 256 bytes, as in CLIP and GPT-2."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    moved = [256 + i for i in range(256 - len(kept))]
    return [chr(code) for code in kept + moved]


def encode_word(word: str, ranks: dict[Merge, int]) -> list[str]:
    """Byte-pair pieces of one lower-case word, the last of them marked with </w>."""
    pieces = [*word[:-1], word[-1] + "</w>"]
    while len(pieces) > 1:
        rank, i = min((ranks.get(pair, len(ranks)), i) for i, pair in enumerate(zip(pieces, pieces[1:])))
        if rank == len(ranks):
            break
        pieces[i : i + 2] = ["".join(pieces[i : i + 2])]
    return pieces


def merges_for(words: list[str]) -> list[Merge]:
    """An ordered list of merges that turns each word into one piece."""
    ranks: dict[Merge, int] = {}
    for word in words:
        while len(pieces := encode_word(word, ranks)) > 1:
            ranks[pieces[0], pieces[1]] = len(ranks)
    return list(ranks)


def write_tokenizer(vocabulary: list[str], folder: Path) -> int:
    """Write vocab.json, merges.txt and the two configuration files; returns the number of token types."""
    merges = merges_for(vocabulary)
    letters = byte_symbols()
    symbols = letters + [c + "</w>" for c in letters] + ["".join(m) for m in merges] + [START, END]
    vocab = {symbol: i for i, symbol in enumerate(dict.fromkeys(symbols))}
    folder.mkdir(exist_ok=True)
    lines = ["#version: 0.2", *(" ".join(m) for m in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    config = {
        **special,
        "add_prefix_space": False,
        "do_lower_case": True,
        "errors": "replace",
        "model_max_length": 8192,
        "tokenizer_class": "CLIPTokenizer",
    }
    for name, data in (("vocab.json", vocab), ("special_tokens_map.json", special), ("tokenizer_config.json", config)):
        (folder / name).write_text(json.dumps(data, indent=1) + "\n", encoding="ascii")
    return len(vocab)


def main(argv: list[str]) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="demo make_tokenizer", description=__doc__)
    parser.add_argument("--world", choices=list(WORLDS), default="first")
    world = WORLDS[parser.parse_args(argv).world]
    print(write_tokenizer(world.module("captions").VOCABULARY, world.tokenizer), "token types")

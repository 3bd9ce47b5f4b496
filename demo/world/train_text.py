"""Teach the text encoder which words belong together: `python demo world.train_text --minutes 6`.

From pictures alone, a network of this size learns slowly that in "a red cube left of a blue cone" it is the cube that
is red. So the text encoder first learns to answer, from its state at the noun of each solid, every word that belongs to
that solid, and from its state at the end of the caption every word of the caption. The answers are read off the
caption; what it does not name is not asked. `train_unet --text` starts from these weights and trains them on. Held-out
words are never seen. Cross entropies, AdamW, a cosine schedule over the time budget.
"""

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ..initial import init_weights
from ..make_latents import tokenize
from ..train_log import Clock, import_host, log, save_half
from ..train_unet import encode_text
from ..worlds import SECOND
from .captions import SYNONYMS, caption
from .scenes import COLORS, FLOORS, MATERIALS, RELATIONS, SHAPES, SIZES, TEXTURES, WALLS, sample_scene

BATCH, PEAK_RATE, WARMUP_STEPS, LOG_EVERY = 64, 2e-3, 100, 100
SCENES, CAPTIONS, FRESH = 8192, 3, 512  # the last scenes are for the figures in the log
WORD_SIZE, RESIDUAL_SIZE = 0.16, 0.4  # of the embeddings at first; of the layers' outputs, in that of `initial`
UNNAMED = -100  # what functional.cross_entropy leaves out
PLACES, BOUND = ("first", "second", "third"), ("shape", "color", "texture")
OF_SOLIDS = {"shape": SHAPES, "color": COLORS, "texture": TEXTURES, "material": MATERIALS, "size": SIZES,
             "relation": RELATIONS, "place": PLACES}  # fmt: skip
OF_CAPTIONS = {"relation": RELATIONS, "floor": FLOORS, "wall": WALLS} | {
    f"{place} {name}": OF_SOLIDS[name] for place in PLACES for name in BOUND
}
_MEANT = {said: word for word, options in SYNONYMS.items() for said in options}
_RELATIONS = {said: word for word in RELATIONS for said in SYNONYMS.get(word, (word,))}


def said_in(text: str) -> tuple[list[dict[str, str]], dict[str, str], list[int]]:
    """The words of each solid and those of the whole caption, by name, and the number of each solid's noun."""
    named, *room = text.split(", ")
    words = named.split()
    nouns = [number for number, word in enumerate(words) if _meant(word) in SHAPES]
    starts = [0, *(noun + 1 for noun in nouns)]
    solids = [_said_of_a_solid(words[start : noun + 1]) for start, noun in zip(starts, nouns)]
    whole = {part: _meant(word) for word, part in map(str.split, room)}
    for place, solid in zip(PLACES, solids):
        whole |= {f"{place} {name}": solid[name] for name in BOUND if name in solid}
        whole |= {"relation": solid["relation"]} if "relation" in solid else {}
        solid["place"] = place
    return solids, whole, nouns


def _said_of_a_solid(words: list[str]) -> dict[str, str]:
    """The words of a solid, from those between the noun before it and its own, by name."""
    said = {name: word for name, options in OF_SOLIDS.items() for word in _meanings(words) if word in options}
    together = " ".join(words)
    relations = [word for spoken, word in _RELATIONS.items() if spoken in together]
    return said | ({"relation": relations[0]} if relations else {})


def _meanings(words: list[str]) -> list[str]:
    return [meant for word in words for meant in (_meant(word), word)]


def _meant(word: str) -> str:
    return _MEANT.get(word, word)


def numbers(said: dict[str, str], words: dict[str, tuple[str, ...]]) -> list[int]:
    """The number of what is said in each list of words, UNNAMED where nothing is."""
    return [words[name].index(said[name]) if name in said else UNNAMED for name in words]


class Captions:
    """Tokens (N, length), nouns (N, 3), and the answers at nouns (N, 3, kinds) and at the end (N, kinds)."""

    def __init__(self, texts: list[str]):
        rows = [said_in(text) for text in texts]
        missing = [UNNAMED] * len(OF_SOLIDS)
        self.tokens = tokenize(texts, SECOND).long()
        solids, nouns = [], []
        for said, _, places in rows:
            lacking = len(PLACES) - len(said)
            solids.append([*(numbers(solid, OF_SOLIDS) for solid in said), *[missing] * lacking])
            nouns.append([*(1 + place for place in places), *[0] * lacking])
        self.nouns = torch.tensor(nouns)
        self.of_solids = torch.tensor(solids)
        self.of_captions = torch.tensor([numbers(row[1], OF_CAPTIONS) for row in rows])


class Questions(nn.Module):
    """A linear layer from a state of the text encoder to the logits of each list of words."""

    def __init__(self, width: int, words: dict[str, tuple[str, ...]]):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(width, len(options)) for options in words.values()])

    def forward(self, states: Tensor, answers: Tensor) -> tuple[Tensor, Tensor]:
        """States (..., width) and answers (..., kinds) to the sum of losses and the share of right answers."""
        losses, right = [], []
        for layer, wanted in zip(self.layers, answers.flatten(0, -2).unbind(-1)):
            logits, asked = layer(states.flatten(0, -2)), wanted != UNNAMED
            losses.append(functional.cross_entropy(logits, wanted, reduction="sum") / asked.sum().clamp_min(1))
            right.append((logits.argmax(-1) == wanted)[asked].float())
        return torch.stack(losses).sum(), torch.cat(right).mean()


@torch.no_grad()
def _set_apart(model: nn.Module) -> None:
    """Make words and places larger than what the layers add to them at first, and let places begin as sines.

    Otherwise a word is drowned at its own place, and it takes thousands of steps until a noun finds its adjectives.
    """
    words, places = model.embeddings.token_embedding.weight, model.embeddings.position_embedding.weight
    words.mul_(WORD_SIZE / words.std())
    count, width = places.shape
    angles = torch.arange(count)[:, None] * 100.0 ** -(torch.arange(width // 2) / (width // 2))
    places.copy_(WORD_SIZE * math.sqrt(2) * torch.cat([angles.sin(), angles.cos()], 1))
    for layer in model.encoder.layers:
        for out in (layer.self_attn.out_proj, layer.mlp.fc2):
            out.weight.mul_(RESIDUAL_SIZE)
            out.bias.zero_()


class Pupil(nn.Module):
    """The text encoder with its questions."""

    def __init__(self, seed: int):
        from ..networks import new_text_model
        from .networks import CONFIG, END_TOKEN

        super().__init__()
        self.end, self.text = END_TOKEN, new_text_model(CONFIG)
        width = self.text.clip_l.transformer.text_model.final_layer_norm.weight.numel()
        self.at_nouns, self.at_end = Questions(width, OF_SOLIDS), Questions(width, OF_CAPTIONS)
        init_weights(self, torch.Generator().manual_seed(seed))
        _set_apart(self.text.clip_l.transformer.text_model)

    def forward(self, captions: Captions, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The loss of these rows, and the shares of right answers at nouns and at the end."""
        tokens = captions.tokens[rows]
        states, at = encode_text(self.text, tokens), torch.arange(len(rows))
        of_solids = states[at[:, None], captions.nouns[rows]]
        loss_nouns, right_nouns = self.at_nouns(of_solids, captions.of_solids[rows])
        ends = states[at, (tokens == self.end).int().argmax(1)]
        loss_end, right_end = self.at_end(ends, captions.of_captions[rows])
        return loss_nouns + loss_end, right_nouns, right_end


def main(argv: list[str]) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="demo world.train_text", description=__doc__)
    parser.add_argument("--minutes", type=float, default=6.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--out", type=Path, default=SECOND.weights / "clip.safetensors")
    args = parser.parse_args(argv)
    import_host()
    torch.set_num_threads(args.threads)
    rng, gen = np.random.default_rng(args.seed), torch.Generator().manual_seed(args.seed)
    texts = [caption(scene, rng) for scene in [sample_scene(rng) for _ in range(SCENES)] for _ in range(CAPTIONS)]
    captions, pupil = Captions(texts), Pupil(args.seed)
    opt = torch.optim.AdamW([p for p in pupil.parameters() if p.requires_grad], PEAK_RATE, weight_decay=0.01)
    clock, step, fresh = Clock(), 0, torch.arange(len(texts) - FRESH, len(texts))
    while clock() < 60 * args.minutes:
        rate = min(1.0, (step + 1) / WARMUP_STEPS) * (1 + math.cos(math.pi * clock() / (60 * args.minutes))) / 2
        for group in opt.param_groups:
            group["lr"] = PEAK_RATE * rate
        loss, *_ = pupil(captions, torch.randint(0, len(texts) - FRESH, (BATCH,), generator=gen))
        opt.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(pupil.parameters(), 1.0)
        opt.step()
        step += 1
        if step % LOG_EVERY == 0:
            _figures(pupil, captions, fresh, step=step, seconds=clock(), loss=loss.item())
    save_half(pupil.text.state_dict(), args.out)
    _figures(pupil, captions, fresh, step=step, seconds=clock(), done=True)


@torch.no_grad()
def _figures(pupil: Pupil, captions: Captions, rows: Tensor, **record) -> None:
    loss, at_nouns, at_end = pupil(captions, rows)
    log("text", SECOND.log, **record, fresh_loss=loss.item(), at_nouns=at_nouns.item(), at_end=at_end.item())

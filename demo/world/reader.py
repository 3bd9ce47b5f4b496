"""Reads still lifes from pictures alone: which solids there are, with their words and places, and the room.

A small convolutional network looks at 128x128 pixels and answers on a grid of 32x32 cells: how likely the middle of a
solid is here (peaks of this map are the solids), the logits of that solid's words, and where it stands, (x, z) in
metres. The words of floor, wall and style come from pooled features, which also serve for Frechet distances. Relations
follow from the places. It was trained on renders of all words, including those held out from the diffusion model, with
noise, blur and autoencoder round trips; its training is independent of the diffusion model.

Images are (B, H, W, 3) in [0, 1], as ComfyUI's IMAGE; other sizes are resampled to 128x128.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..train_log import load_half
from ..worlds import SECOND
from .scenes import COLORS, FLOORS, MATERIALS, SHAPES, SIZES, STYLES, TEXTURES, WALLS

SIDE, CELL = 128, 4
WORDS = {"shape": SHAPES, "color": COLORS, "texture": TEXTURES, "material": MATERIALS, "size": SIZES}
ROOM = {"floor": FLOORS, "wall": WALLS, "style": STYLES}
FEATURES = 96
_WIDTHS = (24, 48, 96, FEATURES)
_SURE, _MOST = 0.35, 4  # least likelihood of a solid; solids of one picture
_BEHIND = 0.72  # metres; between what "left of" and "in front of" allow in depth


@dataclass(frozen=True)
class Seen:
    """A solid: its word of each of WORDS, and where it stands in metres."""

    words: dict[str, str]
    x: float
    z: float

    def relation_to(self, other: "Seen") -> str:
        """How this solid stands to the other."""
        if abs(self.z - other.z) > _BEHIND:
            return "in front of" if self.z < other.z else "behind"
        return "left of" if self.x < other.x else "right of"


@dataclass(frozen=True)
class Reading:
    """The solids of a picture, surest first, and its word of each of ROOM."""

    solids: tuple[Seen, ...]
    room: dict[str, str]


class Answers(nn.Module):
    """1x1 convolutions to the middles of solids, their places and words."""

    def __init__(self, width: int):
        super().__init__()
        self.middle, self.place = nn.Conv2d(width, 1, 1), nn.Conv2d(width, 2, 1)
        self.words = nn.ModuleDict({name: nn.Conv2d(width, len(words), 1) for name, words in WORDS.items()})
        nn.init.constant_(self.middle.bias, -4.0)  # middles are rare

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Features (B, width, h, w) to maps by name."""
        return {"middle": self.middle(x), "place": self.place(x), **{n: head(x) for n, head in self.words.items()}}


class Reader(nn.Module):
    """Four strided stages over colour and pixel coordinates; the last three are merged at a quarter of the size."""

    def __init__(self):
        super().__init__()
        one, two, three, four = _WIDTHS
        self.stages = nn.ModuleList(
            [_stage(5, one, 0), _stage(one, two, 1), _stage(two, three, 2), _stage(three, four, 2)]
        )
        self.across = nn.ModuleList([nn.Conv2d(width, 64, 1) for width in (two, three, four)])
        self.merge = nn.Sequential(_convolution(64, 64, 1), _convolution(64, 64, 1))
        self.answers = Answers(64)
        self.room = nn.ModuleDict({name: nn.Linear(2 * four, len(words)) for name, words in ROOM.items()})

    def look(self, images: Tensor) -> list[Tensor]:
        """Images (B, 3, 128, 128) in [0, 1] to the features of each stage."""
        line = torch.linspace(-1, 1, SIDE, device=images.device, dtype=images.dtype)
        ys, xs = torch.meshgrid(line, line, indexing="ij")
        x, out = torch.cat([images * 2 - 1, torch.stack([xs, ys]).expand(len(images), -1, -1, -1)], 1), []
        for stage in self.stages:
            x = stage(x)
            out.append(x)
        return out

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Images (B, 3, 128, 128) in [0, 1] to maps (B, C, 32, 32) of each solid's answers, and the room's logits."""
        _, fine, middle, coarse = self.look(images)
        x = functional.interpolate(self.across[2](coarse), scale_factor=2.0) + self.across[1](middle)
        x = functional.interpolate(x, scale_factor=2.0) + self.across[0](fine)
        pooled = torch.cat([coarse.mean((2, 3)), coarse.amax((2, 3))], 1)
        return self.answers(self.merge(x)) | {name: head(pooled) for name, head in self.room.items()}


class _Residual(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.branch = nn.Sequential(_convolution(width, width, 1), _convolution(width, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


def _convolution(n_in: int, n_out: int, stride: int) -> nn.Sequential:
    """3x3 convolution, norm and ReLU."""
    return nn.Sequential(nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU())


def _stage(n_in: int, n_out: int, blocks: int) -> nn.Sequential:
    """Half the resolution, then residual blocks."""
    return nn.Sequential(_convolution(n_in, n_out, 2), *(_Residual(n_out) for _ in range(blocks)))


@lru_cache(maxsize=1)
def load_reader() -> Reader:
    """The trained reader in float32 on the CPU, loaded once."""
    reader = Reader()
    reader.load_state_dict(load_half(SECOND.weights / "reader.safetensors"))
    return reader.eval().requires_grad_(False)


@torch.no_grad()
def read(images: Tensor, reader: Reader | None = None) -> list[Reading]:
    """What each picture shows; `reader` is the trained one unless given."""
    net = reader or load_reader()
    parts = [net(part) for part in prepared(images).split(64)]
    answers = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    room = {name: answers[name].argmax(1).tolist() for name in ROOM}
    peaks = _peaks(answers["middle"][:, 0])
    around = {name: functional.avg_pool2d(answers[name], 3, 1, 1) for name in WORDS}
    return [
        Reading(
            tuple(_seen(around, answers["place"], i, y, x) for y, x in places),
            {name: ROOM[name][room[name][i]] for name in ROOM},
        )
        for i, places in enumerate(peaks)
    ]


def features(images: Tensor, reader: Reader | None = None) -> Tensor:
    """Pooled features (B, FEATURES), for a Frechet distance between two sets of images."""
    net = reader or load_reader()
    with torch.no_grad():
        return torch.cat([net.look(part)[-1].mean((2, 3)) for part in prepared(images).split(64)])


def prepared(images: Tensor) -> Tensor:
    """(B, H, W, 3) to (B, 3, 128, 128) in float32 on the CPU."""
    x = images.detach().float().cpu().permute(0, 3, 1, 2).clone()
    if x.shape[-2:] != (SIDE, SIDE):
        x = functional.interpolate(x, size=(SIDE, SIDE), mode="bilinear", antialias=True)
    return x.clamp(0, 1)


def _peaks(middle: Tensor) -> list[list[tuple[int, int]]]:
    """Cells (y, x) of each picture that are likely and likelier than those around, surest first; logits (B, h, w)."""
    chance = middle.sigmoid()
    best = functional.max_pool2d(chance[:, None], 3, 1, 1)[:, 0]
    chance = torch.where(chance == best, chance, 0.0)
    values, cells = chance.flatten(1).topk(_MOST)
    width = middle.shape[-1]
    return [
        [divmod(cell, width) for value, cell in zip(row, numbers) if value > _SURE]
        for row, numbers in zip(values.tolist(), cells.tolist())
    ]


def _seen(words: dict[str, Tensor], place: Tensor, i: int, y: int, x: int) -> Seen:
    """The answers at one cell."""
    found = {name: WORDS[name][int(maps[i, :, y, x].argmax())] for name, maps in words.items()}
    return Seen(found, *place[i, :, y, x].tolist())

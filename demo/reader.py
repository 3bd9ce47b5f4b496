"""Attribute classifier: reads the words of a scene from its image; its features serve for Frechet distances.

A small convolutional network with one classification head per attribute of `scenes.ATTRIBUTES`. It was
trained on renders of every combination, including held-out ones, with noise, blur and autoencoder round
trips, so that it judges generated images fairly; its training is independent of the diffusion model.

Images are (B, H, W, 3) in [0, 1], as ComfyUI's IMAGE; other sizes are resampled to 96x96.
"""

from functools import lru_cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from .scenes import ATTRIBUTES

SIZE = 96
FEATURES = 64
_WIDTHS = (24, 32, 64, 96)
_WEIGHTS = Path(__file__).resolve().parent / "weights" / "reader.safetensors"


class Reader(nn.Module):
    """Four strided stages over colour and pixel coordinates, mean and max pooling, one head per attribute."""

    def __init__(self):
        super().__init__()
        widths = (5, *_WIDTHS)
        self.stages = nn.Sequential(*(_stage(a, b) for a, b in zip(widths, widths[1:])))
        self.hidden = nn.Linear(2 * _WIDTHS[-1], FEATURES)
        self.heads = nn.ModuleDict({name: nn.Linear(FEATURES, len(words)) for name, words in ATTRIBUTES.items()})

    def features(self, images: Tensor) -> Tensor:
        """Images (B, 3, 96, 96) in [0, 1] -> features (B, FEATURES)."""
        line = torch.linspace(-1, 1, SIZE, device=images.device, dtype=images.dtype)
        ys, xs = torch.meshgrid(line, line, indexing="ij")
        place = torch.stack([xs, ys]).expand(len(images), -1, -1, -1)
        x = self.stages(torch.cat([images * 2 - 1, place], 1))
        return F.relu(self.hidden(torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Images (B, 3, 96, 96) in [0, 1] -> attribute -> logits (B, number of words)."""
        features = self.features(images)
        return {name: head(features) for name, head in self.heads.items()}


def _stage(n_in: int, n_out: int) -> nn.Sequential:
    """A convolution that halves the resolution."""
    return nn.Sequential(nn.Conv2d(n_in, n_out, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU())


@lru_cache(maxsize=1)
def load_reader() -> Reader:
    """The trained classifier in float32 on the CPU, loaded once."""
    reader = Reader()
    reader.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in load_file(_WEIGHTS).items()})
    return reader.eval().requires_grad_(False)


def _prepare(images: Tensor) -> Tensor:
    """(B, H, W, 3) -> (B, 3, 96, 96) float32 on the CPU."""
    x = images.detach().float().cpu().permute(0, 3, 1, 2)
    if x.shape[-2:] != (SIZE, SIZE):
        x = F.interpolate(x, size=(SIZE, SIZE), mode="bilinear", antialias=True)
    return x.clamp(0, 1)


def read_attributes(images: Tensor) -> list[dict[str, str]]:
    """The most likely word of each attribute, one dict per image."""
    with torch.inference_mode(False), torch.no_grad():
        parts = [load_reader()(part.clone()) for part in _prepare(images).split(256)]
    best = {name: torch.cat([p[name] for p in parts]).argmax(1).tolist() for name in ATTRIBUTES}
    return [{name: ATTRIBUTES[name][best[name][i]] for name in ATTRIBUTES} for i in range(len(images))]


def features(images: Tensor) -> Tensor:
    """Penultimate activations (B, FEATURES), for a Frechet distance between two sets of images."""
    with torch.inference_mode(False), torch.no_grad():
        return torch.cat([load_reader().features(part.clone()) for part in _prepare(images).split(256)])


def accuracy(images: Tensor, wanted: list[dict[str, str]]) -> dict[str, float]:
    """Per attribute, the fraction of images whose word read equals the wanted one, among images with a wanted one."""
    read = read_attributes(images)
    out = {}
    for name in ATTRIBUTES:
        pairs = [(r[name], w[name]) for r, w in zip(read, wanted) if name in w]
        if pairs:
            out[name] = sum(a == b for a, b in pairs) / len(pairs)
    return out

"""Train the reader of the second world: `python demo world.train_reader --minutes 8 --cache DIR`.

On the pool of `make_pool`, mirrored half of the time, with blur, gain, offset and noise; the pictures of every third
part have gone through the autoencoder with a noisy latent. Loss: the focal loss of middles, a bell around the middle of
each solid's pixels [arXiv 1904.07850]; cross entropies of words and the L1 distance of places, weighted by the bell;
cross entropies of the room. A pencil drawing shows neither colours nor materials; their words do not count there.
To go on, give `--start demo/world/weights/reader.safetensors`.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from ..make_latents import load_vae
from ..train_log import Clock, generators, half_precision, load_half, log, save_half
from ..train_reader import augment, round_trips
from ..worlds import SECOND
from .make_pool import Pool, fresh_pool, load_pool, parts_in
from .reader import CELL, ROOM, SIDE, WORDS, Reader, Reading, read
from .scenes import Scene
from .scoring import assigned, shares, wanted_of

BATCH, PEAK_LR, MOST_SOLIDS = 32, 3e-3, 3
BELL = 1.2  # cells
DRAWN = ("color", "texture", "material", "floor", "wall")
"""Names whose words a pencil drawing does not show."""
LOG_EVERY, UNKNOWN = 100, -1


def labels(scenes: Sequence[Scene], numbers: Tensor) -> dict[str, Tensor]:
    """What there is to learn of each scene.

    Word numbers of the solids (N, MOST_SOLIDS) and the room (N,), UNKNOWN where there are none; "place" (N,
    MOST_SOLIDS, 2) in metres, and "middle", the same in cells; numbers: of the pool.
    """
    out = {name: torch.full((len(scenes), MOST_SOLIDS), UNKNOWN) for name in WORDS}
    out |= {name: torch.full((len(scenes),), UNKNOWN) for name in ROOM}
    out |= {name: torch.full((len(scenes), MOST_SOLIDS, 2), -99.0) for name in ("place", "middle")}
    for i, scene in enumerate(scenes):
        hidden = DRAWN if scene.style == "pencil" else ()
        for name, words in ROOM.items():
            if name not in hidden:
                out[name][i] = words.index(getattr(scene, name))
        for slot, solid in enumerate(scene.solids):
            out["place"][i, slot] = torch.tensor([solid.x, solid.z])
            out["middle"][i, slot] = (numbers[i] == slot + 1).nonzero().float().mean(0).flip(0) / CELL
            for name, words in WORDS.items():
                if name not in hidden:
                    out[name][i, slot] = words.index(getattr(solid, name))
    return out


def mirrored_labels(target: dict[str, Tensor], flip: Tensor) -> dict[str, Tensor]:
    """Labels of the mirror image where `flip` (N,)."""
    solid, flip = (target["middle"] > -1), flip[:, None, None]
    turned = {"middle": torch.tensor([(SIDE - 1) / CELL, 0.0]), "place": torch.zeros(2)}
    out = dict(target)
    for name, edge in turned.items():
        values = edge + target[name] * torch.tensor([-1.0, 1.0])
        out[name] = torch.where(flip & solid, values, target[name])
    return out


def bells(middle: Tensor, cells: int) -> Tensor:
    """A bell around each middle (B, S, 2) in cells, (B, S, cells, cells)."""
    line = torch.arange(cells, device=middle.device) + 0.5 - 0.5 / CELL
    x, y = middle[..., 0, None, None], middle[..., 1, None, None]
    away = (line - x).square() + (line[:, None] - y).square()
    return torch.exp(-away / (2 * BELL**2))


def reading_loss(answers: dict[str, Tensor], target: dict[str, Tensor]) -> Tensor:
    """The loss, a scalar."""
    bell = bells(target["middle"], answers["middle"].shape[-1])
    peak = bell.flatten(2).amax(-1)[..., None, None].clamp_min(1e-6)
    bell = torch.where(target["middle"][..., :1, None] > -1, bell / peak, 0.0)
    loss = focal_loss(answers["middle"][:, 0], bell.amax(1))
    weight = bell * (bell > 0.3)
    weight = weight / weight.sum().clamp_min(1e-6)
    place = (answers["place"][:, None] - target["place"][..., None, None]).abs().sum(2)
    loss = loss + (place * weight).sum()
    for name in WORDS:
        loss = loss + _word_loss(answers[name], target[name], weight)
    for name in ROOM:
        loss = loss + 0.3 * functional.cross_entropy(answers[name], target[name], ignore_index=UNKNOWN)
    return loss


def focal_loss(logits: Tensor, bell: Tensor) -> Tensor:
    """Of the chances of a middle against bells in [0, 1], both (B, h, w), per middle; a scalar."""
    chance = logits.float().sigmoid().clamp(1e-4, 1 - 1e-4)
    middle = bell > 0.999
    here = -(1 - chance).square() * chance.log() * middle
    away = -(1 - bell) ** 4 * chance.square() * (1 - chance).log() * ~middle
    return (here + away).sum() / middle.sum().clamp_min(1)


def _word_loss(logits: Tensor, word: Tensor, weight: Tensor) -> Tensor:
    """Cross entropy of one name's words (B, S) at the cells of each solid, weights (B, S, h, w)."""
    known = word >= 0
    logs = functional.log_softmax(logits.float(), 1)
    picked = logs.gather(1, word.clamp_min(0)[:, :, None, None].expand(-1, -1, *logs.shape[2:]))
    return -(picked * weight * known[..., None, None]).sum()


def accuracy(pool: Pool, images: Tensor, reader: Reader) -> dict[str, float]:
    """Shares of right answers for uint8 `images` of a pool's scenes.

    Words are those of solids in pictures of the style "render".
    """
    reader.eval()
    readings = read(images.permute(0, 2, 3, 1).float() / 255, reader)
    reader.train()
    plain = [(s, r) for s, r in zip(pool.scenes, readings) if s.style == "render"]
    out = {name: _word_share(plain, name) for name in WORDS}
    out |= {name: sum(r.room[name] == getattr(s, name) for s, r in plain) / len(plain) for name in ("floor", "wall")}
    out["style"] = sum(r.room["style"] == s.style for s, r in zip(pool.scenes, readings)) / len(readings)
    judged = shares([wanted_of(s) for s, _ in plain], [r for _, r in plain])
    return {name: round(value, 4) for name, value in (out | judged).items()}


def _word_share(pairs: Sequence[tuple[Scene, Reading]], name: str) -> float:
    """Fraction of solids whose word was read right."""
    right = []
    for scene, reading in pairs:
        for solid, seen in zip(scene.solids, assigned(wanted_of(scene), reading)):
            right.append(seen is not None and seen.words[name] == getattr(solid, name))
    return sum(right) / len(right)


def train(reader: Reader, args: argparse.Namespace, images: Tensor, target: dict[str, Tensor]) -> Reader:
    """Train in place for args.minutes; uint8 images (N, 3, 128, 128)."""
    gen, device = torch.Generator().manual_seed(args.seed + 1), torch.device(args.device)
    reader.to(device).train()
    opt = torch.optim.AdamW(reader.parameters(), args.rate, weight_decay=0.02)
    clock, step = Clock(), 0
    while (done := clock() / (60 * args.minutes)) < 1:
        for group in opt.param_groups:
            group["lr"] = args.rate * min(1.0, (step + 1) / 100) * (1 - done) + 1e-6
        rows, flip = torch.randint(0, len(images), (BATCH,), generator=gen), torch.rand(BATCH, generator=gen) < 0.5
        x = augment(images[rows].float() / 255, gen)
        x = torch.where(flip[:, None, None, None], x.flip(-1), x).to(device)
        wanted = mirrored_labels({name: values[rows] for name, values in target.items()}, flip)
        with half_precision(device):
            answers = reader(x.contiguous(memory_format=torch.channels_last))
        answers = {name: values.float() for name, values in answers.items()}
        loss = reading_loss(answers, {name: values.to(device) for name, values in wanted.items()})
        loss.backward()
        opt.step()
        opt.zero_grad()
        if step % LOG_EVERY == 0:
            log("reader", SECOND.log, step=step, seconds=clock(), loss=loss.item())
        step += 1
    return reader.cpu()


def training_data(cache: Path, parts: int, trips: bool, gen: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
    """Images and labels of some parts of the pool; every third part goes through the autoencoder if `trips`."""
    vae = load_vae(SECOND.weights / "vae.safetensors") if trips else None
    images, targets = [], []
    for part in parts_in(cache)[:parts]:
        pool = load_pool(cache, [part])
        images.append(round_trips(pool.images, gen, vae) if trips and part % 3 == 0 else pool.images)
        targets.append(labels(pool.scenes, pool.numbers))
    return torch.cat(images), {name: torch.cat([target[name] for target in targets]) for name in targets[0]}


def main(argv: list[str]) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="demo world.train_reader", description=__doc__)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--parts", type=int, default=48, help="parts of the pool to train on, 256 scenes each")
    parser.add_argument("--cache", type=Path, default=SECOND.cache)
    parser.add_argument("--start", type=Path, help="go on from these weights")
    parser.add_argument("--no-round-trips", action="store_true", help="train on renders only, as without a VAE")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--rate", type=float, default=PEAK_LR, help="highest learning rate")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=5)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    _, gen = generators(args.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(args.seed)
        reader = Reader().to(memory_format=torch.channels_last)
    if args.start:
        reader.load_state_dict(load_half(args.start))
    trips = not args.no_round_trips
    train(reader, args, *training_data(args.cache, args.parts, trips, gen))
    save_half(reader.state_dict(), SECOND.weights / "reader.safetensors")
    pool = fresh_pool(args.cache, 2)
    log("reader", SECOND.log, fresh_renders=accuracy(pool, pool.images, reader))
    if trips:
        tripped = round_trips(pool.images, gen, load_vae(SECOND.weights / "vae.safetensors"))
        log("reader", SECOND.log, round_trips=accuracy(pool, tripped, reader))

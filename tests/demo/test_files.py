"""What the demo folder may weigh and hold, the tokenizer, and the padding of the autoencoder."""

import json

import pytest
import torch

from diff2flow_kit.demo.captions import VOCABULARY
from diff2flow_kit.demo.make_tokenizer import TOKENIZER, encode_word, merges_for
from diff2flow_kit.demo.tiny_vae import TinyVAE
from diff2flow_kit.demo.widening import widen
from diff2flow_kit.demo.worlds import WORLDS

MEGABYTE = 1_000_000


@pytest.mark.parametrize("world, most", [("first", 27), ("second", 32)])
def test_the_folder_of_a_world_is_small(world, most):
    folders = {name: each.folder for name, each in WORLDS.items()}
    other = folders["second"] if world == "first" else None
    files = [p for p in folders[world].rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    assert sum(p.stat().st_size for p in files if other not in p.parents) <= most * MEGABYTE


@pytest.mark.parametrize("world", WORLDS)
def test_weights_are_safetensors_only(world):
    names = {p.suffix for p in WORLDS[world].weights.iterdir()}
    assert names <= {".safetensors", ".json"}


def test_the_tokenizer_on_disk_is_the_one_the_vocabulary_gives():
    lines = (TOKENIZER / "merges.txt").read_text(encoding="utf-8").splitlines()[1:]
    assert [tuple(line.split()) for line in lines] == merges_for(VOCABULARY)


def test_every_word_is_one_piece_and_has_a_number():
    ranks = {pair: i for i, pair in enumerate(merges_for(VOCABULARY))}
    vocab = json.loads((TOKENIZER / "vocab.json").read_text(encoding="ascii"))
    for word in VOCABULARY:
        assert encode_word(word, ranks) == [word + "</w>"]
        assert word + "</w>" in vocab
    assert all(piece in vocab for piece in encode_word("xylophone", ranks))


def embed(narrow, wide):
    """Copy a widened state dict into a net of the wide width."""
    padded = widen(narrow.state_dict(), 24)
    wide.load_state_dict({k: v for k, v in padded.items() if not k.startswith("vae_")})
    return wide


def test_padding_keeps_the_function():
    torch_state = torch.get_rng_state()
    torch.manual_seed(0)
    narrow, wide = TinyVAE((8, 12, 16, 24)), TinyVAE((24, 24, 24, 24))
    torch.set_rng_state(torch_state)
    image = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        embed(narrow, wide)
        latent = narrow.encode(image)
        assert torch.allclose(wide.encode(image), latent, atol=1e-6)
        assert torch.allclose(wide.decode(latent), narrow.decode(latent), atol=1e-6)


@pytest.mark.host
def test_the_host_computes_what_the_narrow_net_computes(demo_checkpoint):
    from diff2flow_kit.demo.make_latents import load_vae

    vae, narrow = demo_checkpoint[2], load_vae()
    image = torch.rand(2, 96, 96, 3, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        latent = narrow.encode(image.permute(0, 3, 1, 2))
        decoded = narrow.decode(latent).clamp(0, 1).permute(0, 2, 3, 1)
    assert torch.allclose(vae.encode(image).cpu(), latent, atol=1e-4)
    assert torch.allclose(vae.decode(latent).float().cpu(), decoded, atol=1e-4)

"""The trainer on a set from folders: captions that vary per epoch, weights, and runs that go on bit for bit."""

import importlib
import json

import pytest
import torch
from PIL import Image


@pytest.fixture(scope="module")
def captions():
    """Ten CONDITIONINGs."""
    generator = torch.Generator().manual_seed(6)
    return [[[torch.randn(1, 7, 16, generator=generator), {}]] for _ in range(10)]


@pytest.fixture
def varied(captions, host):
    """Five CONDITIONINGs, the first four with one or two further captions."""
    extra = [captions[5:7], captions[7:8], captions[8:9], captions[9:10], []]
    return [
        [[one[0][0], {host.CAPTIONS_KEY: [other[0] for other in others]} if others else {}]]
        for one, others in zip(captions, extra)
    ]


@pytest.fixture
def items(part, build, host, latents):
    def make(positive, **latent):
        with host.training(build()) as network:
            given = [{"samples": latents, **latent}]
            return part("training.latent_items").LatentItems(network, given, positive, None, "latents")

    return make


def test_an_epoch_draws_one_of_the_captions(items, varied, captions):
    data, counts = items(varied), [3, 2, 2, 2, 1]
    drawn = [[data.of_epoch(seed).caption(item) for seed in range(300)] for item in range(5)]
    for numbers, count in zip(drawn, counts, strict=True):
        assert set(numbers) == set(range(count))
        assert all(abs(numbers.count(n) - 300 / count) < 5 * (300 / count) ** 0.5 for n in range(count))
    epoch = data.of_epoch(4)
    batch = epoch.batch([0, 3], [False, False])
    every = {0: [captions[0], *captions[5:7]], 3: [captions[3], captions[9]]}
    wanted = [every[item][epoch.caption(item)][0][0] for item in (0, 3)]
    assert torch.equal(batch.condition["c_crossattn"], torch.cat(wanted))


def test_other_callers_see_the_first_caption(items, varied, captions):
    batch = items(varied).batch([0, 1], [False, False])
    assert torch.equal(batch.condition["c_crossattn"], torch.cat([one[0][0] for one in captions[:2]]))


def test_the_fingerprint_knows_every_caption_and_weight(items, varied, captions, host):
    plain, one = items(captions[:5]).fingerprint(), items(varied).fingerprint()
    weighted = items(captions[:5], **{host.WEIGHTS_KEY: torch.tensor([1, 1, 1, 1, 0.5])}).fingerprint()
    varied[0][0][1][host.CAPTIONS_KEY][1] = captions[9][0]
    assert len({plain, one, weighted, items(varied).fingerprint()}) == 4


def test_a_further_caption_of_another_encoder_is_named(items, varied, host):
    varied[2][0][1][host.CAPTIONS_KEY][0] = [torch.zeros(1, 7, 24), {}]
    with pytest.raises(ValueError, match="token embeddings of size 24, but this model takes 16"):
        items(varied)


@pytest.mark.parametrize("weights", [[1.0], [1, 1, 1, 1, -1], [1, 1, 1, 1, float("nan")]])
def test_odd_weights_are_refused(items, captions, host, weights):
    with pytest.raises(ValueError, match="the loss weights of 'latents' must be 5 numbers of at least 0"):
        items(captions[:5], **{host.WEIGHTS_KEY: torch.tensor(weights)})


def test_runs_go_on_bit_for_bit(build, train, same, latents, varied, host):
    given = [{"samples": latents, host.WEIGHTS_KEY: torch.tensor([1, 1, 0.5, 1, 0.25])}]
    settings = {"accumulation": 2, "dropout": 0.2, "ema": 0.9, "warmup_steps": 0}
    whole = train(build(), given, varied, steps=7, run_name="whole", **settings)
    for steps in (3, 7):
        part = train(build(), given, varied, steps=steps, **settings)
    assert same(whole[0], part[0]) and whole[1] == part[1]
    first_only = [[[entry[0][0], {}]] for entry in varied]
    other = train(build(), given, first_only, steps=7, run_name="other", **settings)
    assert other[1] != whole[1], "the captions that were drawn matter"


@pytest.mark.slow
def test_a_set_from_folders_trains_and_goes_on(node, train, same, output, tmp_path, pack):
    """Shuffle, tag dropout, random lines, several folders, regularisation, masks, two resolutions: one resumed run."""
    from diff2flow_kit.demo.networks import load_demo_checkpoint

    model, clip, vae = load_demo_checkpoint()
    for place, count in (("photos", 3), ("more", 2), ("reg", 2)):
        (tmp_path / place).mkdir()
        for number in range(count):
            Image.effect_noise((96 + 32 * number, 96), 60).convert("RGB").save(tmp_path / place / f"{number}.png")
            (tmp_path / place / f"{number}.txt").write_text(f"{place}, red, cube, big\nround, blue, {number}")
    (tmp_path / "photos" / "masks").mkdir()
    Image.linear_gradient("L").resize((96, 96)).save(tmp_path / "photos" / "masks" / "0.jpg")
    dataset = node("D2FFolderDataset")
    widgets = {one.id: one.default for one in dataset.define_schema().inputs if hasattr(one, "default")}
    widgets |= {
        "folder": str(tmp_path / "photos"), "resolution": 64, "bucket_step": 32, "more_resolutions": "96",
        "more_folders": f"{tmp_path / 'more'} | repeats 2 | weight 0.5\n{tmp_path / 'reg'} | regularisation",
        "shuffle_tags": True, "tag_dropout": 0.3, "caption_lines": "random", "unmasked_weight": 0.1, "prefix": "sks",
        "regularisation_weight": 0.5, "fit": "pad",
    }  # fmt: skip

    def run(steps, name):
        made = dataset.execute(clip=clip, vae=vae, **widgets).args
        settings = {"steps": steps, "run_name": name, "warmup_steps": 0, "accumulation": 3, "negative": made[2]}
        return train(model, made[0], made[1], caption_dropout=0.2, **settings)

    whole = run(6, "whole")
    run(2, "parts")
    rest = run(6, "parts")
    assert same(whole[0], rest[0]) and whole[1] == rest[1]


def test_the_file_says_what_the_folders_hold(build, train, saved, host, part):
    """A set of two folders, with repeats, whose captions share their trigger words."""
    from safetensors import safe_open

    facts = part("training.outcome.facts").set_facts
    caption = importlib.import_module(facts.__module__).SetCaption
    rows = [("a", "sks, red", "5_sks"), ("a", "sks, red", "5_sks"), ("b", "sks, sky", "5_sks"), ("c", "sks", "more")]
    generator = torch.Generator().manual_seed(1)
    positive = [
        [[torch.randn(1, 7, 16, generator=generator), {host.TEXT_KEY: caption(text, False, image, folder)}]]
        for image, text, folder in [*rows, rows[3]]
    ]
    train(build(), positive=positive, steps=1)
    with safe_open(saved()[0], "pt") as file:
        found = file.metadata()
    assert json.loads(found["ss_tag_frequency"]) == {"5_sks": {"sks": 2, "red": 1, "sky": 1}, "more": {"sks": 1}}
    dirs = {"5_sks": {"n_repeats": 2, "img_count": 2}, "more": {"n_repeats": 2, "img_count": 1}}
    assert json.loads(found["ss_dataset_dirs"]) == dirs
    assert found["modelspec.trigger_phrase"] == "sks"

"""What the trainer node is given: latents, masks, sizes and captions, and the words for what does not fit."""

import pytest
import torch


@pytest.fixture(scope="module")
def captions():
    """Five CONDITIONINGs."""
    generator = torch.Generator().manual_seed(6)
    return [[[torch.randn(1, 7, 16, generator=generator), {}]] for _ in range(5)]


@pytest.fixture
def network(build, host):
    """A network in training."""
    with host.training(build()) as network:
        yield network


@pytest.fixture
def items(part, network):
    """`items(latents, positive, negative=None)` -> the training set."""
    return lambda latents, positive, negative=None: part("training.latent_items").LatentItems(
        network, latents, positive, negative, "latents"
    )


def texts(items):
    return torch.cat([items.condition(item)["c_crossattn"] for item in range(len(items))])


def test_one_caption_for_all_one_an_item_or_a_batch_of_them(items, latents, captions):
    given = [{"samples": latents}]
    wanted = torch.cat([caption[0][0] for caption in captions])
    batch = [[[wanted, {}]]]
    for positive in (captions, batch):
        assert torch.equal(texts(items(given, positive)), wanted)
    assert torch.equal(texts(items(given, captions[:1])), wanted[:1].expand(5, -1, -1))


def test_one_caption_a_latent(items, latents, captions):
    given = [{"samples": latents[:2]}, {"samples": latents[2:, :, :4]}]
    one_each = items(given, captions[:2])
    assert one_each.groups == [range(2), range(2, 5)]
    assert torch.equal(texts(one_each), torch.cat([captions[i][0][0] for i in (0, 0, 1, 1, 1)]))


def test_a_batch_takes_its_pooled_output_apart(part):
    pooled = torch.arange(6.0).view(3, 2)
    entries = part("network.conditionings").entries_of(
        [[[torch.zeros(3, 7, 16), {"pooled_output": pooled, "guidance": 3.5}]]]
    )
    assert [entry[1]["pooled_output"].tolist() for entry in entries] == [[[0, 1]], [[2, 3]], [[4, 5]]]
    assert all(entry[1]["guidance"] == 3.5 for entry in entries)


def test_captions_of_other_lengths_are_repeated_to_the_common_one(part, build, train, latents, captions):
    short, long = captions[0][0][0], torch.cat([captions[1][0][0]] * 2, 1)
    joined = part("training.latent_items").join([{"c_crossattn": short}, {"c_crossattn": long}])["c_crossattn"]
    assert torch.equal(joined, torch.cat([short.repeat(1, 2, 1), long]))
    # Attention does not notice that all tokens are there twice.
    mixed, equal = (
        train(build(), latents[:2], [captions[0], [[tokens, {}]]], steps=1, run_name=name)[1]["loss"][0]
        for name, tokens in (("mixed", long), ("equal", captions[1][0][0]))
    )
    assert mixed == pytest.approx(equal, rel=1e-5)


def test_captions_of_different_kinds_are_named(part):
    kinds = [{"c_crossattn": torch.zeros(1, 7, 16)}, {"c_crossattn": torch.zeros(1, 7, 16), "y": torch.zeros(1, 8)}]
    with pytest.raises(ValueError, match=r"differ in kind \(c_crossattn \| c_crossattn, y\); encode all captions"):
        part("training.latent_items").join(kinds)


def test_dropped_captions_are_the_negative_one(items, latents, captions):
    data = items([{"samples": latents}], captions, captions[:1])
    batch = data.batch([1, 2], [False, True])
    assert torch.equal(batch.condition["c_crossattn"], torch.cat([captions[1][0][0], captions[0][0][0]]))


def test_caption_dropout_shows_the_negative_to_the_network(build, train, captions, around_network, same):
    model, other = build(), [[[torch.ones(1, 7, 16), {}]]]
    settings = {"caption_dropout": 0.5, "steps": 4}
    one = train(model, negative=captions[0], **settings)[0]
    two = train(model, negative=other, run_name="other", **settings)[0]
    assert not same(one, two)


WRONG = {
    "channels": (torch.zeros(2, 3, 8, 8), r"'latents' .* \(2, 3, 8, 8\), .* \(items, 4, height, width\); encode"),
    "video": (torch.zeros(1, 4, 2, 8, 8), r"'latents' .* \(1, 4, 2, 8, 8\), .* encode the images with the VAE"),
    "empty": (torch.zeros(0, 4, 8, 8), r"'latents' holds no items; give at least one"),
    "nan": (torch.full((1, 4, 8, 8), float("nan")), r"'latents' holds NaN or infinite values; encode .* float32"),
    "infinite": (torch.full((1, 4, 8, 8), float("inf")), r"'latents' holds NaN or infinite values"),
    "none": ([], r"'latents' is an empty list; give at least one latent"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_latents_are_named(build, train, unharmed, output, name):
    samples, words = WRONG[name]
    model = build()
    with unharmed(model), pytest.raises(ValueError, match=words):
        train(model, samples)
    assert not list(output.rglob("*"))


@pytest.mark.parametrize("name", ["channels", "nan", "empty"])
def test_wrong_validation_latents_are_named(build, train, unharmed, name):
    model = build()
    with unharmed(model), pytest.raises(ValueError, match=WRONG[name][1].replace("latents", "validation_latents", 1)):
        train(model, validation_latents=WRONG[name][0])


@pytest.mark.parametrize("count", [0, 2, 6])
def test_a_wrong_number_of_captions_is_named(build, train, unharmed, captions, count):
    model = build()
    given = (captions * 2)[:count] or [[]]
    words = rf"'latents' has 5 items in 1 latents but {count} conditionings; give one for all, one per item or one per"
    with unharmed(model), pytest.raises(ValueError, match=words):
        train(model, positive=given)


def test_what_the_network_is_told_is_kept_on_the_cpu(network, captions):
    """A CONDITIONING may lie on the card (--gpu-only), those of caches and of pairs do not: they go into one batch."""

    class OnACard(torch.Tensor):
        def cpu(self):
            return torch.Tensor.cpu(self.as_subclass(torch.Tensor))

    ((text, options),) = captions[0]
    for given in (text, text.as_subclass(OnACard)):
        told = network.condition([[given, options]], (4, 8, 8))["c_crossattn"]
        assert type(told) is torch.Tensor and torch.equal(told, text)


def test_an_empty_negative_is_named(build, train, unharmed):
    model = build()
    with unharmed(model), pytest.raises(ValueError, match=r"'negative' is an empty conditioning; connect"):
        train(model, negative=[[]], caption_dropout=0.1)


def test_caption_dropout_without_a_negative_is_named(build, train, unharmed):
    model = build()
    with unharmed(model), pytest.raises(ValueError, match=r"caption_dropout is 0.1 but nothing .* 'negative'; connect"):
        train(model, caption_dropout=0.1)


MASK = torch.zeros(1, 64, 64)
MASK[:, :, :32] = 1  # the left half is learned


@pytest.mark.parametrize("mask", [MASK, MASK[:, None], MASK[0]], ids=["image", "channel", "plain"])
def test_masked_places_have_no_influence(build, train, latents, around_network, same, mask):
    """Whatever the network says there, the LoRA is the same."""
    model = build()
    noise = torch.randn(1, 4, 8, 8)
    hidden, seen = noise.clone(), noise.clone()
    hidden[..., :4], seen[..., 4:] = 0, 0
    loras = {}
    for name, change in (("plain", noise * 0), ("hidden", hidden), ("seen", seen)):
        around_network(lambda call, network, x, change=change: call() + change)
        loras[name] = train(model, [{"samples": latents, "noise_mask": mask}], run_name=name)[0]
    assert same(loras["plain"], loras["hidden"]) and not same(loras["plain"], loras["seen"])


def test_masks_are_shrunk_by_area_and_shared_out_as_the_host_does(items, latents, captions):
    masks = torch.stack([MASK[0], torch.full((64, 64), 0.25)])
    data = items([{"samples": latents, "noise_mask": masks}], captions)
    found = data.batch([0, 1, 2, 3, 4], [False] * 5).mask
    assert found.shape == (5, 1, 8, 8)
    assert torch.equal(found[0, 0], (torch.arange(8) < 4).float().expand(8, 8)) and bool((found[1] == 0.25).all())
    assert torch.equal(found[2], found[0]) and torch.equal(found[3], found[1])
    assert items([{"samples": latents[:1], "noise_mask": masks}], captions[:1]).batch([0], [False]).mask.shape[0] == 1


def test_sizes_are_never_mixed(build, train, latents, around_network):
    shapes = []

    def see(call, network, x):
        shapes.append(tuple(x.shape))
        return call()

    around_network(see)
    wide = torch.randn(2, 4, 8, 12)
    train(build(), [{"samples": latents[:3]}, {"samples": wide}], steps=6)
    assert set(shapes) == {(2, 4, 8, 8), (1, 4, 8, 8), (2, 4, 8, 12)}


def test_the_fingerprint_of_the_data_knows_every_part(items, latents, captions):
    def of(samples=latents, positive=captions, **latent):
        return items([{"samples": samples, **latent}], positive).fingerprint()

    changed = latents.clone()
    changed[4, 3, 7, 7] += 1e-3
    others = {of(), of(changed), of(positive=captions[::-1]), of(noise_mask=MASK), of(latents.flip(0))}
    assert len(others) == 5 and of() == of(latents.clone())


def test_latents_are_brought_into_the_models_scale(network, items, latents, captions):
    x0 = items([{"samples": latents}], captions).batch([3], [False]).x0
    torch.testing.assert_close(x0, latents[3:4] * 0.18215)
    torch.testing.assert_close(network.samples(x0), latents[3:4])


def spoilt(tensor, *place):
    changed = tensor.clone()
    changed[place] = float("nan")
    return changed


def test_latents_that_are_not_finite_are_named(build, train, unharmed, latents):
    model = build()
    words = r"'latents' holds NaN .*encode the images again \(2, 5 of 5\), with the VAE"
    with unharmed(model), pytest.raises(ValueError, match=words):
        train(model, spoilt(spoilt(latents, 1, 0, 3, 3), 4, 0, 0, 0))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_mask_that_is_not_finite_is_named(build, train, unharmed, latents, value):
    model, masks = build(), torch.ones(5, 64, 64)
    masks[2, 7, 7] = value
    words = r"the noise mask of 'latents' holds NaN or infinite values \(mask 3 of 5\); use a mask"
    with unharmed(model), pytest.raises(ValueError, match=words):
        train(model, [{"samples": latents, "noise_mask": masks}])


def of_width(width):
    return [[torch.randn(1, 7, width), {}]]


INPUTS = ("positive", "negative", "validation_positive")


@pytest.mark.parametrize("name", INPUTS)
def test_captions_of_another_text_encoder_are_named(build, train, unharmed, latents, name):
    """With both sizes and the remedy, where torch would say that matrices cannot be multiplied."""
    model = build()
    words = rf"conditioning 1 of '{name}' has token embeddings of size 24, but this model takes 16: .* the CLIP of the"
    with unharmed(model), pytest.raises(ValueError, match=words):
        train(model, validation_latents=latents[:1], **{name: of_width(24)})


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("where", ["text", "pooled"])
def test_captions_that_are_not_finite_are_named(build, train, unharmed, latents, name, where):
    """And not the learning rate, as of a loss that is NaN."""
    text, pooled = torch.randn(1, 7, 16), torch.randn(1, 16)
    ours = spoilt(text, 0, 3, 3) if where == "text" else text, spoilt(pooled, 0, 3) if where == "pooled" else pooled
    model = build()
    words = rf"conditioning 1 of '{name}' holds NaN or infinite values; .*--fp32-text-enc"
    with unharmed(model), pytest.raises(ValueError, match=words):
        train(model, validation_latents=latents[:1], **{name: [[ours[0], {"pooled_output": ours[1]}]]})


def test_the_caption_at_fault_is_counted(build, train, latents, captions):
    given = [[list(caption[0])] for caption in captions]
    given[3][0][0] = spoilt(given[3][0][0], 0, 0, 0)
    with pytest.raises(ValueError, match="conditioning 4 of 'positive' holds NaN"):
        train(build(), positive=given)

"""Pairs are made about as fast as the host samples the same batches."""

import time

import pytest
import torch

STEPS, BATCH, ROUNDS = 10, 8, 5


@pytest.mark.slow
def test_pairs_are_made_at_the_rate_of_plain_sampling(pack, host, node, part, output):
    """Demo model, guidance 3, writing to disk included; the least processor time of each, as noise only adds to it."""
    from diff2flow_kit.demo.networks import load_demo_checkpoint

    model, clip, _ = load_demo_checkpoint()
    encode = part("host.encoding").encode_caption
    negative = encode(clip, "")
    prompts = part("reflow.prompts").gather_prompts(["a red sphere\na blue cube"], "", clip, None)
    converted = host.convert(model, "noise")
    levels = part("sampling.sigmas").flow_sigmas(converted, {"grid": "uniform"}, STEPS)
    sampler = host.make_sampler(part("sampling.ode").OdeSampler("euler"))
    batch = {"samples": torch.zeros(BATCH, 4, 12, 12)}
    making, wanted = (
        part("reflow.pair_generator"),
        {"cfg": 3.0, "steps": STEPS, "solver": "euler", "width": 96, "height": 96},
    )
    wanted |= {"batch_size": BATCH, "seed": 0, "precision": "auto", "storage": "fp16", "shard_size": 16}

    def plain():
        for _ in range(4):
            host.sample(converted, batch, [prompts.entries[0]], negative, 3.0, sampler, levels, 0)

    def pairs(name):
        settings = making.ReflowPairSettings(name=name, count=4 * BATCH, **wanted)
        with host.training(model) as network:
            making.ReflowPairGenerator(model, network, settings, prompts, negative).run()

    def seconds(work, *args):
        start = time.process_time()
        work(*args)
        return time.process_time() - start

    plain(), pairs("warm")
    rounds = [(seconds(plain), seconds(pairs, f"r{i}")) for i in range(ROUNDS)]
    rate = min(one for one, _ in rounds) / min(other for _, other in rounds)
    print(f"rate of pairs to plain sampling: {rate:.3f} of {[round(one / other, 3) for one, other in rounds]}")
    assert rate >= 0.95

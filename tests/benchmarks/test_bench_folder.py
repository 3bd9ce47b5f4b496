"""A quick run of `bench folder`: what is counted is right, and the node encodes what the bare loop encodes."""

import argparse

import pytest
import torch

BENCHMARK = "cost/folder"

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def row(benchmark):
    parser = argparse.ArgumentParser()
    benchmark.add_arguments(parser)
    threads = torch.get_num_threads()
    [row] = benchmark.run(parser.parse_args(["--quick", "--vaes", "demo", "--source", "128"]))
    torch.set_num_threads(threads)
    return row


def test_the_row_counts_pictures_and_what_is_read_of_them(row):
    assert row["pictures"] == 8 and row["side"] == 96
    assert row["decoded"] == 1  # although every picture is checked before the first one is encoded
    assert row["opened"] == 3  # for its header, for its digest, and to be decoded
    assert row["least"] <= row["ratio"] <= row["most"] and row["again_per_s"] > row["first_per_s"] > 0


def test_ratios_are_of_rates(benchmark):
    times = {"bare": [(1.0, 1.0), (2.0, 1.0), (3.0, 1.0)], "first": [(2.0, 1.0), (2.0, 2.0), (2.0, 4.0)]}
    assert benchmark.ratios(times) == {"ratio": 1.0, "least": 0.5, "most": 1.5, "ratio_processor": 0.5}


def test_the_bare_loop_encodes_what_the_node_encodes(benchmark, tmp_path):
    from diff2flow_kit.nodes.datasets.folder_dataset import D2FFolderDataset

    benchmark.draw(tmp_path / "pictures", 3, 128)
    case, given = benchmark.Case("demo", tmp_path / "pictures", 96), {}
    latents, conditions = case.bare()
    for one in D2FFolderDataset.define_schema().inputs:
        if getattr(one, "default", None) is not None:
            given[one.id] = one.default
    given |= {"folder": str(case.folder), "resolution": 96, "bucket_step": 32}
    with benchmark.output_in(tmp_path), torch.inference_mode():
        found, positive, *_ = D2FFolderDataset.execute(case.clip, case.vae, **given).args
    assert torch.equal(found[0]["samples"], torch.cat(latents))
    for mine, theirs in zip(positive, conditions, strict=True):
        assert torch.equal(mine[0][0], theirs[0][0])

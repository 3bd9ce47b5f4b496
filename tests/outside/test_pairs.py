"""Reflow pairs outside ComfyUI: the set of the node's format, the same from any number of processes."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("accelerate")

from d2f_data.reflow.pair_set import ReflowPairSet
from d2f_diffusers import Diff2FlowEulerScheduler
from d2f_diffusers.demo_model import demo_pipeline, export_demo
from d2f_diffusers.pairs import main
from d2f_diffusers.train.__main__ import main as train

PROMPTS = ["a large red sphere on the left, blue background", "a small green cube"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("pairs")
    export_demo(place / "model")
    (place / "prompts.txt").write_text("\n".join([*PROMPTS, ""]), encoding="utf-8")
    return place


def words(place, output, *arguments, count=11):
    return [
        *("--pretrained_model_name_or_path", str(place / "model"), "--prompts", str(place / "prompts.txt")),
        *("--output_dir", str(output), "--count", str(count), "--num_inference_steps", "3", "--width", "96"),
        *("--height", "96", "--batch_size", "2", "--shard_size", "4", "--guidance_scale", "3", *arguments),
    ]  # fmt: skip


def start(root, processes, arguments):
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes))
    environ = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, *launch, "-m", "d2f_diffusers.pairs", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, env=environ, start_new_session=True, **pipes)


def opened(folder):
    pairs = ReflowPairSet(folder)
    return pairs.read(range(len(pairs)))


def same(one, other):
    ours, theirs = opened(one), opened(other)
    return all(torch.equal(*both) for both in ((ours.eps, theirs.eps), (ours.x0, theirs.x0)))


@pytest.fixture(scope="module")
def alone(place):
    """The set of one process."""
    assert main(words(place, place / "alone")) == 0
    return place / "alone"


def test_pairs_are_the_pipelines_latents(alone):
    """At the noise of a pair, under its prompt, the pipeline with our scheduler goes to its latent."""
    pairs = opened(alone)
    pipe = demo_pipeline()
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = Diff2FlowEulerScheduler.from_config(pipe.scheduler.config, start="noise")
    for row in (0, 1, 10):
        options = {"num_inference_steps": 3, "guidance_scale": 3.0, "output_type": "latent"}
        made = pipe(PROMPTS[row % 2], latents=pairs.eps[row : row + 1].clone(), **options).images
        torch.testing.assert_close(made, pairs.x0[row : row + 1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("processes", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_processes_do_not_matter(root, place, alone, tmp_path, processes):
    process = start(root, processes, words(place, tmp_path / "set"))
    out, _ = process.communicate(timeout=240)
    assert process.returncode == 0, out
    assert same(alone, tmp_path / "set")
    assert ReflowPairSet(tmp_path / "set").fingerprint == ReflowPairSet(alone).fingerprint


def test_a_set_that_was_cut_off_is_completed(place, alone, tmp_path):
    assert main(words(place, tmp_path / "set", count=3)) == 0
    assert main(words(place, tmp_path / "set", count=11)) == 0
    assert same(alone, tmp_path / "set")


@pytest.mark.slow
def test_a_lost_processs_share_is_completed(root, place, tmp_path):
    many = ("--num_inference_steps", "20")
    process = start(root, 2, words(place, tmp_path / "set", *many, count=12))
    end = time.monotonic() + 180
    while not list((tmp_path / "set").glob("shard-*")) and time.monotonic() < end:
        time.sleep(0.1)
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True).stdout
    os.kill(int(listed.split()[-1]), signal.SIGKILL)
    out, _ = process.communicate(timeout=120)
    assert process.returncode != 0, out
    assert main(words(place, tmp_path / "set", *many, count=12)) == 0
    assert main(words(place, tmp_path / "whole", *many, count=12)) == 0
    assert same(tmp_path / "whole", tmp_path / "set")


def test_a_set_trains_outside_and_opens_in_the_node(pack, alone, place, tmp_path):
    import importlib

    run = [
        *("--pretrained_model_name_or_path", str(place / "model"), "--pairs_dir", str(alone)),
        *("--output_dir", str(tmp_path / "run"), "--max_train_steps", "2", "--rank", "2", "--targets", "attention"),
        *("--proportion_empty_prompts", "0.5"),
    ]  # fmt: skip
    assert train(run) == 0
    lora = importlib.import_module(f"{pack.__name__}.d2f_data.files.lora_file")
    facts = lora.load_lora(tmp_path / "run" / "my_lora_step000002.safetensors").facts
    assert (facts.start, facts.training["teacher_cfg"]) == ("noise", 3.0)
    host = importlib.import_module(f"{pack.__name__}.nodes.host")
    items = importlib.import_module(f"{pack.__name__}.nodes.reflow.pair_items")
    model = importlib.import_module(f"{pack.__name__}.demo.networks").load_demo_checkpoint()[0]
    with host.training(model) as network:
        batch = items.ReflowPairItems(network, model, ReflowPairSet(alone), None).batch([0, 3], [False, False])
        answer = network(batch.x0, torch.tensor([5.0, 900.0]), batch.condition)
    assert torch.isfinite(answer).all() and batch.eps.shape == batch.x0.shape == (2, 4, 12, 12)


def test_mistakes_get_a_sentence(place, alone, tmp_path, capsys):
    (tmp_path / "empty.txt").write_text("\n", encoding="utf-8")
    for arguments, message in (
        (words(place, tmp_path / "x", "--prompts", str(tmp_path / "empty.txt")), "holds no prompt"),
        (words(place, tmp_path / "x", "--prompts", str(tmp_path / "none.txt")), "No such file"),
        (words(place, tmp_path / "x", "--width", "100"), "must be multiples of 8"),
        (words(place, alone, "--seed", "5"), "holds pairs with other settings (seed: 0 in the file, 5 wanted)"),
    ):
        assert main(arguments) == 1
        _, name, text = capsys.readouterr().err.partition("d2f_diffusers.pairs: ")  # behind the bars of loading
        assert name and message in text and "Traceback" not in text, text

"""Tiny random pipelines of diffusers, built from configurations; nothing is downloaded."""

import contextlib
import json
import os
import signal
import subprocess
import sys

import pytest
import torch

pytest.importorskip("diffusers")

import diffusers
import transformers

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
WIDTH = 32


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """As many as the launcher gives to each process: sums over more threads have another order, and other last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def unet(**options):
    torch.manual_seed(0)
    return diffusers.UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(32, 64),
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=2,
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        **options,
    ).eval()


def vae():
    torch.manual_seed(0)
    return diffusers.AutoencoderKL(
        block_out_channels=(16, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=16,
    ).eval()


def text_config():
    return transformers.CLIPTextConfig(
        vocab_size=829, hidden_size=WIDTH, intermediate_size=37, num_attention_heads=4, num_hidden_layers=2,
        max_position_embeddings=24, bos_token_id=827, eos_token_id=828, pad_token_id=828, projection_dim=WIDTH,
    )  # fmt: skip


@pytest.fixture(scope="session")
def tokenizer(root):
    return transformers.CLIPTokenizer.from_pretrained(root / "demo" / "tokenizer", model_max_length=24)


@pytest.fixture(scope="session")
def parts(tokenizer):
    """What a Stable Diffusion pipeline is made of, without a scheduler."""
    torch.manual_seed(0)
    text = transformers.CLIPTextModel(text_config()).eval()
    return {
        "unet": unet(), "vae": vae(), "text_encoder": text, "tokenizer": tokenizer, "safety_checker": None,
        "feature_extractor": None, "requires_safety_checker": False,
    }  # fmt: skip


@pytest.fixture(scope="session")
def xl_parts(tokenizer):
    """What a Stable Diffusion XL pipeline is made of, without a scheduler."""
    torch.manual_seed(0)
    first = transformers.CLIPTextModel(text_config()).eval()
    second = transformers.CLIPTextModelWithProjection(text_config()).eval()
    extra = {
        "addition_embed_type": "text_time", "addition_time_embed_dim": 8, "transformer_layers_per_block": (1, 2),
        "projection_class_embeddings_input_dim": WIDTH + 6 * 8, "use_linear_projection": True,
    }  # fmt: skip
    wide = {"cross_attention_dim": 2 * WIDTH}
    torch.manual_seed(0)
    network = diffusers.UNet2DConditionModel(**{**dict(unet(**extra).config), **wide}).eval()
    return {
        "unet": network, "vae": vae(), "text_encoder": first, "text_encoder_2": second, "tokenizer": tokenizer,
        "tokenizer_2": tokenizer,
    }  # fmt: skip


@pytest.fixture(scope="session")
def control(parts):
    torch.manual_seed(0)
    made = diffusers.ControlNetModel.from_unet(parts["unet"], conditioning_embedding_out_channels=(16, 32))
    for parameter in made.controlnet_mid_block.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return made.eval()


# Runs one command line after the other in the processes of one launch: [[environment, arguments], ...] as JSON. The
# connections of the first run serve all of them, as those of a second would be looked for under the first one's names.
RUNS = """
import json, os, sys
import torch.distributed
from accelerate.state import AcceleratorState
from d2f_diffusers.train.__main__ import main
close, torch.distributed.destroy_process_group = torch.distributed.destroy_process_group, lambda *group: None
for environ, words in json.loads(sys.argv[1]):
    os.environ.update(environ)
    code = main(words)
    if code:
        sys.exit(code)
    AcceleratorState._reset_state(reset_partial_state=True)
close()  # its threads abort a process that ends before them
"""


@pytest.fixture
def in_two(root, tmp_path):
    """`in_two(runs)`: the runs, [(environment, arguments), ...], one after the other in the same two processes."""
    started = []

    def start(runs):
        script = tmp_path / "runs.py"
        script.write_text(RUNS, encoding="utf-8")
        launch = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script), json.dumps(runs))
        # Unbuffered, so that what was said is known of a process that is killed.
        environ = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "start_new_session": True}
        environ |= {"PYTHONUNBUFFERED": "1"}
        started.append(subprocess.Popen([sys.executable, *launch], env=environ, **pipes))
        return started[-1]

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.fixture
def said(capsys):
    """`said(arguments)`: the sentence with which the training script refuses them."""
    from d2f_diffusers.train.__main__ import main

    def run(arguments):
        assert main(arguments) == 1
        bars, name, text = capsys.readouterr().err.partition("d2f_diffusers.train: ")
        assert name and "Traceback" not in bars + text
        return text

    return run

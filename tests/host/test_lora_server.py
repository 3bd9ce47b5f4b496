"""The LoRA loader in a real ComfyUI process: its list of files, its cache, what it shows."""

import dataclasses

import pytest
import torch

from diff2flow_kit.d2f_data.files.lora_file import LoraFacts, LoraModel, save_lora

FACTS = LoraFacts("diff2flow", "eps", "", "t_min", 1.0, "", "SD15", 500, 2, 2.0, "lora")


@pytest.fixture
def write(server):
    """`write(value, steps)` -> saves a LoRA that adds `value` to the last layer's bias of the demo model."""
    path = server.base / "output" / "loras" / "d2f_test" / "mine.safetensors"

    def run(value, steps):
        tensors = {"lora_unet_conv_out.diff_b": torch.full((4,), value)}
        save_lora(path, LoraModel(tensors, dataclasses.replace(FACTS, steps=steps)), dtype="fp32")

    yield run
    path.unlink(missing_ok=True)


@pytest.fixture
def info(server):
    """`info(lora)` -> what the loader says when it ran for the demo model, None if its output was cached."""

    def run(lora):
        prompt = {
            "1": {"class_type": "D2FDemoCheckpoint", "inputs": {}},
            "2": {"class_type": "D2FLoadLora", "inputs": {"model": ["1", 0], "lora": lora, "strength": 1.0}},
            "3": {"class_type": "PreviewAny", "inputs": {"source": ["2", 1]}},
        }
        result = server.run(prompt)
        cached = [
            node for event in result.messages if event["type"] == "execution_cached" for node in event["data"]["nodes"]
        ]
        return None if "2" in cached else result.outputs["3"]["text"][0]

    return run


def test_new_files_are_listed_and_changed_ones_are_read_again(server, write, info):
    def listed():
        return server.object_info("D2FLoadLora")["D2FLoadLora"]["input"]["required"]["lora"]

    name = "d2f_test/mine.safetensors"
    assert name not in str(listed())
    write(0.1, 500)
    assert name in str(listed())
    assert "500 steps" in info(name) and info(name) is None
    write(0.2, 501)
    text = info(name)
    assert "501 steps" in text and "converted to flow matching: start t_min, shift 1" in text


def test_a_graph_without_a_lora_is_told_so(server, info):
    from devtools.client import PromptError

    with pytest.raises(PromptError, match="no LoRA is chosen"):
        info("none")

"""What can be known before a graph runs is refused when it is queued, where the page shows it on the node."""

import pytest


def node(kind, **inputs):
    return {"class_type": kind, "inputs": inputs}


def trainer(**widgets):
    from devtools.prompts import prompt_for

    settings = {**prompt_for("02 Train a LoRA")["8"]["inputs"], **widgets}
    del settings["samples"], settings["options"]
    return {
        "1": node("D2FDemoCheckpoint"),
        "2": node("D2FDemoScenes", scenes="cyan", count=2, seed=0),
        "3": node("VAEEncode", pixels=["2", 0], vae=["1", 2]),
        "4": node("CLIPTextEncode", text=["2", 1], clip=["1", 1]),
        "bad": node("D2FTrainLora", **settings | {
            "model": ["1", 0], "latents": ["3", 0], "positive": ["4", 0], "negative": ["4", 0], "vae": ["1", 2],
        }),
        "out": node("D2FSaveLora", lora=["bad", 0], filename="x", dtype="fp16"),
    }  # fmt: skip


def dataset(folder):
    inputs = {
        "folder": folder, "resolution": 96, "captions": "none", "caption": "a", "prefix": "", "repeats": 1,
        "variants": 1, "flip": False, "crop": 0.0, "colour": 0.0, "odd_files": "stop", "upscale": "allow", "seed": 0,
        "bucket_step": 32, "folder_repeats": False, "clip": ["1", 1], "vae": ["1", 2],
        "prompt_weights": False, "caption_extension": "", "caption_lines": "joined", "transparency": "white",
        "unmasked_weight": 0.0, "shuffle_tags": False, "keep_tokens": 1, "tag_dropout": 0.0, "caption_variants": 4,
        "more_folders": "", "regularisation_weight": 1.0, "fit": "crop", "more_resolutions": "",
    }  # fmt: skip
    return {
        "1": node("D2FDemoCheckpoint"),
        "bad": node("D2FFolderDataset", **inputs),
        "out": node("PreviewImage", images=["bad", 4]),
    }


def paired(images, targets):
    settings = {"resolution": 96, "target_values": "color", "flip": "off", "seed": 0, "bucket_step": 32}
    return {
        "bad": node("D2FPairedFolder", images=images, targets=targets, **settings),
        "out": node("PreviewImage", images=["bad", 0]),
    }


def pairs(**widgets):
    settings = {
        "prompts": "a", "prompt_file": "", "name": "p", "count": 1, "width": 96, "height": 96, "solver": "euler",
        "steps": 1, "cfg": 1.0, "batch_size": 1, "seed": 0, "precision": "auto", "storage": "fp16", "shard_size": 8,
    }  # fmt: skip
    return {
        "1": node("D2FDemoCheckpoint"),
        "bad": node("D2FReflowPairs", model=["1", 0], clip=["1", 1], **settings | widgets),
        "out": node("PreviewImage", images=["bad", 2]),
    }


def load_lora(**inputs):
    return {
        "1": node("D2FDemoCheckpoint"),
        "bad": node("D2FLoadLora", model=["1", 0], strength=1.0, **inputs),
        "2": node("CLIPTextEncode", text="a", clip=["1", 1]),
        "3": node("EmptyLatentImage", width=96, height=96, batch_size=1),
        "4": node("KSampler", model=["bad", 0], positive=["2", 0], negative=["2", 0], latent_image=["3", 0], seed=0,
                  steps=1, cfg=1.0, sampler_name="euler", scheduler="simple", denoise=1.0),
        "out": node("SaveLatent", samples=["4", 0], filename_prefix="x"),
    }  # fmt: skip


def sample_prompts(text):
    settings = {"negative": "", "width": 96, "height": 96, "steps": 1, "cfg": 1.0, "seed": 0, "grid": "uniform"}
    graph = trainer()
    graph["train"] = graph.pop("bad")
    graph["bad"] = node("D2FSamplePrompts", clip=["1", 1], vae=["1", 2], prompts=text, **settings)
    graph["train"]["inputs"]["samples"] = ["bad", 0]
    graph["out"]["inputs"]["lora"] = ["train", 0]
    return graph


def load_pairs(name):
    return {"bad": node("D2FLoadPairs", pairs=name), "out": node("PreviewAny", source=["bad", 1])}


@pytest.mark.parametrize(("graph", "words"), [
    (trainer(run_name="a/../b"), "the name of the training run 'a/../b' leads out of its folder"),
    (trainer(run_name=""), "the name of the training run '' is empty"),
    (dataset("no such folder"), "folder 'no such folder' is not a folder"),
    (dataset(""), "folder '' is not a folder"),
    (dataset("/"), "holds everything that you have"),
    (paired("no such folder", "."), "images 'no such folder' is not a folder"),
    (paired(".", "nor this"), "targets 'nor this' is not a folder"),
    (pairs(name="con"), "which Windows reserves for a device"),
    (pairs(prompt_file="nothing.txt"), "prompt_file"),
    (load_lora(lora="none"), "no LoRA is chosen: pick a file, or connect a LoRA to lora_model"),
    (load_lora(lora="gone.safetensors"), "there is no LoRA 'gone.safetensors'"),
    (sample_prompts("a --w 64\nb --s many"), "line 2 of 'prompts': --s (steps) is 'many'"),
    (sample_prompts("# a"), "there are no prompts"),
    (load_pairs("none"), "no set of pairs is selected"),
])  # fmt: skip
def test_faults_that_are_known_before_the_run_are_shown_on_the_node(server, graph, words):
    from devtools.client import PromptError

    with pytest.raises(PromptError, match="refused the graph") as refusal:
        server.queue(graph)
    found = refusal.value.details["node_errors"]["bad"]["errors"]
    assert any(words in error["details"] for error in found), found


def test_the_name_of_a_saved_lora_is_checked_as_well(server):
    """The answer has the fault for the page to show; the training runs, as it saves its own files."""
    graph = trainer(steps=1, preview_every=0, run_name="unsaved")
    graph["out"]["inputs"]["filename"] = "a:b"
    answer = server.post("/prompt", {"prompt": graph, "client_id": server.id, "extra_data": {}})
    assert "has the character ':'" in str(answer["node_errors"]["out"]["errors"])


def test_values_of_wires_are_left_to_the_run(server):
    """They are not known before; the same sentence comes from the node when it runs."""
    from devtools.client import PromptError

    graph = dataset("x")
    graph["word"] = node("PrimitiveString", value="no such folder")
    graph["bad"]["inputs"]["folder"] = ["word", 0]
    with pytest.raises(PromptError) as failure:
        server.run(graph)
    assert "folder 'no such folder' is not a folder" in failure.value.details["exception_message"]


def test_prompts_of_before_samples_are_valid_and_give_the_same(server):
    """The trainer's new socket may be missing; what hangs behind the other outputs is as it was."""
    graph = trainer(steps=1, run_name="before samples", resume="new", preview_every=0)
    assert "samples" not in graph["bad"]["inputs"]
    graph["sheet"] = node("PreviewImage", images=["bad", 4])
    server.run(graph)


def test_a_connected_lora_needs_no_file(server):
    graph = load_lora(lora="none")
    training = trainer(steps=1, run_name="validation", resume="new", preview_every=0)
    graph |= {f"t{name}": one for name, one in training.items() if name not in ("out",)}
    for one in graph.values():
        for name, value in one["inputs"].items():
            if isinstance(value, list) and f"t{value[0]}" in graph and one in training.values():
                one["inputs"][name] = [f"t{value[0]}", value[1]]
    graph["bad"]["inputs"]["lora_model"] = ["tbad", 0]
    server.run(graph)

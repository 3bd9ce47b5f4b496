"""The pack in a real ComfyUI process, driven over its API as the web page does."""

import io
import itertools
import json
import threading

import numpy as np
import pytest

NODES = ["D2FConvert", "D2FSampler", "D2FScheduler", "D2FKSampler", "D2FDemoCheckpoint"]
KSAMPLER = {"seed": 1, "steps": 4, "cfg": 2.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
DOPRI5 = {"solver": "dopri5", "solver.rtol": 0.01, "solver.atol": 0.01, "solver.max_nfe": 500}
GRAPHS = itertools.count()


def node(kind, **inputs):
    return {"class_type": kind, "inputs": inputs}


def graph(**more):
    """Demo checkpoint (1), prompts (2, 3), empty latent, converter (conv), `more`; the image comes from `sampler`.

    Nodes that change nothing stand behind the latent, each time one more, so that the server has to sample again.
    """
    repeats = next(GRAPHS)
    nodes = {
        "1": node("D2FDemoCheckpoint"),
        "2": node("CLIPTextEncode", clip=["1", 1], text="a large red sphere on the left, blue background"),
        "3": node("CLIPTextEncode", clip=["1", 1], text=""),
        "conv": node("D2FConvert", model=["1", 0], start="t_min", shift=1.0, prediction="auto"),
        "latent0": node("EmptyLatentImage", width=96, height=96, batch_size=1),
        "decode": node("VAEDecode", samples=["sampler", 0], vae=["1", 2]),
        "save": node("SaveImage", images=["decode", 0], filename_prefix="d2f_test"),
    }
    for i in range(repeats):
        nodes[f"latent{i + 1}"] = node("RepeatLatentBatch", samples=[f"latent{i}", 0], amount=1)
    nodes.update(more)
    for one in nodes.values():
        for name, value in one["inputs"].items():
            if value == "latent":
                one["inputs"][name] = [f"latent{repeats}", 0]
    return nodes


def stock_ksampler(model, **settings):
    given = {**KSAMPLER, **settings}
    return node("KSampler", model=model, positive=["2", 0], negative=["3", 0], latent_image="latent", **given)


def pack_ksampler(**settings):
    given = {"seed": 1, "steps": 4, "cfg": 2.0, "denoise": 1.0, "grid": "uniform", **settings}
    links = {"model": ["1", 0], "positive": ["2", 0], "negative": ["3", 0], "latent_image": "latent"}
    return node("D2FKSampler", **links, **given)


@pytest.fixture
def picture(server):
    """`picture(prompt)` -> the one image that it saves, freshly sampled, as an array."""
    from PIL import Image

    def run(prompt):
        result = server.run(prompt)
        images = result.images()
        cached = [event["data"]["nodes"] for event in result.messages if event["type"] == "execution_cached"]
        assert len(images) == 1 and not any("sampler" in nodes for nodes in cached)
        return np.asarray(Image.open(io.BytesIO(server.view(images[0]))))

    return run


@pytest.fixture
def failure(server):
    """`failure(prompt)` -> what the API says of the node that failed."""
    from devtools.client import PromptError

    def run(prompt):
        with pytest.raises(PromptError) as error:
            server.run(prompt)
        return error.value.details

    return run


def test_all_nodes_are_served_with_names_and_tooltips(server):
    info = server.object_info()
    for name in NODES:
        definition = info[name]
        assert definition["display_name"] != name
        assert definition["category"].startswith("Diff2Flow/")
        assert definition["search_aliases"]
        assert definition["python_module"].startswith("custom_nodes.")
        inputs = definition["input"].get("required", {})
        assert all(options[1]["tooltip"] for options in inputs.values())
        assert len(definition["output_tooltips"]) == len(definition["output"]) > 0
        assert all(definition["output_tooltips"])
    solvers = info["D2FKSampler"]["input"]["required"]["solver"][1]["options"]
    assert [one["key"] for one in solvers] == ["euler", "midpoint", "heun", "rk4", "dopri5", "bosh3"]
    nested = solvers[4]["inputs"]["optional"]
    assert list(nested) == ["rtol", "atol", "max_nfe"]
    assert all(options[1]["tooltip"] for options in nested.values())


def test_the_log_has_no_complaint_of_the_pack(server):
    """Up to the line that says where the page is; later lines may be about bad input that other tests sent."""
    log, ready, _ = server.log.read_text(encoding="utf-8", errors="replace").partition("To see the GUI go to")
    assert ready
    assert "IMPORT FAILED" not in log
    assert not [line for line in log.splitlines() if "diff2flow" in line.lower() and "error" in line.lower()]


def test_the_chain_of_separate_nodes_makes_an_image(picture):
    chain = graph(
        sigmas=node("D2FScheduler", model=["conv", 0], grid="shifted", **{"grid.shift": 3.0}, steps=4, denoise=1.0),
        ode=node("D2FSampler", solver="midpoint"),
        sampler=node(
            "SamplerCustom", model=["conv", 0], add_noise=True, noise_seed=1, cfg=2.0, positive=["2", 0],
            negative=["3", 0], sampler=["ode", 0], sigmas=["sigmas", 0], latent_image="latent",
        ),
    )  # fmt: skip
    image = picture(chain)
    assert image.shape == (96, 96, 3)
    assert image.std() > 10


def test_the_ksampler_with_an_adaptive_solver_makes_an_image(picture):
    assert picture(graph(sampler=pack_ksampler(**DOPRI5))).std() > 10


def test_conversion_alone_gives_the_same_image(picture):
    """Identity (b), end to end: euler on the converted model and on the diffusion model."""
    original = picture(graph(sampler=stock_ksampler(["1", 0]))).astype(int)
    converted = picture(graph(sampler=stock_ksampler(["conv", 0]))).astype(int)
    assert original.std() > 10
    assert np.abs(original - converted).max() <= 2


@pytest.mark.parametrize("copies", [0, 2])
def test_sigmas_of_a_diffusion_model_below_one_give_the_same_image(picture, copies):
    """They are known by the node of the graph that made them; those of GITS are rows of the table."""
    sigmas = {"sigmas0": node("GITSScheduler", coeff=1.2, steps=10, denoise=0.5)}
    for i in range(copies):
        sigmas[f"sigmas{i + 1}"] = node("FlipSigmas", sigmas=[f"sigmas{i}", 0])
    euler = node("KSamplerSelect", sampler_name="euler")

    def custom(model):
        return node(
            "SamplerCustom", model=[model, 0], add_noise=True, noise_seed=1, cfg=2.0, positive=["2", 0],
            negative=["3", 0], sampler=["euler", 0], sigmas=[f"sigmas{copies}", 0], latent_image="latent",
        )  # fmt: skip

    original, converted = (
        picture(graph(euler=euler, sampler=custom(model), **sigmas)).astype(int) for model in ("1", "conv")
    )
    assert original.std() > 2
    assert np.abs(original - converted).max() <= 2


def test_original_and_converted_alternate_bit_for_bit(picture):
    """One loaded model, two clones, prompt after prompt: nobody's schedule leaks."""
    first = {}
    for turn, model in enumerate(["1", "conv", "1", "conv", "conv", "1"]):
        shifted = {"conv": node("D2FConvert", model=["1", 0], start="noise", shift=3.0, prediction="auto")}
        image = picture(graph(sampler=stock_ksampler([model, 0]), **shifted))
        assert np.array_equal(image, first.setdefault(model, image)), (turn, model)
    assert not np.array_equal(first["1"], first["conv"])


@pytest.mark.parametrize("sampler, where, words", [
    (stock_ksampler(["again", 0]), "again", ["was converted before, by 'Convert to Flow", "remove the second"]),
    (stock_ksampler(["sd3", 0]), "sampler", ["replaced the conversion", "put that node before"]),
    (pack_ksampler(**{**DOPRI5, "solver.max_nfe": 3}), "sampler", ["limit of 3 evaluations", "loosen the tolerances"]),
])  # fmt: skip
def test_errors_name_the_node_and_the_remedy_and_the_server_lives(failure, picture, sampler, where, words):
    nodes = {"sampler": sampler}
    if where == "again":
        nodes["again"] = node("D2FConvert", model=["conv", 0], start="t_min", shift=1.0, prediction="auto")
    if sampler["inputs"]["model"] == ["sd3", 0]:
        nodes["sd3"] = node("ModelSamplingSD3", model=["conv", 0], shift=3.0)
    details = failure(graph(**nodes))
    assert details["node_id"] == where
    assert details["exception_type"].split(".")[-1] in ("ValueError", "EvaluationLimitError")
    for word in words:
        assert word in details["exception_message"]
    assert picture(graph(sampler=stock_ksampler(["conv", 0]))).std() > 5


def test_the_scheduler_of_a_diffusion_model_is_refused(failure):
    nodes = graph(
        sigmas=node("D2FScheduler", model=["1", 0], grid="uniform", steps=4, denoise=1.0),
        ode=node("D2FSampler", solver="euler"),
        sampler=node(
            "SamplerCustom", model=["1", 0], add_noise=True, noise_seed=1, cfg=2.0, positive=["2", 0],
            negative=["3", 0], sampler=["ode", 0], sigmas=["sigmas", 0], latent_image="latent",
        ),
    )  # fmt: skip
    details = failure(nodes)
    assert details["node_id"] == "sigmas"
    assert "put 'Convert to Flow Matching' before" in details["exception_message"]


@pytest.mark.parametrize("sampler", [
    stock_ksampler(["conv", 0], steps=1500),
    pack_ksampler(solver="rk4", steps=400),
], ids=["stock", "pack"])  # fmt: skip
def test_an_interrupt_stops_the_run_and_the_next_prompt_works(server, picture, sampler):
    from devtools.client import Interrupted

    steps, pressed = [], threading.Event()

    def on_event(event):
        if event["type"] == "progress" and event["data"].get("value"):
            steps.append(event["data"]["value"])
            if not pressed.is_set():
                pressed.set()
                server.interrupt()

    with pytest.raises(Interrupted) as stopped:
        server.run(graph(sampler=sampler), on_event)
    assert stopped.value.details["node_id"] == "sampler"
    assert max(steps) < 300
    assert picture(graph(sampler=stock_ksampler(["conv", 0]))).std() > 5


def test_a_prompt_that_nobody_waits_for_any_longer_holds_nobody_up(server, picture):
    """One that runs is interrupted, one that waits is taken out, so that the next need not wait for their steps."""
    from devtools.console import DevError

    long = [graph(sampler=stock_ksampler(["conv", 0], steps=5000, seed=seed)) for seed in (5, 6)]

    def wait_a_little():
        with pytest.raises(DevError, match="did not finish in time"):
            server.run(long[0], seconds=4)

    waiting = threading.Thread(target=wait_a_little)
    waiting.start()
    with pytest.raises(DevError, match="did not finish in time"):
        server.run(long[1], seconds=1)
    waiting.join()
    assert picture(graph(sampler=stock_ksampler(["conv", 0]))).std() > 5
    done = server.get("/history")
    assert [record["status"]["status_str"] for record in done.values()][-2:] == ["error", "success"]


def test_what_makes_files_runs_with_nothing_behind_it(server, root):
    """Pairs, a trainer on them and a folder are the ends of a graph; the host refuses graphs without one."""
    nodes = json.loads((root / "devtools" / "prompts" / "05 Few steps.json").read_text("utf-8"))
    pairs = node(
        "D2FReflowPairs", **{**nodes["5"]["inputs"], "name": "alone", "count": 2, "steps": 2, "prompts": "a cube"}
    )
    graph = {key: nodes[key] for key in ("2", "45:700004")} | {"5": pairs}
    assert "5" in _run_nodes(server, graph)
    small = {"run_name": "alone", "steps": 1, "batch_size": 2, "rank": 2}
    trainer = node("D2FTrainLora", **{**nodes["8"]["inputs"], **small})
    del trainer["inputs"]["options"]
    assert "8" in _run_nodes(server, {**graph, "8": trainer})


def _run_nodes(server, graph):
    """Ids of the nodes that a run of a graph executes."""
    return {event["data"].get("node") for event in server.run(graph).messages if event["type"] == "executing"}

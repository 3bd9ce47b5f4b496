"""Every node of the host that makes or changes SIGMAS, in a graph with a converted model: the right noise levels."""

import importlib
import inspect
import pkgutil
from types import SimpleNamespace

import pytest
import torch

DATA_STD = 0.5
OF_A_DIFFUSION = {
    "AlignYourStepsScheduler", "ExponentialScheduler", "GITSScheduler", "KarrasScheduler", "LaplaceScheduler",
    "PolyexponentialScheduler", "VPScheduler",
}  # fmt: skip
OF_A_FLOW = {"Flux2Scheduler", "Ideogram4Scheduler", "LTXVScheduler", "OptimalStepsScheduler"}
OF_THE_MODEL = {"BasicScheduler", "BetaSamplingScheduler", "SDTurboScheduler"}
CHANGING = {"ExtendIntermediateSigmas", "FlipSigmas", "SetFirstSigma", "SplitSigmas", "SplitSigmasDenoise"}
TYPED = {"ManualSigmas"}
# Values under which sigmas of a diffusion model lie below 1, but not all of them are of the schedule's end.
VALUES = {
    "BasicScheduler": {"scheduler": "simple", "steps": 6, "denoise": 0.3},
    "SDTurboScheduler": {"steps": 3, "denoise": 0.3},
    "SetFirstSigma": {"sigma": 0.85},
    "ExtendIntermediateSigmas": {"end_at_sigma": 0.1},
    "SplitSigmas": {"step": 1},
    "SplitSigmasDenoise": {"denoise": 0.6},
    "KarrasScheduler": {"sigma_max": 0.9},
    "ExponentialScheduler": {"sigma_max": 0.9},
    "PolyexponentialScheduler": {"sigma_max": 0.9},
    "LaplaceScheduler": {"sigma_max": 0.9},
    "VPScheduler": {"beta_d": 0.9},
    "AlignYourStepsScheduler": {"denoise": 0.4},
    "GITSScheduler": {"denoise": 0.4},
}


def makers(names):
    return [name for name in sorted(names) if name in stock_nodes()]


def stock_nodes():
    """Name -> class of each node of the host that gives SIGMAS."""
    import comfy_extras

    found = {}
    for entry in pkgutil.iter_modules(comfy_extras.__path__):
        try:
            module = importlib.import_module(f"comfy_extras.{entry.name}")
        except ImportError:  # packages that only some nodes need
            continue
        own = [cls for cls in vars(module).values() if inspect.isclass(cls) and cls.__module__ == module.__name__]
        found |= {cls.__name__: cls for cls in own if "SIGMAS" in gives(cls)}
    return found


def gives(cls):
    try:
        return cls.RETURN_TYPES
    except Exception:  # no node, or a base class of nodes
        return ()


class Given:
    """A node that gives what a test has."""

    FUNCTION, RETURN_TYPES = "give", ("*",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"value": ("*",)}}

    def give(self, value, model=None):
        return (value,)


class GivenModel(Given):
    RETURN_TYPES = ("MODEL",)


class UnknownSigmas(Given):
    RETURN_TYPES = ("SIGMAS",)


class Switch(Given):
    """A node whose output has the type of what it is given, which the host does not tell."""


@pytest.fixture
def graph(comfy, node, monkeypatch, conditioning):
    """`graph(model, nodes)` -> sigmas and latents of SamplerCustom, which gets those of the last node (or `slot`).

    Each node runs as the host runs it. Node "model" gives the MODEL, "flow" the converted one, if that is asked for.
    """
    import comfy.k_diffusion.sampling
    import comfy.samplers
    import comfy_execution.graph
    import comfy_execution.progress
    import comfy_execution.utils
    import comfy_extras.nodes_custom_sampler

    import nodes

    ours = {name: node(name) for name in ("D2FConvert", "D2FScheduler")}
    own = {cls.__name__: cls for cls in (Given, GivenModel, UnknownSigmas, Switch)}
    custom = {"SamplerCustom": comfy_extras.nodes_custom_sampler.SamplerCustom}
    monkeypatch.setattr(nodes, "NODE_CLASS_MAPPINGS", {**stock_nodes(), **ours, **own, **custom})

    def run(model, prompt, convert=True, slot=0):
        seen = []

        def euler(denoiser, x, sigmas, **given):
            seen.append(sigmas.clone())
            return comfy.k_diffusion.sampling.sample_euler(denoiser, x, sigmas, **given)

        sampler = comfy.samplers.KSAMPLER(euler)
        sampler.integrates_the_flow = True
        latent = {"samples": torch.randn(1, 4, 24, 24, generator=torch.manual_seed(3))}
        model = {"class_type": "GivenModel", "inputs": {"value": model}}
        start = {"model": ["model", 0], "start": "t_min", "shift": 1.0, "prediction": "auto"}
        given = {
            "model": model,
            "flow": {"class_type": "D2FConvert", "inputs": start} if convert else model,
            "positive": {"class_type": "Given", "inputs": {"value": conditioning[0]}},
            "sampler": {
                "class_type": "SamplerCustom",
                "inputs": {
                    "model": ["flow", 0], "add_noise": True, "noise_seed": 4, "cfg": 1.0, "positive": ["positive", 0],
                    "negative": ["positive", 0], "sampler": sampler, "latent_image": latent,
                    "sigmas": [list(prompt)[-1], slot],
                },
            },
        }  # fmt: skip
        out = execute({**given, **prompt}, "sampler")
        return SimpleNamespace(sigmas=seen[0], latents=out[0]["samples"])

    def execute(prompt, last):
        dynamic, done = comfy_execution.graph.DynamicPrompt(prompt), {}
        comfy_execution.progress.reset_progress_state("a run", dynamic)

        def result(at):
            if at not in done:
                one = prompt[at]
                cls = nodes.NODE_CLASS_MAPPINGS[one["class_type"]]
                linked = comfy_execution.graph.is_link
                values = {k: result(v[0])[v[1]] if linked(v) else v for k, v in one["inputs"].items()}
                with comfy_execution.utils.CurrentNodeContext("a run", at):
                    out = getattr(cls, "execute", None)
                    out = out(**values) if out else getattr(cls(), cls.FUNCTION)(**values)
                done[at] = getattr(out, "result", out)
            return done[at]

        return result(last)

    yield run
    comfy_execution.progress.reset_progress_state("", comfy_execution.graph.DynamicPrompt({}))


def made_by(name, model="flow", **chosen):
    """A node of a prompt, with its defaults, `VALUES` and what is chosen."""
    values = {}
    for id, (kind, *options) in stock_nodes()[name].INPUT_TYPES()["required"].items():
        options = options[0] if options else {}
        if kind == "MODEL":
            values[id] = [model, 0]
        elif kind != "SIGMAS":
            choices = kind if isinstance(kind, list) else options.get("options", [])
            values[id] = options.get("default", choices[0] if choices else None)
    return {"class_type": name, "inputs": {**values, **VALUES.get(name, {}), **chosen}}


def whole(name, model="flow"):
    """The same with what the node itself has as its defaults."""
    node = made_by(name, model)
    plain = stock_nodes()[name].INPUT_TYPES()["required"]
    node["inputs"] |= {id: plain[id][1]["default"] for id in VALUES.get(name, {}) if "default" in plain[id][1]}
    return node


@pytest.fixture(scope="module")
def original(gaussian):
    return gaussian("EPS", DATA_STD)


def distance(one, other):
    return float((one - other).abs().max() / (other.max() - other.min()))


def remarks(caplog):
    return [record.getMessage() for record in caplog.records if record.name == "diff2flow"]


def behind(source, *names, **chosen):
    """A node that makes sigmas, and nodes that change them, one after the other; the first slot of each."""
    prompt = {"0": source}
    for i, name in enumerate(names):
        prompt[str(i + 1)] = made_by(name, **chosen)
        prompt[str(i + 1)]["inputs"]["sigmas"] = [str(i), 0]
    return prompt


def to_flow(sigmas):
    return sigmas / (1 + sigmas)


def test_every_node_of_the_host_that_gives_sigmas_is_in_the_lists(comfy):
    """One that a newer host brings belongs into `KINDS` of nodes/host/ve/origin.py: until then it is said."""
    found = set(stock_nodes())
    assert found <= OF_A_DIFFUSION | OF_A_FLOW | OF_THE_MODEL | CHANGING | TYPED
    assert found >= OF_A_DIFFUSION | OF_THE_MODEL | CHANGING


@pytest.mark.parametrize("name", sorted(OF_A_DIFFUSION | OF_THE_MODEL))
@pytest.mark.parametrize("way", ["as it is by default", "below 1", "second part", "copied"])
def test_they_give_on_a_converted_model_what_they_give_unconverted(graph, original, caplog, name, way):
    """The part below 1 was once read as flow sigmas, in silence."""
    source = whole(name) if way in ("as it is by default", "second part") else made_by(name)
    prompt = behind(source, *{"copied": ["FlipSigmas"] * 2, "second part": ["SplitSigmas"]}.get(way, []))
    slot = 0
    if way == "second part":
        source["inputs"] |= {"steps": 10}
        plain = graph(original, behind(source), convert=False).sigmas
        prompt["1"]["inputs"]["step"] = int((plain > 0.9).sum())
        slot = 1
    theirs, ours = graph(original, prompt, convert=False, slot=slot), graph(original, prompt, slot=slot)
    assert way == "as it is by default" or name == "BetaSamplingScheduler" or 0.1 < float(theirs.sigmas.max()) < 1
    assert torch.allclose(ours.sigmas, to_flow(theirs.sigmas), atol=1e-6)
    if float(theirs.sigmas.max()) < 15:  # the least noisy that the network has seen
        assert distance(ours.latents, theirs.latents) < 2e-3  # timesteps are rounded in the diffusion model
    said = [remark for remark in remarks(caplog) if f"those of a diffusion model, from {name}; " in remark]
    assert len(said) == len(remarks(caplog)) == (name in OF_A_DIFFUSION)


@pytest.mark.parametrize("name", sorted(OF_A_FLOW))
def test_sigmas_of_a_flow_are_taken_as_they_are(graph, original, caplog, name):
    if name not in stock_nodes():
        pytest.skip(f"this ComfyUI has no {name}")
    plain = graph(original, behind(made_by(name)), convert=False).sigmas
    assert torch.equal(graph(original, behind(made_by(name))).sigmas, plain)
    assert float(plain.max()) <= 1 and remarks(caplog) == []


@pytest.mark.parametrize("name", sorted(CHANGING))
@pytest.mark.parametrize("source", ["AlignYourStepsScheduler", "BasicScheduler", "D2FScheduler"])
def test_what_changes_sigmas_acts_on_those_that_it_is_given(graph, original, caplog, name, source):
    flow = {
        "class_type": source,
        "inputs": {"model": ["flow", 0], "grid": {"grid": "uniform"}, "steps": 6, "denoise": 1.0},
    }
    prompt = behind(flow if source == "D2FScheduler" else made_by(source), name)
    for slot in range(len(stock_nodes()[name].RETURN_TYPES)):
        ours = graph(original, prompt, slot=slot)
        before = graph(original, {"0": prompt["0"]}).sigmas
        if source == "AlignYourStepsScheduler":
            expected = to_flow(graph(original, prompt, convert=False, slot=slot).sigmas)
        else:
            values = {id: value for id, value in prompt["1"]["inputs"].items() if id != "sigmas"}
            expected = stock_nodes()[name].execute(before, **values).result[slot]
        assert torch.allclose(ours.sigmas, expected, atol=1e-6)
    assert bool(remarks(caplog)) is (source == "AlignYourStepsScheduler")


@pytest.mark.parametrize("source", ["BasicScheduler", "OptimalStepsScheduler"])
def test_a_sigma_of_a_diffusion_model_among_those_of_a_flow_is_refused(graph, original, source):
    """All of them were once taken as those of a diffusion model."""
    with pytest.raises(ValueError, match=rf"from {source}, .* set to 136 \(by SetFirstSigma\?\).* here 0\.9927"):
        graph(original, behind(made_by(source), "SetFirstSigma", sigma=136.0))


@pytest.mark.parametrize("name", ["UnknownSigmas", "ManualSigmas"])
def test_sigmas_of_which_nothing_is_known_are_said(graph, original, caplog, name):
    source = {
        "UnknownSigmas": {"class_type": name, "inputs": {"value": torch.tensor([0.8, 0.4, 0.0])}},
        "ManualSigmas": {"class_type": name, "inputs": {"sigmas": "0.8, 0.4, 0"}},
    }[name]
    ours = graph(original, behind(source, "FlipSigmas", "FlipSigmas"))
    assert ours.sigmas.tolist() == pytest.approx([0.8, 0.4, 0.0001])
    [said] = remarks(caplog)
    assert f"come from {name}, of which it is not known" in said and "makes 0.4444 of 0.8" in said


@pytest.mark.parametrize("model, is_said", [("flow", False), ("model", True)])
def test_a_maker_that_is_given_the_converted_model_is_believed(graph, original, caplog, model, is_said):
    inputs = {"model": [model, 0], "value": torch.tensor([0.8, 0.4, 0.0])}
    found = graph(original, behind({"class_type": "UnknownSigmas", "inputs": inputs})).sigmas
    assert torch.equal(found, inputs["value"])
    assert bool(remarks(caplog)) is is_said


@pytest.mark.parametrize("name", ["KarrasScheduler", "ManualSigmas"])
def test_a_maker_is_found_behind_a_switch(graph, original, caplog, name):
    prompt = {"0": made_by(name), "1": {"class_type": "Switch", "inputs": {"value": ["0", 0]}}}
    graph(original, prompt)
    [said] = remarks(caplog)
    assert f"from {name}" in said


@pytest.mark.parametrize("name", ["BasicScheduler", "SDTurboScheduler"])
def test_a_scheduler_of_the_unconverted_model(graph, original, caplog, name):
    """BasicScheduler cuts its list, and what it was cut from is known; of the other's it is said that it is not."""
    ours, theirs = (graph(original, behind(made_by(name, "model")), convert=convert) for convert in (True, False))
    assert float(theirs.sigmas.max()) < 1
    assert torch.allclose(ours.sigmas, to_flow(theirs.sigmas), atol=1e-6) is (name == "BasicScheduler")
    [said] = remarks(caplog)
    assert {"BasicScheduler": "those of a diffusion model", "SDTurboScheduler": "it is not known"}[name] in said


@pytest.mark.parametrize("denoise", [0.6, 0.8])
def test_add_noise_with_sigmas_of_a_diffusion_model_keeps_the_image(host, original, stock, conditioning, denoise):
    """It asks the model for a noisy latent at the sigma as it is, which once was the noise alone."""
    import comfy.sample
    import comfy.samplers

    sigmas = stock_nodes()["AlignYourStepsScheduler"].execute("SD1", 10, denoise).result[0]
    noise = stock("custom_sampler", "RandomNoise").execute(5).result[0]
    latent = {"samples": torch.randn(1, 4, 16, 16, generator=torch.manual_seed(3))}
    found = []
    for model in (original, host.convert(original)):
        noisy = stock("custom_sampler", "AddNoise").execute(model, noise, sigmas, latent).result[0]["samples"]
        found.append(comfy.sample.sample_custom(
            model, torch.zeros_like(noisy), 1.0, comfy.samplers.ksampler("euler"), sigmas, *conditioning, noisy,
            disable_pbar=True,
        ))  # fmt: skip
    assert float(sigmas[0]) > 1 and distance(found[1], found[0]) < 2e-3


def test_the_nodes_of_the_pack_that_convert_are_known(schemas, part):
    giving = {id for id, schema in schemas.items() if any(out.io_type == "MODEL" for out in schema.outputs)}
    assert giving == set(part("host.ve.origin").CONVERTERS) | {"D2FDemoCheckpoint", "D2FImageCondition"}


@pytest.mark.parametrize("memory, start, stop, found", [
    ([14.6, 3.0, 0.9, 0.4, 0.0], 2, 5, 5),
    ([0.0, 0.4, 0.9, 3.0], 0, 2, 4),
    ([999.0, 500.0, 0.0, 0.9, 0.4, 0.0], 3, 6, 3),  # a buffer of something else
    ([float("nan"), 3.0, 0.9, 0.4, 0.0], 2, 5, 3),
    ([-3.0, -1.0, 0.0, 0.5], 2, 4, 2),
])  # fmt: skip
def test_what_a_list_was_cut_from_is_looked_at_if_it_is_a_list_itself(part, memory, start, stop, found):
    assert len(part("host.ve.levels").uncut(torch.tensor(memory)[start:stop])) == found

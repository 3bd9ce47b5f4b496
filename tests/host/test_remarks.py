"""What is said about a run is on the node that runs, in its own text, and not only in the log."""

import pytest
import torch

SIGMAS = torch.tensor([0.9, 0.5, 0.2, 0.0])


def test_a_run_without_faults_says_nothing(host, eps_model, sample, on_node):
    sample(host.convert(eps_model), SIGMAS)
    assert on_node == []


def test_sigmas_of_a_diffusion_model(host, eps_model, sample, on_node):
    sample(host.convert(eps_model), torch.tensor([14.6, 1.0, 0.0]))
    assert on_node == [
        "the sigmas of this run, up to 14.6, are those of a diffusion model; they are taken as the same noise levels "
        "of the flow, s = sigma / (1 + sigma), from 0.9359"
    ]


@pytest.mark.parametrize("converted", [True, False])
def test_guidance_on_a_lora_that_has_learned_it(host, part, eps_model, sample, on_node, converted):
    model = host.convert(eps_model) if converted else eps_model
    guided = part("host.guard").with_own_guidance(model, 4.5)
    sample(guided, SIGMAS, cfg=1.0)
    assert on_node == []
    sample(guided, SIGMAS, cfg=7.0)
    assert on_node == [
        "this LoRA has learned the images of CFG 4.5, to which CFG 7 is added: colours burn out. Set cfg to 1, which "
        "also takes half the time"
    ]


def test_steps_that_miss_the_edges_of_a_lora(host, part, eps_model, sample, on_node):
    model = part("host.guard").with_own_windows(host.convert(eps_model, "noise"), 2)
    sample(model, torch.tensor([1.0, 0.5, 0.0]))
    assert on_node == []
    sample(model, torch.tensor([1.0, 0.6, 0.2, 0.0]))
    assert on_node == [
        "this LoRA has learned 2 straight parts of the path, but these 3 steps do not stop at 0.5, where a part ends: "
        "use Flow Scheduler or Flow KSampler (Diff2Flow) with the grid uniform and 2 steps, or a multiple of 2"
    ]


def test_a_flow_model_that_is_not_converted(build, node, on_node):
    model = build(flow=True)
    assert node("D2FConvert").execute(model, "t_min", 1.0, "auto").result[0] is model
    [said] = on_node
    assert "is a flow matching model as it is" in said and "so it is passed on unchanged" in said

"""Refusals that turn on what a checkpoint is end with the node that finds that out, behind their own remedy."""

import re

import pytest
import torch

REPORT = "'Model Report (Diff2Flow)' finds out"


@pytest.fixture
def given(host, build, eps_model, stock, stock_sampling):
    """`given(name)` -> a MODEL of that kind."""
    advanced = "model_advanced"

    def other(**methods):
        """The eps model behind ModelSamplingSD3, or as it is, with methods of a third party on its sampling."""
        is_flow = "timestep" in methods
        shifted = stock(advanced, "ModelSamplingSD3")().patch
        model = shifted(eps_model, 3.0)[0] if is_flow else stock_sampling(eps_model, "eps")
        sampling = host.sampling_of(model)
        sampling.__class__ = type("Theirs", (type(sampling),), methods)
        return model

    kinds = {
        "eps": lambda: eps_model,
        "v": lambda: build("V_PREDICTION"),
        "flow": lambda: build(flow=True),
        "eps over EDM": lambda: stock(advanced, "ModelSamplingContinuousEDM")().patch(eps_model, "eps", 120.0, 0.002)[
            0
        ],
        "distilled": lambda: stock_sampling(eps_model, "lcm"),
        "cascade": lambda: build("STABLE_CASCADE"),
        "image to image": lambda: stock_sampling(eps_model, "img_to_img"),
        "image to image flow": lambda: stock_sampling(eps_model, "img_to_img_flow"),
        "unknown output": lambda: other(calculate_denoised=lambda self, sigma, output, x: x),
        "unknown timesteps": lambda: other(timestep=lambda self, sigma: 1000 * sigma.log1p()),
    }
    return lambda name: kinds[name]()


@pytest.fixture
def refusal():
    """`refusal(run, *arguments)` -> the sentence with which it refuses."""

    def of(run, *arguments, **named):
        with pytest.raises(ValueError) as error:
            run(*arguments, **named)
        return str(error.value)

    return of


def check(text, remedy):
    """One sentence, with its own remedy first and the report last."""
    assert text.count(REPORT) == 1 and "\n" not in text, text
    assert re.search(remedy, text) and re.search(remedy, text).end() <= text.index(REPORT), text
    assert re.fullmatch(r"[\w ]*", text[text.index(REPORT) + len(REPORT) :]), text
    assert text[: text.index(REPORT)].endswith((". ", "; ")), text


KINDS = {
    "distilled": "remove that node",
    "cascade": "it takes eps- and v-prediction models",
    "image to image": "takes eps- and v-prediction models",
    "image to image flow": "takes those that ComfyUI samples with CONST",
    "unknown output": "Remove the ModelSampling node before it",
    "unknown timesteps": "cannot count them",
}
TAKERS = {
    "LoRA Trainer (Diff2Flow)": lambda node, train, model: train(model),
    "Convert to Flow Matching": lambda node, train, model: node("D2FConvert").execute(model, "t_min", 1.0, "auto"),
    "Flow KSampler (Diff2Flow)": lambda node, train, model: node("D2FKSampler").execute(
        model, 0, 2, 1.0, {"solver": "euler"}, {"grid": "uniform"}, [], [], {"samples": torch.zeros(1, 4, 8, 8)}, 1.0
    ),
}

# Flow matching models whose timesteps or readings nothing in that node needs to know.
AS_IT_IS = [
    ("Flow KSampler (Diff2Flow)", "image to image flow"),
    ("Flow KSampler (Diff2Flow)", "unknown timesteps"),
    ("Convert to Flow Matching", "unknown timesteps"),
]


@pytest.mark.parametrize(
    "name, kind", [(name, kind) for name in TAKERS for kind in KINDS if (name, kind) not in AS_IT_IS]
)
def test_schedules_and_readings(given, node, train, refusal, kind, name):
    text = refusal(TAKERS[name], node, train, given(kind))
    check(text, KINDS[kind])
    assert f"'{name}'" in text


def test_what_is_a_flow_model_is_not_converted(host, given, node, refusal):
    check(refusal(host.convert, given("flow")), "takes diffusion models here")
    text = refusal(node("D2FConvert").execute, given("flow"), "t_min", 1.0, "eps")
    check(text, "remove that ModelSampling node; .*set prediction to 'auto'")


def test_what_samples_flow_models_alone(given, node, refusal, sample):
    remedy = "put 'Convert to Flow Matching' .* or ModelSamplingSD3 if the checkpoint is a flow model itself"
    ode = node("D2FSampler").execute({"solver": "euler"}).result[0]
    check(refusal(sample, given("eps"), torch.tensor([0.9, 0.5, 0.0]), ode), remedy)
    check(refusal(node("D2FScheduler").execute, given("v"), {"grid": "uniform"}, 4, 1.0), remedy)


@pytest.mark.parametrize("kind, objective", [("flow", "naive_fm"), ("flow", "diffusion"), ("eps over EDM", "naive_fm")])
def test_objectives(given, train, refusal, kind, objective):
    check(refusal(train, given(kind), objective=objective), f"{objective}.*choose .*diff2flow")


@pytest.mark.parametrize("trained, used, objective, remedy", [
    ("flow", "eps", "diff2flow", "put ModelSamplingSD3 before this node.* a fine-tune of it"),
    ("eps", "flow", "diff2flow", "remove the ModelSampling node before this node"),
    ("eps", "v", "diff2flow", "choose the checkpoint that it was trained on, or a fine-tune of it"),
    ("eps", "eps over EDM", "naive_fm", "remove the ModelSampling node before this node, or choose the checkpoint"),
])  # fmt: skip
def test_loras_of_the_other_kind(given, node, train, refusal, trained, used, objective, remedy):
    lora = train(given(trained), objective=objective, steps=1)[0]
    check(refusal(node("D2FLoadLora").execute, given(used), "none", 1.0, lora), remedy)
    if objective == "diff2flow":
        text = refusal(train, given(used), start_lora=lora, steps=1, run_name="next")
        check(text, "connect the checkpoint that it was trained on, or a fine-tune of it")


def test_a_lora_of_a_diffusion_model_on_a_flow_model_is_remarked_on(given, node, train):
    lora = train(given("eps"), objective="diffusion", steps=1)[0]
    (remark,) = [
        line for line in node("D2FLoadLora").execute(given("flow"), "none", 1.0, lora).result[1].split("\n")
        if "flow matching model of its own" in line
    ]  # fmt: skip
    check(remark, "trained on a diffusion model")


@pytest.mark.parametrize("layer, wide", [("lora_unet_of_another_kind", 16), ("lora_unet_conv_in", 8)])
def test_loras_that_do_not_fit(given, node, refusal, layer, wide):
    lora = {f"{layer}.lora_up.weight": torch.ones(64, 2, 1, 1), f"{layer}.lora_down.weight": torch.ones(2, wide, 3, 3)}
    check(refusal(node("D2FLoadLora").execute, given("eps"), "none", 1.0, lora), "choose a LoRA for this model")


@pytest.mark.parametrize("kind", KINDS)
def test_the_report_does_not_send_to_itself(given, node, kind):
    """It says why the pack cannot read the model, and takes it."""
    text = node("D2FModelReport").execute(given(kind), 4, 0).result[0]
    assert "remark: " in text and REPORT not in text

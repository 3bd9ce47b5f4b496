"""The teacher of reflow pairs and of path measures is what the user's sampler makes of the same MODEL."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from devtools.snapshot import read

OLD = Path(__file__).resolve().parents[2] / "fixtures" / "before_rooms"


# What a set's report says of a node, if it is not the name of its class.
NAMES_IN_REPORT = {"FreeU_V2": "FreeU", "LazyCacheNode": "lazycache"}


class Control:
    """A ControlNet that adds its hint to the middle block, in the shape of ComfyUI's own."""

    def __init__(self, strength=1.0):
        self.strength, self.timestep_percent_range, self.cond_hint_original = (
            strength,
            (0.0, 1.0),
            torch.ones(1, 3, 8, 8),
        )
        self.previous_controlnet, self.extra_hooks, self.calls, self.multigpu_clones = None, None, 0, {}

    def get_models(self):
        return []

    def get_extra_hooks(self):
        return []

    def inference_memory_requirements(self, dtype):
        return 0

    def pre_run(self, model, percent_to_sigma):
        self.calls = 0

    def get_control(self, x, t, cond, count, options):
        self.calls += 1
        return {"middle": [torch.full((1, 1, 1, 1), 0.5 * self.strength)]}

    def cleanup(self):
        pass


@pytest.fixture
def generate(node, output):
    """`generate(model, positive, ...)` -> pairs and report: 5 pairs, 3 Euler steps, CFG 3."""
    generator = node("D2FReflowPairs")
    widgets = {one.id: one.default for one in generator.define_schema().inputs if hasattr(one, "default")}
    small = {"width": 64, "height": 64, "count": 5, "steps": 3, "batch_size": 5, "cfg": 3.0, "storage": "fp32"}

    def run(model, positive, negative=None, clip=None, **given):
        generator.hidden = SimpleNamespace(unique_id="7")
        wrapped = {name: [value] for name, value in {**widgets, **small, **given}.items()}
        links = {"positive": positive, "negative": negative and [negative], "clip": clip and [clip]}
        return generator.execute([model], **wrapped, **links).result[:2]

    return run


@pytest.fixture
def sampled(host, part, monkeypatch):
    """`sampled(flow, noise, positive, negative)` -> latents of the stock guider with the ODE Sampler, model space."""
    import comfy.sample

    def run(flow, noise, positive, negative, cfg=3.0, solver="euler", steps=3):
        monkeypatch.setattr(comfy.sample, "prepare_noise", lambda latent, seed, inds=None: noise.clone())
        levels = part("sampling.sigmas").flow_sigmas(flow, {"grid": "uniform"}, steps)
        sampler = host.make_sampler(part("sampling.ode").OdeSampler(solver))
        empty = {"samples": torch.zeros_like(noise)}
        return flow.model.process_latent_in(
            host.sample(flow, empty, positive, negative, cfg, sampler, levels, 0)["samples"]
        )

    return run


def apart(one, other):
    """Largest difference, in parts of the range."""
    return float((one - other).abs().max() / (other.max() - other.min()))


def with_options(conditioning, **options):
    return [[text, {**old, **options}] for text, old in conditioning]


@pytest.mark.slow
def test_pairs_with_each_patch_of_the_host_before_them(build, host, patch_nodes, generate, sampled, conditioning):
    """Each node that acts on the sampler's images is in the pairs and in their identity; what cannot be is refused."""
    positive, negative = conditioning
    flow, nodes, wrong, acting = host.convert(build(), "noise"), patch_nodes.find(), {}, set()
    refused: set[str] = set()
    plain = generate(flow, [positive], negative, name="plain")[0].read(range(5))
    for name in sorted(nodes):
        try:
            model = patch_nodes.put(nodes[name], flow)
            torch.manual_seed(0)  # some patches draw from the global generator
            expected = sampled(model, plain.eps, positive, negative)
        except Exception as error:  # made for another kind of model, or refused by the guard
            if "replaced the conversion" in str(error):
                refused.add(name)
                with pytest.raises(ValueError, match="ModelSampling node"):
                    generate(model, [positive], negative, name=name)
            continue
        if apart(expected, plain.x0) < 1.5e-5:
            continue
        acting.add(name)
        torch.manual_seed(0)
        pairs, report = generate(model, [positive], negative, name=f"behind-{len(acting)}")
        far = apart(pairs.read(range(5)).x0, expected)
        said = bool(model.patches) or NAMES_IN_REPORT.get(name, name) in report  # patched weights are the student's too
        with pytest.raises(ValueError, match="holds pairs with other settings"):
            generate(model, [positive], negative, name="plain", count=6)
        wrong |= {} if far < 1e-5 and said else {name: (far, report)}
    assert wrong == {}
    assert acting >= {"RescaleCFG", "EpsilonScaling", "SelfAttentionGuidance", "FreeU", "HyperTile"} & nodes.keys()
    assert len(acting) >= 15 and refused >= {"ModelSamplingSD3", "ModelSamplingAuraFlow"}


CONDITIONINGS = {
    "plain": (lambda positive, negative: (positive, negative), False),
    "ControlNet": (
        lambda positive, negative: (
            with_options(positive, control=Control()),
            with_options(negative, control=Control()),
        ),
        True,
    ),
    "timestep range": (
        lambda positive, negative: (with_options(positive, start_percent=0.2, end_percent=0.8), negative),
        True,
    ),
    "area": (lambda positive, negative: (with_options(positive, area=(4, 8, 0, 0), strength=1.0), negative), True),
    "combined negative": (lambda positive, negative: (positive, [*negative, *positive]), True),
}


@pytest.mark.parametrize("name", CONDITIONINGS)
def test_pairs_with_more_than_a_text(build, host, generate, sampled, conditioning, name):
    change, changed = CONDITIONINGS[name]
    positive, negative = change(*conditioning)
    model = host.convert(build(), "noise")
    pairs, report = generate(model, [positive], negative)
    read_pairs = pairs.read(range(5))
    assert apart(read_pairs.x0, sampled(model, read_pairs.eps, positive, negative)) < 1e-5
    plain = generate(model, [conditioning[0]], conditioning[1], name="plain")[0]
    assert (apart(read_pairs.x0, plain.read(range(5)).x0) > 1e-3) is changed
    assert ("part of the teacher alone" in report) is changed
    # Text alone is what the student learns from.
    kwargs = pairs.conditions([0])[0]
    assert torch.equal(kwargs["c_crossattn"], conditioning[0][0][0]) and set(kwargs) == {"c_crossattn"}
    again = generate(model, [positive], negative, count=6)[0]
    assert len(again) == 6 and torch.equal(again.read(range(5)).x0, read_pairs.x0)


def test_the_strength_of_a_controlnet_is_part_of_the_set(build, generate, conditioning):
    positive, negative = conditioning
    generate(build(), [with_options(positive, control=Control(1.0))], negative)
    with pytest.raises(ValueError, match=r"other settings \(conditioning: a ControlNet"):
        generate(build(), [with_options(positive, control=Control(0.5))], negative, count=6)


def test_pairs_of_a_bypass_lora(build, host, train, generate, sampled, conditioning):
    import comfy.sd

    if not hasattr(comfy.sd, "load_bypass_lora_for_models"):
        pytest.skip("this ComfyUI has no bypass LoRAs")
    positive, negative = conditioning
    lora = train(build(), steps=2, learning_rate=0.3, run_name="before", targets="all")[0]
    flow = host.convert(build(), "noise")
    model = comfy.sd.load_bypass_lora_for_models(flow, None, dict(lora), 1.0, 0)[0]
    read_pairs = generate(model, [positive], negative)[0].read(range(5))
    assert apart(read_pairs.x0, sampled(model, read_pairs.eps, positive, negative)) < 1e-5
    assert apart(read_pairs.x0, generate(flow, [positive], negative, name="plain")[0].read(range(5)).x0) > 1e-3
    assert len(generate(model, [positive], negative, count=6)[0]) == 6
    weaker = comfy.sd.load_bypass_lora_for_models(flow, None, dict(lora), 0.5, 0)[0]
    with pytest.raises(ValueError, match="patches: "):
        generate(weaker, [positive], negative, count=7)


def test_different_prompts_go_together_or_one_by_one(build, host, generate, sampled, conditioning, part):
    """Texts of one length in one batch; of another length, or with more than a text, in runs of their own."""
    generator = torch.Generator().manual_seed(9)
    texts = [torch.randn(1, 7, 16, generator=generator) for _ in range(2)]
    groups = part("reflow.prompts").sampling_groups
    plain, long = [[text, {}] for text in texts], [torch.randn(1, 9, 16, generator=generator), {}]
    ranged = [texts[1], {"start_percent": 0.5}]
    assert [rows for rows, _ in groups([plain[0], plain[1], plain[0]])] == [[0, 1, 2]]
    assert [rows for rows, _ in groups([plain[0], long, plain[0]])] == [[0, 2], [1]]
    model, negative = host.convert(build(), "noise"), conditioning[1]
    for number, prompts in enumerate(([plain[0], plain[1]], [plain[0], long], [plain[0], ranged])):
        pairs = generate(model, [[prompt] for prompt in prompts], negative, name=f"set {number}")[0]
        for index in range(5):
            one = pairs.read([index])
            assert apart(one.x0, sampled(model, one.eps, [prompts[index % 2]], negative)) < 1e-5


@pytest.mark.parametrize("solver", ["euler", "midpoint", "heun", "rk4"])
def test_pairs_are_those_of_the_earlier_code(build, generate, conditioning, solver, host):
    """Its formula: the velocity of the alignment, guided, with t = 1 evaluated by the solvers that look there."""
    from diff2flow_kit.d2f_core import flow_grid, solve
    from diff2flow_kit.nodes.network.cfg_velocity import CfgVelocity

    model, (positive, negative) = build(), conditioning
    read_pairs = generate(model, [positive], negative, solver=solver)[0].read(range(5))
    with host.training(model) as network, torch.no_grad():
        condition = {"c_crossattn": positive[0][0].repeat(5, 1, 1)}
        velocity = CfgVelocity(network, network.alignment, condition, {"c_crossattn": negative[0][0]}, 3.0)
        wanted = solve(velocity, read_pairs.eps.clone(), flow_grid("uniform", 3), solver)
    assert apart(read_pairs.x0, wanted) < (1e-5 if solver in ("euler", "midpoint") else 3e-4)


def test_a_set_of_earlier_code_is_continued(build, generate, output, part):
    """Same settings, same pairs to rounding."""
    shutil.copytree(OLD / "pairs", output / "diff2flow" / "pairs")
    settings = read(OLD / "pairs" / "before" / "manifest.json")["settings"]
    from safetensors.torch import load_file

    texts = load_file(OLD / "pairs" / "before" / "conditions.safetensors")
    positive = [[[texts[f"{i}.c_crossattn"], {}]] for i in range(2)]
    _, height, width = map(int, str(settings["shape"]).split("x"))
    given = {"name": "before", "count": 6, "width": 8 * width, "height": 8 * height, "storage": settings["storage"]}
    given |= {name: settings[name] for name in ("steps", "cfg", "solver", "seed", "shard_size")}
    assert settings["cfg"] == 1
    pairs, _ = generate(build(), positive, **given)
    given["name"] = "anew"
    anew, _ = generate(build(), positive, **given)
    assert len(pairs) == len(anew) == 6
    torch.testing.assert_close(pairs.read(range(4)).x0, anew.read(range(4)).x0, rtol=1e-3, atol=1e-3)


def test_several_entries_of_a_caption_are_refused(build, generate, conditioning):
    positive, negative = conditioning
    with pytest.raises(ValueError, match=r"'positive' holds a conditioning of 2 entries.*\(Conditioning \(Combine\)\)"):
        generate(build(), [[*positive, *negative]], negative)


def test_a_node_that_needs_the_negative_prompt_says_so(build, generate, conditioning):
    model = build()
    model.model_options["disable_cfg1_optimization"] = True
    with pytest.raises(ValueError, match="works with the negative prompt even where cfg is 1"):
        generate(model, [conditioning[0]], cfg=1.0)


@pytest.mark.parametrize("name", ["FreeU", "CFGNorm", "PatchModelAddDownscale", "TomePatchModel"])
def test_measures_with_a_node_before_them(patch_nodes, build, host, part, sampled, conditioning, name):
    """The end of one Euler step, which the report's first error is measured from."""
    model = patch_nodes.put(patch_nodes.find()[name], host.convert(build(), "noise"))
    paths, (positive, negative) = part("reflow.path_measures"), conditioning
    settings = paths.PathSettings(positive, negative, 3.0, 64, 64, 2, 24, 5)
    found = paths.measure(model, settings, lambda done: None)
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    one, fine = (sampled(model, noise, positive, negative, solver=solver, steps=steps) for solver, steps in
                 (("euler", 1), ("heun", 24)))  # fmt: skip
    error = float((one - fine).square().flatten(1).mean(1).sqrt().mean())
    assert found.errors[0][1] == pytest.approx(error, rel=0.05)


@pytest.mark.parametrize("scale", [0.9, 0.5])
def test_a_cfg_function_before_the_conversion_counts_in_the_teachers_identity(host, build, scale):
    """The conversion wraps it, to call it in the diffusion model's coordinates."""

    def patched(scale):
        model = build().clone()
        model.set_model_sampler_post_cfg_function(lambda args: scale * args["denoised"])
        return model

    before, plain = host.identity_of(host.convert(patched(scale)), []), host.identity_of(host.convert(build()), [])
    assert plain == {} and before == host.identity_of(patched(scale), [])
    assert before != host.identity_of(host.convert(patched(0.7)), [])

"""The schedulers in diffusers' own pipelines: at DDIM's levels every one of them gives what it gives with DDIM."""

import numpy
import pytest
import torch
from PIL import Image

diffusers = pytest.importorskip("diffusers")

from d2f_diffusers import Diff2FlowEulerScheduler, Diff2FlowHeunScheduler  # noqa: E402

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SIZE = {"height": 16, "width": 16}
PROMPT = "a large red sphere on the left"


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setattr(diffusers.DiffusionPipeline, "_progress_bar_config", {"disable": True}, raising=False)


def ddim(**options):
    return diffusers.DDIMScheduler(
        **SD, clip_sample=False, set_alpha_to_one=True, timestep_spacing="trailing", **options
    )


def picture(seed=0):
    values = numpy.random.default_rng(seed).integers(0, 255, (16, 16, 3), dtype=numpy.uint8)
    return Image.fromarray(values)


def mask():
    values = numpy.zeros((16, 16), dtype=numpy.uint8)
    values[:, 8:] = 255
    return Image.fromarray(values)


def made(pipeline, **options):
    """The latents that a pipeline makes of one seed."""
    generator = torch.Generator().manual_seed(1)
    given = {"prompt": PROMPT, "num_inference_steps": 4, "guidance_scale": 3.0, "generator": generator, **options}
    return pipeline(**given, output_type="latent").images


MASKED = {"image": picture(), "mask_image": mask(), **SIZE}
CASES = {
    "text_to_image": ("StableDiffusionPipeline", SIZE),
    "image_to_image": ("StableDiffusionImg2ImgPipeline", {"image": picture(), "strength": 0.5}),
    "inpaint": ("StableDiffusionInpaintPipeline", {"image": picture(), "mask_image": mask(), "strength": 0.75, **SIZE}),
    "inpaint_all": (
        "StableDiffusionInpaintPipeline",
        {"image": picture(), "mask_image": mask(), "strength": 1.0, **SIZE},
    ),
    "control": ("StableDiffusionControlNetPipeline", {"image": picture(), **SIZE}),
    "xl": ("StableDiffusionXLPipeline", SIZE),
    "xl_image_to_image": ("StableDiffusionXLImg2ImgPipeline", {"image": picture(), "strength": 0.5}),
}


@pytest.fixture
def pipeline(request, parts, xl_parts, control):
    """`pipeline(case)` -> the pipeline of a case under DDIM, and what it is given."""

    def make(case, **options):
        name, given = CASES[case]
        needed = dict(xl_parts if "XL" in name else parts)
        if "ControlNet" in name:
            needed["controlnet"] = control
        if "XL" in name:
            needed["add_watermarker"] = False
        return getattr(diffusers, name)(scheduler=ddim(**options), **needed), given

    return make


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_two_lines_convert_a_pipeline_and_keep_its_pictures(pipeline, case, prediction):
    pipe, given = pipeline(case, prediction_type=prediction)
    before = made(pipe, **given)
    pipe.scheduler = Diff2FlowEulerScheduler.from_config(pipe.scheduler.config, grid="timestep_spacing")
    after = made(pipe, **given)
    assert before.std() > 0.05
    assert (after - before).abs().max() < 1e-4 * before.abs().max()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("start", ["t_min", "noise"])
def test_heun_runs_everywhere(pipeline, case, start):
    pipe, given = pipeline(case)
    pipe.scheduler = Diff2FlowHeunScheduler.from_config(pipe.scheduler.config, start=start)
    result = made(pipe, **given)
    assert torch.isfinite(result).all() and result.std() > 0.05


def test_more_steps_of_both_go_to_one_picture(pipeline):
    pipe, given = pipeline("text_to_image")
    found = {}
    for kind, steps in ((Diff2FlowHeunScheduler, 160), (Diff2FlowHeunScheduler, 20), (Diff2FlowEulerScheduler, 40)):
        pipe.scheduler = kind.from_config(pipe.scheduler.config)
        found[steps] = made(pipe, **given, num_inference_steps=steps)
    heun, euler = ((found[steps] - found[160]).abs().mean() for steps in (20, 40))
    assert heun < euler < 0.05 * found[160].std()  # at equal calls of the network


@pytest.mark.parametrize("kind", [Diff2FlowEulerScheduler, Diff2FlowHeunScheduler])
def test_a_batch_of_different_noise_is_its_items(pipeline, kind):
    pipe, given = pipeline("text_to_image")
    pipe.scheduler = kind.from_config(pipe.scheduler.config, start="noise")
    prompts = [PROMPT, "a small blue cube"]
    generators = [torch.Generator().manual_seed(seed) for seed in (5, 6)]
    together = made(pipe, **given, prompt=prompts, generator=generators)
    for row, (prompt, seed) in enumerate(zip(prompts, (5, 6))):
        alone = made(pipe, **given, prompt=prompt, generator=[torch.Generator().manual_seed(seed)])
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-3, atol=1e-4)
    assert (together[0] - together[1]).abs().max() > 0.1


def test_levels_can_be_given_to_the_pipeline(pipeline):
    pipe, given = pipeline("text_to_image")
    pipe.scheduler = Diff2FlowEulerScheduler.from_config(pipe.scheduler.config)
    grid = pipe.scheduler
    grid.set_timesteps(4)
    sigmas = grid.sigmas.tolist()
    by_count = made(pipe, **given)
    by_sigmas = made(pipe, **given, num_inference_steps=None, sigmas=sigmas)
    torch.testing.assert_close(by_sigmas, by_count, rtol=1e-4, atol=1e-4)
    by_timesteps = made(pipe, **given, num_inference_steps=None, timesteps=[999, 600, 300])
    assert torch.isfinite(by_timesteps).all()


def test_a_zero_terminal_snr_pipeline(pipeline):
    pipe, given = pipeline("text_to_image", prediction_type="v_prediction", rescale_betas_zero_snr=True)
    before = made(pipe, **given)
    pipe.scheduler = Diff2FlowEulerScheduler.from_config(pipe.scheduler.config, grid="timestep_spacing")
    assert pipe.scheduler.init_noise_sigma == pytest.approx(1, abs=1e-3)
    assert (made(pipe, **given) - before).abs().max() < 2e-3 * before.abs().max()  # alpha_T is 2e-4 in ComfyUI's table


def test_a_saved_pipeline_opens_with_its_scheduler(pipeline, tmp_path):
    pipe, given = pipeline("text_to_image")
    pipe.scheduler = Diff2FlowEulerScheduler.from_config(pipe.scheduler.config, shift=1.5)
    wanted = made(pipe, **given)
    pipe.save_pretrained(tmp_path)
    again = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path, safety_checker=None)
    assert type(again.scheduler) is Diff2FlowEulerScheduler and again.scheduler.config.shift == 1.5
    assert torch.equal(made(again, **given), wanted)


def test_the_callback_sees_every_step(pipeline):
    pipe, given = pipeline("text_to_image")
    pipe.scheduler = Diff2FlowHeunScheduler.from_config(pipe.scheduler.config)
    seen = []

    def note(pipe, index, timestep, kwargs):
        seen.append(index)
        return kwargs

    made(pipe, **given, callback_on_step_end=note)
    assert seen == list(range(8))

"""The ``modelspec.*`` metadata: ModelSpec 1.0.0 of Stability AI, with architecture, title, date and hash."""

from datetime import datetime, timezone

from ...core import OBJECTIVES
from ..lora_metadata import LoraFacts

# Class of ComfyUI's model -> architecture of ModelSpec and base model version of sd-scripts.
_ARCHITECTURES = {
    "SD15": ("stable-diffusion-v1", "sd_v1"),
    "SD20": ("stable-diffusion-v2-512", "sd_v2"),
    "SDXL": ("stable-diffusion-xl-v1-base", "sdxl_base_v1-0"),
    "SDXLRefiner": ("stable-diffusion-xl-v1-refiner", "sdxl_refiner_v1-0"),
}
# Prediction -> its name in ModelSpec, if any; whether sd-scripts call it v-parameterization; special architectures.
PREDICTION_NAMES = {
    "eps": ("epsilon", False, {}),
    "v": ("v", True, {"SD20": ("stable-diffusion-v2-768-v", "sd_v2_768_v")}),
    "x0": ("sample", False, {}),
    **dict.fromkeys(("edm", "flow", "velocity"), ("", False, {})),
}


def modelspec(facts: LoraFacts | None, title: str, digest: str, original_names: bool) -> dict[str, str]:
    """The ``modelspec.*`` metadata.

    Args:
        facts: how the LoRA was trained; None if unknown.
        title: name to display.
        digest: SHA-256 of the bytes of the tensors, in hexadecimal digits; left out if empty.
        original_names: whether the keys have the original block names (``input_blocks``) or those of diffusers.
    """
    # Names from the table of the specification: https://github.com/Stability-AI/ModelSpec
    implementation = "https://github.com/Stability-AI/generative-models" if original_names else "diffusers"
    spec = {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "unknown/lora",
        "modelspec.implementation": implementation,
        "modelspec.title": title,
        "modelspec.date": datetime.now(timezone.utc).replace(microsecond=0, tzinfo=None).isoformat(),
        **({"modelspec.hash_sha256": "0x" + digest} if digest else {}),
    }
    if facts is not None:
        spec["modelspec.architecture"] = architecture_of(facts)[0] + ("" if facts.kind == "full" else "/lora")
        # ModelSpec has no name for a network that returns velocities.
        if OBJECTIVES[facts.objective].is_aligned and (name := PREDICTION_NAMES[facts.prediction][0]):
            spec["modelspec.prediction_type"] = name
        if trigger := facts.dataset.get("trigger"):
            spec["modelspec.trigger_phrase"] = trigger
    return spec


def architecture_of(facts: LoraFacts) -> tuple[str, str]:
    """The base model under its name in ModelSpec and in sd-scripts."""
    known = {**_ARCHITECTURES, **PREDICTION_NAMES[facts.prediction][2]}
    return known.get(facts.base_model, (facts.base_model.lower() or "unknown", facts.base_model))

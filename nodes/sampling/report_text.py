"""The words of Model Report: what ComfyUI believes, what the probe has found, and what to put into the graph."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from ...d2f_core import FlowSchedule, NoiseSchedule
from ...d2f_core.probe import LEVELS, MOST_ERROR, Finding
from .. import host

_UNCONVERT = f"remove '{host.NODE_NAME}'"


@dataclass(frozen=True)
class Kind:
    """A kind of network: what it returns, and what makes ComfyUI read it so."""

    returns: str
    remedy: str


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "eps": Kind("the noise (eps-prediction)", "put 'ModelSamplingDiscrete' with sampling 'eps' behind the loader"),
        "v": Kind(
            "v (v-prediction)",
            "put 'ModelSamplingDiscrete' with sampling 'v_prediction' behind the loader, with zsnr on if the "
            "checkpoint's card speaks of zero terminal SNR",
        ),
        "x0": Kind("the clean latent (x0)", "put 'ModelSamplingDiscrete' with sampling 'x0' behind the loader"),
        "edm": Kind("v with the sign of EDM", "put 'ModelSamplingContinuousEDM' with sampling 'edm' behind the loader"),
        "flow": Kind(
            "eps - x0 (flow matching)",
            "put 'ModelSamplingSD3' behind the loader, with the shift that the checkpoint's card names (usually 3 to "
            f"12), and leave out '{host.NODE_NAME}'",
        ),
        "velocity": Kind(
            "x0 - eps (flow matching with the opposite sign)",
            "if this is a LoRA that was trained with the objective 'naive_fm', load it with 'Load LoRA (Diff2Flow)'; "
            "ComfyUI has no node for a checkpoint of this sign",
        ),
    }
)


def describe(belief: host.Belief, on_model: Sequence[str]) -> list[str]:
    """Lines on what ComfyUI believes a MODEL to be, and on what nodes have put on it."""
    lines = [f"Model: {belief.kind}", "", "What ComfyUI believes"]
    lines.append(f"  reading: {KINDS[belief.name].returns if belief.name else 'unknown to this pack'}")
    if belief.unreadable:
        lines.append(f"  remark: {belief.unreadable}")
    lines.append(f"  model_sampling: {belief.sampling}, {_source(belief)}")
    if belief.alignment is not None:
        lines.append(f"  noise levels: {_schedule(belief)}")
        lines.append(f"  flow times: t_min {belief.alignment.t_min:.4f}, t_max {belief.alignment.t_max:.4f}")
        lines.append(f"  zero terminal SNR: {'yes' if belief.zero_terminal else 'no'}")
    if belief.shift is not None:
        lines.append(f"  shift: {belief.shift:g}")
    return [*lines, *(f"  {line}" for line in on_model)]


def _source(belief: host.Belief) -> str:
    if belief.is_converted:
        return f"set by '{host.NODE_NAME}'"
    return "set by a node before this one" if belief.from_node else "as the loader chose it"


def _schedule(belief: host.Belief) -> str:
    assert belief.alignment is not None
    schedule = belief.alignment.schedule
    if isinstance(schedule, FlowSchedule):
        return f"flow, s from 0 to 1, timestep {schedule.multiplier:g} s"
    low, high = schedule.log_sigma_at(schedule.first).exp(), schedule.log_sigma_at(schedule.last).exp()
    kind = f"{len(schedule)} timesteps" if isinstance(schedule, NoiseSchedule) else "continuous"
    return f"{kind}, sigma {float(low):.4g} to {float(high):.5g}"


def explain(finding: Finding, count: int, seed: int) -> list[str]:
    """Lines on what a probe of ``count`` latents has found."""
    calls = len(LEVELS) * len(finding.answers)
    levels = ", ".join(f"{s:g}" for s in LEVELS)
    lines = [f"What the network answers ({count} latents, seed {seed}, {calls} calls, noise levels s = {levels})"]
    lines.append(f"  {finding.name or 'cannot tell'}: {finding.reason}")
    lines.append(f"  relative error if read as (at most {MOST_ERROR:g}), and slope (1 is right):")
    for name, errors in sorted(finding.errors.items(), key=lambda one: max(one[1])):
        lines.append(f"    {name:9}{_row(errors)}   {_row(finding.slopes[name])}")
    lines.append("  answer = a noise + b latent, asked as a network of:")
    for coordinates, pairs in finding.answers.items():
        lines.append(f"    {coordinates:10}" + "   ".join(f"a {a:5.2f} b {b:5.2f}" for a, b in pairs))
    return lines


def _row(values: Sequence[float]) -> str:
    return " ".join(f"{value:6.2f}" for value in values)


def advise(belief: host.Belief, finding: Finding | None) -> list[str]:
    """Lines on whether the two agree, and what to do."""
    if finding is None:
        return [
            "Verdict: nothing was probed. Connect 'positive' (an empty prompt will do) and 'latent', or 'image' and "
            "'vae', with images like those that the model makes."
        ]
    if not finding.name:
        return [
            "Verdict: cannot tell. Use four or more images like those that the model makes, encoded with the "
            "checkpoint's own VAE, and a prompt that fits them; otherwise the checkpoint's card is what counts."
        ]
    returns = KINDS[finding.name].returns
    if finding.name == belief.name:
        return [f"Verdict: ComfyUI is right, the network returns {returns}. {_next(belief)}"]
    believed = KINDS[belief.name].returns if belief.name else "something else"
    before = f"{_UNCONVERT}, and " if belief.is_converted else ""
    undo = "" if belief.is_converted or not belief.from_node else ", instead of the ModelSampling node that is there"
    return [
        f"Verdict: ComfyUI takes the answer for {believed}, but the network returns {returns}.",
        f"To do: {before}{KINDS[finding.name].remedy}{undo}.",
    ]


def _next(belief: host.Belief) -> str:
    if belief.is_converted:
        return "Sample or train it as it is."
    if belief.alignment is not None and belief.alignment.row.is_flow:
        return f"It is a flow matching model already: sample or train it as it is, without '{host.NODE_NAME}'."
    return f"'{host.NODE_NAME}' takes it as it is."

"""The captions of a training set in the report: where they come from, how they vary, what prompt weights change."""

from collections.abc import Sequence

from ..captions.weights import has_prompt_syntax
from ..folder import FolderContents
from ..samples import Sample


def describe_regularisation(samples: Sequence[Sample]) -> list[str]:
    """How many images are regularisation images, and the weight of their loss; nothing if there are none."""
    weights = {sample.image.name: sample.image.weight for sample in samples if sample.image.regularisation}
    shown = ", ".join(f"{weight:g}" for weight in sorted(set(weights.values())))
    return [f"{len(weights)} regularisation images, without the prefix, loss weight {shown}"] if weights else []


def describe_captions(samples: Sequence[Sample], contents: FolderContents, prompt_weights: bool) -> list[str]:
    """Lines of the report.

    Args:
        samples: what is trained on.
        contents: what was in the folder.
        prompt_weights: whether captions are read as prompts.
    """
    origins = ", ".join(f"{count} from {origin}" for origin, count in sorted(contents.origins.items()))
    lines = [f"captions: {origins}"] if origins else []
    images = {sample.image.name: sample.image for sample in samples}.values()
    varied = [len(set(image.captions)) for image in images if image.others]
    if varied:
        lines.append(f"  images with several captions: {len(varied)}, {sum(varied)} captions; one is drawn per epoch")
    written = list(dict.fromkeys(caption for image in images for caption in image.captions))
    changed = [caption for caption in written if has_prompt_syntax(caption)]
    if changed:
        effect = "reads" if prompt_weights else "would read"
        how = "as in CLIP Text Encode" if prompt_weights else "they are trained as they are written"
        lines.append(
            f"  captions with brackets or embeddings: {len(changed)} of {len(written)}, such as {changed[0]!r}; "
            f"'prompt_weights' {effect} them as prompt syntax, {how}"
        )
    return lines

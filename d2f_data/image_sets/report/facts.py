"""Facts of a training set, as LoRA managers show them: folders, tags, buckets, and the words that call the subject.

A tag is a part of a caption between commas, in lower case as in kohya's trainers. Its frequency is the number of images
of the folder that have it in any of their captions. The trigger words are the tags with which every caption begins,
those of regularisation images left out, which show what the words do not mean.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import PurePosixPath
from typing import Any

from ..samples import Sample


@dataclass(frozen=True)
class SetCaption:
    """The caption of an image of a training set.

    Attributes:
        text: as it is encoded.
        prompt_weights: whether it is read as a prompt, with weights and embeddings.
        image: name of the image in its set.
        folder: name of its folder.
        regularisation: whether the image shows what the trigger words are not.
        size: (width, height) in pixels that it is trained at.
    """

    text: str
    prompt_weights: bool = False
    image: str = ""
    folder: str = ""
    regularisation: bool = False
    size: tuple[int, int] = (0, 0)


def set_facts(rows: Iterable[Sequence[SetCaption]]) -> dict[str, Any]:
    """Facts of a training set, of plain types.

    Args:
        rows: the captions of each training item; repeats of an image are items of their own.
    """
    every = [captions for captions in rows if captions]
    folders: dict[str, list[Sequence[SetCaption]]] = {}
    for captions in every:
        folders.setdefault(captions[0].folder, []).append(captions)
    buckets = Counter("{}x{}".format(*captions[0].size) for captions in every if all(captions[0].size))
    return {
        **({"folders": {name: _folder(items) for name, items in sorted(folders.items())}} if folders else {}),
        **({"buckets": dict(sorted(buckets.items()))} if buckets else {}),
        **({"trigger": trigger} if (trigger := trigger_words(every)) else {}),
    }


def _folder(items: Sequence[Sequence[SetCaption]]) -> dict[str, Any]:
    images = {captions[0].image: captions for captions in items}
    tags = Counter(
        tag for captions in images.values() for tag in {tag.lower() for one in captions for tag in tags_of(one.text)}
    )
    return {
        "images": len(images),
        "rows": len(items),
        "regularisation": int(items[0][0].regularisation),
        "tags": dict(sorted(tags.items(), key=lambda item: (-item[1], item[0]))),
    }


def tags_of(caption: str) -> list[str]:
    """The parts of a caption between its commas."""
    return [tag for part in caption.split(",") if (tag := part.strip())]


def trigger_words(rows: Iterable[Sequence[SetCaption]]) -> str:
    """The tags with which all captions begin, joined by commas; empty if they have none in common."""
    texts = {one.text for captions in rows for one in captions if not one.regularisation}
    places = zip(*map(tags_of, texts), strict=False)
    return ", ".join(tags[0] for tags in takewhile(lambda tags: len(set(tags)) == 1, places))


def captions_in_set(sample: Sample, root: str, prompt_weights: bool) -> list[SetCaption]:
    """The captions of a sample with its image, folder and size.

    Args:
        sample: the sample.
        root: name of the training folder, for the images at its top.
        prompt_weights: whether the captions are read as prompts.
    """
    image, parent = sample.image, PurePosixPath(sample.image.name).parent
    folder = root if parent == PurePosixPath() else str(parent)
    size = (sample.bucket.width, sample.bucket.height)
    return [SetCaption(text, prompt_weights, image.name, folder, image.regularisation, size) for text in image.captions]

"""The demo's worlds: where the files of each lie. Scripts that serve both take `--world`."""

import importlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, ModuleType

_FOLDER = Path(__file__).resolve().parent


@dataclass(frozen=True)
class World:
    """A folder with tokenizer/, weights/ and training_log.jsonl, and the package of its modules."""

    folder: Path
    package: str
    cache: Path
    """The default of --cache: renders, latents and checkpoints, outside the repository."""

    @property
    def weights(self) -> Path:
        """Folder of the weights."""
        return self.folder / "weights"

    @property
    def tokenizer(self) -> Path:
        """Folder of the tokenizer's files."""
        return self.folder / "tokenizer"

    @property
    def log(self) -> Path:
        """The training log."""
        return self.folder / "training_log.jsonl"

    def module(self, name: str) -> ModuleType:
        """A module of this world, such as "captions" or "networks"."""
        return importlib.import_module(f"{self.package}.{name}")


_TEMPORARY = Path(tempfile.gettempdir())
WORLDS = MappingProxyType(
    {
        "first": World(_FOLDER, __package__, _TEMPORARY / "d2f_demo_cache"),
        "second": World(_FOLDER / "world", f"{__package__}.world", _TEMPORARY / "d2f_world_cache"),
    }
)
FIRST, SECOND = WORLDS["first"], WORLDS["second"]

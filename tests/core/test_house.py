"""The map of the house, held by walking the imports of every file."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NODE_FILES = [
    "convert",
    "image_condition",
    "apply_condition",
    "sampler",
    "scheduler",
    "ksampler",
    "folder_dataset",
    "train_lora",
    "save_lora",
    "load_lora",
    "demo_checkpoint",
    "demo_scenes",
    "reflow_pairs",
    "load_pairs",
    "trajectory",
    "paired_folder",
    "depth_target",
    "depth_from_image",
    "depth_metrics",
]
TRAINING_PARTS = {
    "dataset_inputs",
    "training_inputs",
    "training_plan",
    "training_data",
    "conditionings",
    "training_clock",
    "training_preview",
    "training_run",
}
REFLOW_PARTS = {"guided", "pair_prompts", "pair_making", "pair_items", "path_measures"}
DEPTH_PARTS = {"depth_inputs"}
MAY_TOUCH_THE_HOST = {path.relative_to(ROOT).as_posix() for path in (ROOT / "nodes" / "host").glob("*.py")} | {
    "demo/networks.py"
}
SCRIPTS = {"demo/evaluate.py", "demo/train_unet.py", "demo/train_log.py"}  # never imported by a running host
HOST_MODULES = {"comfy", "folder_paths", "latent_preview", "nodes", "server", "execution", "node_helpers"}


def imports(path: Path) -> set[str]:
    """Modules that a file imports: absolute names, and relative ones with their leading dots."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            found |= {base} if node.module else {base + alias.name for alias in node.names}
    return found


def files(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


@pytest.mark.parametrize("path", files("d2f_core"), ids=lambda path: path.name)
def test_core_needs_torch_and_the_standard_library_only(path):
    allowed = {"torch", "torchdiffeq", "transformers"} | set(sys.stdlib_module_names)
    absolute = {name.split(".")[0] for name in imports(path) if not name.startswith(".")}
    assert absolute <= allowed
    assert not {name for name in imports(path) if name.startswith("..")}


@pytest.mark.parametrize("path", files("d2f_data"), ids=lambda path: path.name)
def test_data_knows_the_core_and_file_formats_only(path):
    allowed = {"torch", "numpy", "PIL", "kornia", "safetensors"} | set(sys.stdlib_module_names)
    absolute = {name.split(".")[0] for name in imports(path) if not name.startswith(".")}
    assert absolute <= allowed
    assert {name for name in imports(path) if name.startswith("..")} <= {"..d2f_core"}


@pytest.mark.parametrize("path", files("d2f_data"), ids=lambda path: path.name)
def test_heavy_libraries_are_imported_where_they_are_used(path):
    top = [n for n in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(n, ast.Import | ast.ImportFrom)]
    names = {name for n in top for name in ([a.name for a in n.names] if isinstance(n, ast.Import) else [n.module])}
    assert not {name.split(".")[0] for name in names if name} & {"PIL", "kornia", "safetensors", "numpy"}


@pytest.mark.parametrize("path", files("nodes") + files("demo"), ids=lambda path: path.name)
def test_one_room_touches_the_host(path):
    touched = {name for name in imports(path) if name.split(".")[0] in HOST_MODULES}
    assert not touched or path.relative_to(ROOT).as_posix() in MAY_TOUCH_THE_HOST | SCRIPTS


@pytest.mark.parametrize("name", NODE_FILES)
def test_node_files_do_not_import_each_other(name):
    others = {f".{other}" for other in NODE_FILES if other != name}
    assert not imports(ROOT / "nodes" / f"{name}.py") & others


def test_every_node_file_is_known():
    shared = {"__init__", "flow_sampling", "ode", "levels", "inputs", "folders"}
    shared |= TRAINING_PARTS | REFLOW_PARTS | DEPTH_PARTS
    assert {path.stem for path in (ROOT / "nodes").glob("*.py")} == shared | set(NODE_FILES)


@pytest.mark.parametrize("path", files("d2f_core"), ids=lambda path: path.name)
def test_modules_open_with_their_mathematics(path):
    assert len(ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "") > 100

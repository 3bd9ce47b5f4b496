"""The map of the house, held by walking the imports of every file."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Rooms of nodes/ and d2f_data/, and the rooms of the same package that each may enter.
MAP = {
    "nodes": {
        "host": {"fingerprints"},
        "fingerprints": set(),
        "widgets": {"host"},
        "checks": {"host"},
        "network": {"host"},
        "sampling": {"checks", "host", "widgets"},
        "training": {"checks", "fingerprints", "host", "network", "reflow", "widgets"},
        "reflow": {"checks", "fingerprints", "host", "network", "widgets"},
        "datasets": {"checks", "host", "widgets"},
        "image_to_image": {"checks", "host", "sampling", "widgets"},
        "demo": {"checks", "widgets"},
    },
    "d2f_data": {
        "core": set(),
        "files": {"core", "fingerprints"},
        "fingerprints": set(),
        "image_sets": {"core", "files", "fingerprints", "plots"},
        "reflow": {"core", "files", "fingerprints"},
        "plots": set(),
        "training": {"core", "files", "plots"},
    },
}
TOP = {
    "d2f_core": set(),
    "d2f_data": {"d2f_core"},
    "nodes": {"d2f_core", "d2f_data", "demo"},
    "demo": set(),
    "d2f_diffusers": set(),
}
# Installed by pip, these are packages of their own names, and d2f_diffusers is never anything else.
ALONE = {"d2f_core", "d2f_data", "d2f_diffusers"}
OUTSIDE = {"d2f_diffusers", "diffusers", "accelerate", "peft", "datasets", "transformers"}
LIBRARIES = {
    "d2f_core": {"torch", "torchdiffeq"},
    "d2f_data": {"torch", "numpy", "PIL", "kornia", "safetensors"},
    "d2f_diffusers": {
        *("torch", "numpy", "PIL", "safetensors", "diffusers", "transformers", "accelerate", "datasets"),
        *("d2f_core", "d2f_data"),
    },
}
MOST_ROOMS, MOST_FILES, MOST_LINES, MOST_FLOW_LINES = 12, 12, 250, 1160
# From the schedule to reflow, without training and depth.
FLOW = (
    "schedule",
    "continuous",
    "time_map",
    "prediction",
    "velocity",
    "naive",
    "grid",
    "solve",
    "adaptive",
    "nfe",
    "reflow",
)
SCRIPTS = {"demo/evaluate.py", "demo/train_unet.py", "demo/train_log.py"}  # never imported by a running host
HOST_MODULES = {"comfy", "folder_paths", "latent_preview", "nodes", "server", "execution", "node_helpers"}


def files(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path) -> set[str]:
    """What a file imports: absolute modules, and relative ones as paths from the root, "nodes.host.lora"."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {f"<absolute>.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(f"<absolute>.{node.module}")
        elif isinstance(node, ast.ImportFrom):
            package = path.relative_to(ROOT).parts[:-1]
            base = package[: len(package) - node.level + 1] + tuple(
                (node.module or "").split(".") if node.module else ()
            )
            found |= {".".join(base)} if node.module else {".".join((*base, alias.name)) for alias in node.names}
    return found


def outside(path: Path) -> set[str]:
    """Top names of the absolute imports."""
    return {name.split(".")[1] for name in imports(path) if name.startswith("<absolute>.")}


def inside(path: Path) -> set[tuple[str, ...]]:
    """Relative imports, taken apart."""
    return {tuple(name.split(".")) for name in imports(path) if not name.startswith("<absolute>.")}


def room_of(parts: tuple[str, ...]) -> str:
    """The room in its package: a folder, or a file at the top."""
    return parts[1].removesuffix(".py") if len(parts) > 1 else ""


@pytest.mark.parametrize("path", [path for package in TOP for path in files(package)], ids=name_of)
def test_packages_enter_those_below_them_only(path):
    package = path.relative_to(ROOT).parts[0]
    entered = {parts[0] for parts in inside(path) if parts}
    assert entered - {package} <= TOP[package]


@pytest.mark.parametrize(
    "path", [path for room in ("d2f_core", "d2f_data", "nodes", "demo") for path in files(room)], ids=name_of
)
def test_what_comfyui_loads_knows_nothing_of_diffusers(path):
    if path.name.startswith(("make_", "train_")):
        pytest.skip("a script that made the demo model")
    assert not {parts[0] for parts in inside(path)} & OUTSIDE
    assert not outside(path) & OUTSIDE


@pytest.mark.parametrize("path", files("d2f_data"), ids=name_of)
def test_one_file_of_the_data_knows_the_core_by_its_own_name(path):
    assert not outside(path) & ALONE or path.name == "core.py"


@pytest.mark.parametrize("package", MAP)
def test_every_room_is_on_the_map(package):
    rooms = {room_of(path.relative_to(ROOT).parts) for path in files(package)} - {"__init__"}
    assert rooms == set(MAP[package])
    assert len(rooms) + 1 <= MOST_ROOMS


@pytest.mark.parametrize("path", [path for package in MAP for path in files(package)], ids=name_of)
def test_rooms_enter_what_the_map_says_only(path):
    package, room = path.relative_to(ROOT).parts[0], room_of(path.relative_to(ROOT).parts)
    entered = {room_of(parts) for parts in inside(path) if parts[0] == package} - {room, ""}
    assert room == "__init__" or entered <= MAP[package][room]


@pytest.mark.parametrize("package", MAP)
def test_the_map_has_no_circle(package):
    left = dict(MAP[package])
    while left:
        ends = {room for room, entered in left.items() if not entered & set(left)}
        assert ends, f"these rooms enter each other: {sorted(left)}"
        left = {room: entered for room, entered in left.items() if room not in ends}


@pytest.mark.parametrize("package", [*MAP, "d2f_core"])
def test_files_of_a_package_do_not_import_in_circles(package):
    left = {name_of(path)[:-3].replace("/", ".").removesuffix(".__init__"): inside(path) for path in files(package)}
    left = {
        name: {".".join(parts) for parts in entered if ".".join(parts) != package} & set(left) - {name}
        for name, entered in left.items()
        if name != package
    }
    while left:
        ends = {name for name, entered in left.items() if not entered & set(left)}
        assert ends, f"these files import each other: {sorted(left)}"
        left = {name: entered for name, entered in left.items() if name not in ends}


def test_the_host_has_one_door():
    for path in files("nodes"):
        if room_of(path.relative_to(ROOT).parts) != "host":
            assert not {parts for parts in inside(path) if parts[:2] == ("nodes", "host") and len(parts) > 2}, path


@pytest.mark.parametrize("package", LIBRARIES)
def test_libraries_of_a_package(package):
    allowed = LIBRARIES[package] | set(sys.stdlib_module_names) | ({"d2f_core"} if package == "d2f_data" else set())
    found = {name: name_of(path) for path in files(package) for name in outside(path)}
    assert found
    assert {name: where for name, where in found.items() if name not in allowed} == {}


@pytest.mark.parametrize("path", files("d2f_data"), ids=name_of)
def test_heavy_libraries_are_imported_where_they_are_used(path):
    top = [n for n in tree(path).body if isinstance(n, ast.Import | ast.ImportFrom)]
    names = {name for n in top for name in ([a.name for a in n.names] if isinstance(n, ast.Import) else [n.module])}
    assert not {name.split(".")[0] for name in names if name} & {"PIL", "kornia", "safetensors", "numpy"}


def test_one_room_touches_the_host():
    touching = {name_of(path) for path in [*files("nodes"), *files("demo")] if outside(path) & HOST_MODULES}
    elsewhere = {name for name in touching if not name.startswith("nodes/host/")}
    assert "nodes/host/training.py" in touching
    assert elsewhere <= {"demo/networks.py"} | SCRIPTS


def test_node_files_do_not_import_each_other():
    """Whoever wants to know a node reads one file, and what it shares lies in a file without a node."""
    with_nodes = {
        name_of(path)[:-3].replace("/", "."): path
        for path in files("nodes")
        if "io.ComfyNode)" in path.read_text("utf-8")
    }
    assert len(with_nodes) > 10
    for name, path in with_nodes.items():
        assert not {".".join(parts) for parts in inside(path)} & (set(with_nodes) - {name}), name


@pytest.mark.parametrize(
    "folder", sorted({path.parent for room in ("nodes", "d2f_diffusers") for path in files(room)}), ids=name_of
)
def test_a_room_is_small_enough_to_look_around_in(folder):
    assert len(list(folder.glob("*.py"))) <= MOST_FILES


def test_a_file_is_short_enough_to_read():
    rooms = ("d2f_core", "d2f_data", "d2f_diffusers", "nodes", "demo", "devtools", "benchmarks")
    long = {name_of(path): lines for room in rooms for path in files(room) if (lines := count(path)) > MOST_LINES}
    assert long == {}


def test_the_flow_mathematics_is_a_short_book():
    chapters = [path for path in files("d2f_core") if path.stem in FLOW]
    assert len(chapters) > 6
    assert sum(map(count, chapters)) <= MOST_FLOW_LINES


def count(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


@pytest.mark.parametrize("path", files("d2f_core"), ids=name_of)
def test_modules_of_the_core_open_with_their_mathematics(path):
    docstring = ast.get_docstring(tree(path)) or ""
    assert len(docstring.splitlines()) > 3

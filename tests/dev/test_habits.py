"""What keeps the house in order is itself in order: the checks run where they are said to, the forms are forms."""

import re

import pytest

yaml = pytest.importorskip("yaml", reason="ComfyUI's Python has PyYAML")
COMMANDS = ["python dev.py test", "python dev.py demo"]


@pytest.fixture(scope="module")
def load(root):
    """`load(".github/workflows/test.yml")` -> what it says."""
    return lambda name: yaml.safe_load((root / name).read_text(encoding="utf-8"))


def runs(workflow):
    """The shell commands of a workflow, in order."""
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    return [step["run"] for step in steps if "run" in step]


def test_the_workflow_runs_the_two_commands_of_the_readme(load, root):
    assert runs(load(".github/workflows/test.yml")) == COMMANDS
    readme = (root / "README.md").read_text(encoding="utf-8")
    tried = readme.split("## Try it")[1].split("##")[0]
    assert sorted(re.findall(r"^    (python dev\.py \w+)", tried, re.MULTILINE)) == sorted(COMMANDS)


def test_the_mathematics_run_on_the_other_systems(load):
    workflow = load(".github/workflows/core.yml")
    assert runs(workflow) == ["python dev.py test --core"]
    assert workflow["jobs"]["core"]["strategy"]["matrix"]["os"] == ["windows-latest", "macos-latest"]


def test_what_gets_the_token_is_held_to_one_state(load):
    steps = load(".github/workflows/publish.yml")["jobs"]["publish"]["steps"]
    [trusted] = [step["uses"] for step in steps if "REGISTRY_ACCESS_TOKEN" in str(step)]
    assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", trusted)


def test_only_a_tag_publishes_and_it_has_to_be_the_version(load, root):
    workflow = load(".github/workflows/publish.yml")
    assert workflow[True] == {"push": {"tags": ["v*"]}}  # YAML reads `on` as a truth value
    [check] = runs(workflow)
    line = re.search(r'"(version = .*)"', check).group(1).replace('\\"', '"').replace("${GITHUB_REF_NAME#v}", "{}")
    versions = re.findall(r'^version = "(.*)"$', (root / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(versions) == 1 and line.format(versions[0]) == f'version = "{versions[0]}"'


def test_the_type_checker_and_the_linter_see_every_room(root):
    toml = pytest.importorskip("tomllib", reason="Python 3.10 cannot read pyproject.toml")
    tools = toml.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    assert {"d2f_core", "d2f_data", "nodes", "devtools"} <= set(tools["mypy"]["files"])
    assert not {"exclude", "disable_error_code", "ignore_errors"} & (set(tools["mypy"]) | set(tools["ruff"]))
    assert "per-file-ignores" not in tools["ruff"]["lint"]


def test_the_hooks_before_a_commit_use_the_pinned_tools(load):
    from devtools.env import TOOLS

    hooks = {
        hook["id"]: hook for repository in load(".pre-commit-config.yaml")["repos"] for hook in repository["hooks"]
    }
    assert set(hooks) == {"ruff", "mypy", "core"}
    for name in ("ruff", "mypy"):
        assert hooks[name]["entry"].startswith(f"python dev.py python -m {name}")
        assert any(tool.startswith(f"{name}==") for tool in TOOLS)
    assert hooks["core"]["entry"] == "python dev.py test --core"


@pytest.mark.parametrize("name, wanted", [
    ("bug.yml", {"what", "graph", "log", "pack", "comfyui"}),
    ("feature.yml", {"task", "kind"}),
])  # fmt: skip
def test_the_forms_ask_for_what_is_needed(load, name, wanted):
    form = load(f".github/ISSUE_TEMPLATE/{name}")
    assert form["name"] and form["description"] and form["labels"]
    ids = [part["id"] for part in form["body"]]
    assert len(set(ids)) == len(ids)
    assert all(part["attributes"]["label"] for part in form["body"])
    assert {part["id"] for part in form["body"] if part.get("validations", {}).get("required")} == wanted
    assert {part["type"] for part in form["body"]} <= {"textarea", "input", "dropdown", "checkboxes", "markdown"}


def test_the_map_names_every_room(root):
    text = (root / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = text.split("## The map of the house")[1].split("##")[0]
    named = set(re.findall(r"`([a-z0-9_]+)/`", table)) | {"docs"}
    rooms = {path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith((".", "_"))}
    assert rooms <= named | {"web"}


@pytest.mark.parametrize("package", ["nodes", "d2f_data"])
def test_the_map_names_every_room_of_a_package_and_no_other(root, package):
    text = (root / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = re.findall(rf"^\| `{package}/(\w+)(?:/|\.py)` \|", text, re.MULTILINE)
    rooms = [path.stem for path in (root / package).iterdir() if not path.name.startswith((".", "_"))]
    assert sorted(named) == sorted(rooms)

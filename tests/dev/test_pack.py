"""How tests import the pack: by its path, one copy, nothing on `sys.path`."""

import subprocess
import sys
from pathlib import Path


def test_the_core_under_both_names_is_one_module(root):
    import d2f_core
    import d2f_core.schedule as by_short_name
    import diff2flow_kit.d2f_core.schedule as by_long_name

    assert by_short_name is by_long_name
    assert d2f_core is sys.modules["diff2flow_kit.d2f_core"]
    assert d2f_core.__spec__.name == d2f_core.__name__ == "diff2flow_kit.d2f_core"
    assert by_short_name.__package__ == "diff2flow_kit.d2f_core"


def test_the_repository_root_is_not_on_sys_path(root):
    assert root not in [Path(place or ".").resolve() for place in sys.path]


def test_dev_without_a_command_prints_help(root):
    result = subprocess.run([sys.executable, str(root / "dev.py")], capture_output=True, text=True)
    assert result.returncode == 0
    assert all(f"python dev.py {name}" in result.stdout for name in ("demo", "test", "serve", "python", "bench"))


def test_a_mistake_is_one_sentence_and_a_non_zero_exit(root, tmp_path):
    environ = {"COMFYUI_PATH": str(tmp_path), "PATH": "", "SYSTEMROOT": "C:\\Windows", "D2F_CACHE": str(tmp_path)}
    for command in (["demo"], ["serve"], ["test"], ["python"]):
        result = subprocess.run(
            [sys.executable, str(root / "dev.py"), *command], capture_output=True, text=True, env=environ
        )
        assert result.returncode == 1
        assert result.stdout == ""
        assert result.stderr.startswith("dev.py: COMFYUI_PATH=")
        assert len(result.stderr.splitlines()) == 1

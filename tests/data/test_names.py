"""File names: numbered, and safe on every operating system."""

import re

import pytest

from diff2flow_kit.d2f_data.files.names import check_name, free_path


def test_numbers_increase(tmp_path):
    assert free_path(tmp_path / "none", "a/lora", ".safetensors") == tmp_path / "none" / "a" / "lora_00001.safetensors"
    for name in ("lora_00001.safetensors", "LORA_00007.safetensors", "lora_2_00009.safetensors", "lora_x.safetensors"):
        (tmp_path / name).touch()
    assert free_path(tmp_path, "lora", ".safetensors").name == "lora_00008.safetensors"
    (tmp_path / "lora_99999.safetensors").touch()
    assert free_path(tmp_path, "lora", ".safetensors").name == "lora_100000.safetensors"
    (tmp_path / "lora_100000.safetensors").touch()
    assert free_path(tmp_path, "lora", ".safetensors").name == "lora_100001.safetensors"


@pytest.mark.parametrize("name", ["lora", "diff2flow/my_lora", "a b/c-d.v2", "console", "caf\u00e9", "100%"])
def test_valid_names(name):
    assert check_name(name, "the name") == name


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("", "is empty"),
        ("/etc/passwd", "starts or ends with /"),
        ("a//b", "empty part"),
        ("a/", "ends with /"),
        ("..", "leads out"),
        ("../x", "leads out"),
        ("a/../../x", "leads out"),
        ("./x", "leads out"),
        ("a\\b", "character"),
        ("C:/x", "character ':'"),
        ("a\nb", "character '\\n'"),
        ("a\x00", "character"),
        ("what?", "character"),
        ("con", "Windows"),
        ("x/NUL.txt", "Windows"),
        ("com1", "Windows"),
        ("a.", "ends with a dot"),
        ("a /b", "space"),
        (" a", "space"),
        ("x" * 101, "101 bytes; 100"),
    ],
)
def test_invalid_names_are_refused_with_the_reason(name, fault):
    with pytest.raises(ValueError, match=re.escape(fault)) as error:
        check_name(name, "the LoRA's file name")
    assert str(error.value).startswith(f"the LoRA's file name {name!r} ") and "my_lora" in str(error.value)

"""The folder of a training run: numbered, resumed with the same settings only, intact after a crash."""

import json

import pytest
import torch

from diff2flow_kit.d2f_data.files.run_folder import RunFolder

CONFIG = {"rank": 16, "learning_rate": 1e-4, "dropout": 0.0, "seed": 2**64 - 1, "full_ends": False, "targets": "all"}


def state(step):
    return {"step": step, "weights": {"a": torch.arange(3.0) + step}, "losses": [0.5] * step}


def test_a_new_run_has_its_settings_and_no_state(tmp_path):
    folder = RunFolder(tmp_path, "portrait", CONFIG)
    assert folder.load() is None and folder.name == "portrait" and folder.path == tmp_path / "portrait"
    settings = json.loads((folder.path / "settings.json").read_text(encoding="utf-8"))
    assert settings == {**CONFIG, "run_name": "portrait"}


@pytest.mark.parametrize("resume", ["auto", "continue"])
def test_it_resumes_from_the_last_save(tmp_path, resume):
    first = RunFolder(tmp_path, "portrait", CONFIG)
    for step in (1, 2):
        first.save(state(step), {"step": step, "loss": 0.5})
    again = RunFolder(tmp_path, "portrait", dict(reversed(CONFIG.items())), resume)
    assert again.path == first.path
    found = again.load()
    assert found["step"] == 2 and found["losses"] == [0.5, 0.5]
    assert torch.equal(found["weights"]["a"], torch.tensor([2.0, 3.0, 4.0]))
    lines = (again.path / "log.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]


def test_auto_compares_with_the_last_run_of_the_name(tmp_path):
    other = {**CONFIG, "rank": 8}
    names = [RunFolder(tmp_path, "a", config).name for config in (CONFIG, CONFIG, other, other, CONFIG)]
    assert names == ["a", "a", "a_00002", "a_00002", "a_00003"]


def test_auto_tells_why_it_starts_a_new_run(tmp_path):
    first, again = (RunFolder(tmp_path, "a", CONFIG) for _ in range(2))
    assert [(folder.previous, folder.differs) for folder in (first, again)] == [("", [])] * 2
    other = RunFolder(tmp_path, "a", {**CONFIG, "rank": 8, "targets": "attention"})
    assert other.name == "a_00002" and other.previous == "a"
    assert other.differs == ["rank: 16 in the file, 8 wanted", "targets: all in the file, attention wanted"]
    assert RunFolder(tmp_path, "a", CONFIG, "new").differs == []


def test_new_runs_are_numbered(tmp_path):
    names = [RunFolder(tmp_path, "a", CONFIG, "new").name for _ in range(3)]
    assert names == ["a", "a_00002", "a_00003"]
    assert RunFolder(tmp_path, "a", CONFIG, "auto").name == "a_00003"


def test_numbers_continue_after_gaps_and_past_five_digits(tmp_path):
    for name in ("a_00002", "a_99999", "a_100000", "a_7", "a_00009_x", "ab", "a_b"):
        (tmp_path / name).mkdir()
    (tmp_path / "a_200000").write_text("a file", encoding="utf-8")
    assert RunFolder(tmp_path, "a", CONFIG, "new").name == "a_100001"


def test_a_run_whose_own_name_ends_in_a_number_is_left_alone(tmp_path):
    theirs = RunFolder(tmp_path, "q_00002", CONFIG)
    theirs.save(state(1), {"step": 1})
    names = [RunFolder(tmp_path, "q", config).name for config in (CONFIG, CONFIG, {**CONFIG, "rank": 8}, CONFIG)]
    assert names == ["q", "q", "q_00003", "q_00004"]
    assert RunFolder(tmp_path, "q", CONFIG, "continue").name == "q_00004"
    again = RunFolder(tmp_path, "q_00002", CONFIG)
    assert again.path == theirs.path and again.load()["step"] == 1 and not again.differs


def before_names(tmp_path, *names):
    """Folders of runs as earlier versions wrote them, without the name of the run."""
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "settings.json").write_text(json.dumps(CONFIG), encoding="utf-8")


def test_runs_of_earlier_versions_go_on_and_are_numbered_on(tmp_path):
    before_names(tmp_path, "a", "a_00002")
    assert [RunFolder(tmp_path, "a", CONFIG, resume).name for resume in ("auto", "continue", "new", "auto")] == [
        "a_00002",
        "a_00002",
        "a_00003",
        "a_00003",
    ]


def test_a_single_run_of_an_earlier_version_belongs_to_the_name_it_has(tmp_path):
    before_names(tmp_path, "q_00002")
    assert [RunFolder(tmp_path, name, CONFIG).name for name in ("q", "q", "q_00002")] == [
        "q_00003",
        "q_00003",
        "q_00002",
    ]


def test_names_with_subfolders_and_signs(tmp_path):
    names = ["people/portrait", "people/portrait", "v1.5 (test)", "v1.5 (test)", "v1x5 (test)"]
    found = [RunFolder(tmp_path, name, CONFIG, "new").path.relative_to(tmp_path).as_posix() for name in names]
    assert found == ["people/portrait", "people/portrait_00002", "v1.5 (test)", "v1.5 (test)_00002", "v1x5 (test)"]


def test_continue_lists_the_differences(tmp_path):
    RunFolder(tmp_path, "a", CONFIG).save(state(1), {"step": 1})
    with pytest.raises(ValueError, match=r"settings\.json was saved with other settings") as raised:
        RunFolder(tmp_path, "a", {**CONFIG, "rank": 8, "data": "abc"}, "continue")
    words = str(raised.value)
    assert "rank: 16 in the file, 8 wanted" in words and "data: nothing in the file, abc wanted" in words
    assert "seed" not in words and "change run_name" in words
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b""])
def test_settings_that_cannot_be_read_are_named(tmp_path, content):
    RunFolder(tmp_path, "a", CONFIG)
    (tmp_path / "a" / "settings.json").write_bytes(content)
    for resume in ("auto", "continue"):
        with pytest.raises(ValueError, match=r"a/settings\.json cannot be read .* change run_name"):
            RunFolder(tmp_path, "a", CONFIG, resume)
    assert RunFolder(tmp_path, "a", CONFIG, "new").name == "a_00002"


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "mine.txt").write_text("mine", encoding="utf-8")
    assert RunFolder(tmp_path, "a", CONFIG).name == "a_00002"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("name", ["", "../a", "/a", "a/../b", "nul", "a?"])
def test_bad_names_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match="the name of the training run"):
        RunFolder(tmp_path / "runs", name, CONFIG)
    assert not list(tmp_path.iterdir())


def test_continue_without_a_run_lists_the_existing_ones(tmp_path):
    with pytest.raises(ValueError, match=r"no run 'portait' in .*there are no runs yet.*'auto'"):
        RunFolder(tmp_path / "new", "portait", CONFIG, "continue")
    RunFolder(tmp_path, "portrait", CONFIG)
    with pytest.raises(ValueError, match=r"no run 'portait' in .*existing runs: portrait.*run_name"):
        RunFolder(tmp_path, "portait", CONFIG, "continue")


def test_a_run_that_saved_nothing_leaves_nothing(tmp_path):
    empty, saved = RunFolder(tmp_path, "a", CONFIG), RunFolder(tmp_path, "b", CONFIG)
    saved.save(state(1), {"step": 1})
    for folder in (empty, saved):
        folder.discard_if_empty()
    assert not empty.path.exists() and saved.load()["step"] == 1


def test_an_unknown_choice_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"unknown choice 'maybe' for resume; allowed are 'auto', 'continue', 'new'"):
        RunFolder(tmp_path, "a", CONFIG, "maybe")


def test_a_state_that_cannot_be_saved_leaves_the_old_one(tmp_path):
    folder = RunFolder(tmp_path, "a", CONFIG)
    folder.save(state(1), {"step": 1})
    before = (folder.path / "state.safetensors").read_bytes()
    with pytest.raises(ValueError, match="cannot be saved without pickle"):
        folder.save({"weights": object()}, {"step": 2})
    assert (folder.path / "state.safetensors").read_bytes() == before
    assert len((folder.path / "log.jsonl").read_text(encoding="utf-8").splitlines()) == 1


def test_previews_are_named_after_their_step(tmp_path):
    from PIL import Image

    folder = RunFolder(tmp_path, "a", CONFIG)
    path = folder.save_picture(Image.new("RGB", (32, 16), "red"), 40)
    assert path == folder.path / "preview_000040.jpg"
    with Image.open(path) as picture:
        assert picture.size == (32, 16) and picture.format == "JPEG"


def test_repr_is_short(tmp_path):
    assert repr(RunFolder(tmp_path, "a", CONFIG)) == "<training run a>"

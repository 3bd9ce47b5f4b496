"""What is left when the trainer has ended: one LoRA file in the loaders' list, and a text on the node."""

import re
from types import SimpleNamespace

import pytest
from PIL import Image


@pytest.fixture
def settled(part, monkeypatch):
    """The texts that nodes leave when they end without an output."""
    texts = []
    monkeypatch.setattr(part("training.run").host, "settle", texts.append)
    return texts


def test_the_newest_lora_of_a_run_is_one_file_of_the_loaders_list(build, train, saved, loaders_list, output, same):
    from diff2flow_kit.d2f_data.files.lora_file import load_lora

    train(build(), steps=2, save_every=1)
    assert loaders_list() == ["my_lora.safetensors"]
    lora = train(build(), steps=3, save_every=1)[0]
    assert loaders_list() == ["my_lora.safetensors"]
    assert [path.stem for path in saved()] == [f"my_lora_step00000{step}" for step in (1, 2, 3)]
    newest = load_lora(output / "loras" / "diff2flow" / "my_lora.safetensors")
    assert newest.facts.steps == 3 and newest.keys() == lora.keys()
    assert load_lora(saved()[0]).facts.steps == 1


def test_another_run_of_the_name_and_a_file_of_the_users_are_not_touched(build, train, loaders_list, output):
    import shutil

    folder = output / "loras" / "diff2flow"
    folder.mkdir(parents=True)
    (folder / "my_lora.safetensors").write_bytes(b"the user's")
    train(build(), steps=1)
    train(build(), steps=1, rank=3)
    shutil.rmtree(output / "diff2flow" / "runs")
    train(build(), steps=1, rank=4)
    mine = ["my_lora_00002", "my_lora_00002_00002", "my_lora_00003"]
    assert loaders_list() == [f"{name}.safetensors" for name in ["my_lora", *mine]]
    assert (folder / "my_lora.safetensors").read_bytes() == b"the user's"


def test_a_state_cannot_lead_out_of_the_folder(part, tmp_path):
    files = part("training.outcome.lora_files").RunLora(tmp_path / "mine")
    for name in ("../mine", "other", "mine_2", None, 3, "mine/../x", ""):
        assert not files.resume(name) and files.name == ""
    files.resume("mine_00002")
    assert files.name == "mine_00002"


def test_a_lora_that_was_moved_away_is_written_again(build, train, loaders_list, output):
    train(build(), steps=2)
    (output / "loras" / "diff2flow" / "my_lora.safetensors").unlink()
    assert train(build(), steps=2)[-1].startswith("Loaded: my_lora had all of its 2 steps before")
    assert loaders_list() == ["my_lora.safetensors"]


def test_a_copy_is_made_where_there_are_no_links(build, train, part, monkeypatch, loaders_list, output, saved):
    def no_links(*args):
        raise OSError(95, "not supported")

    monkeypatch.setattr(part("training.outcome.lora_files").os, "link", no_links)
    train(build(), steps=1)
    file = output / "loras" / "diff2flow" / "my_lora.safetensors"
    assert file.read_bytes() == saved()[0].read_bytes() and not file.samefile(saved()[0])


def test_what_is_said_at_the_end(build, train, output):
    done = train(build(), steps=2)[-1].split("\n")
    assert re.fullmatch(r"Done in \d+ min \d+ s: 2 steps\.", done[0])
    assert done[1].startswith("LoRA file: diff2flow/my_lora.safetensors (in ") and str(output / "loras") in done[1]
    assert done[2].startswith("Next: choose it in Load LoRA (Diff2Flow)") and "raise 'steps'" in done[2]
    assert len(done) == 3
    assert re.match(r"Done in \d+ min \d+ s: resumed after step 2, 1 more steps\.\n", train(build(), steps=3)[-1])
    assert train(build(), steps=3)[-1].startswith(
        "Loaded: my_lora had all of its 3 steps before, so nothing was trained."
    )
    other = train(build(), steps=3, lr_schedule="cosine")[-1].split("\n")
    assert "diff2flow/my_lora_00002.safetensors" in other[1] and "raise" not in other[2]
    assert other[3].startswith("New run my_lora_00002 (not as in my_lora: lr_schedule")


def test_a_cancel_says_where_the_run_stands(build, train, settled, around_network, output):
    import comfy.model_management

    calls = []

    def network(call, network, x):
        calls.append(x)
        if len(calls) == 3:
            raise comfy.model_management.InterruptProcessingException
        return call()

    around_network(network)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        train(build(), steps=5)
    assert settled == [
        "Stopped after step 2 of 5: saved as diff2flow/my_lora.safetensors. Run again to go on from there."
    ]
    calls[:] = [None, None]
    settled.clear()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        train(build(), steps=5, run_name="other")
    assert settled == ["Stopped after step 0 of 5: nothing new was learned. Run again to go on from there."]


def test_an_error_of_ours_is_the_text_of_the_node(build, train, part, monkeypatch, node):
    texts = []
    monkeypatch.setattr(part("checks").host, "settle", texts.append)
    with pytest.raises(ValueError) as raised:
        train(build(), optimizer="prodigy")
    assert texts == [str(raised.value)] and type(raised.value) is ValueError
    with pytest.raises(ValueError, match="rank is 0; allowed are 1 to 1024"):
        train(build(), rank=0)
    assert texts[1:] == ["rank is 0; allowed are 1 to 1024"]


def test_a_text_is_left_as_an_output_of_the_running_node(part, monkeypatch):
    module, sent = part("host.progress"), []
    server = SimpleNamespace(client_id="me", send_sync=lambda *what: sent.append(what))
    monkeypatch.setattr(module, "_server", lambda: server)
    monkeypatch.setattr(module, "get_executing_context", lambda: None)
    module.settle("nobody")
    monkeypatch.setattr(module, "get_executing_context", lambda: SimpleNamespace(node_id="5:3", prompt_id="p"))
    module.settle("why")
    told = {"node": "5:3", "display_node": "5:3", "output": {"text": ["why"]}, "prompt_id": "p"}
    assert sent == [("executed", told, "me")]


def test_the_output_has_the_text_and_the_new_file(build, train, node, part, monkeypatch):
    kept = []
    monkeypatch.setattr(node("D2FTrainLora"), "outputs", classmethod(lambda cls, learned, title: kept.append(learned)))
    with pytest.raises(AttributeError):  # None has no result
        train(build(), steps=1)
    monkeypatch.undo()
    out = node("D2FTrainLora").outputs(kept[0], "title")
    assert out.ui == {"text": [out.result[-1]], "loras": ["diff2flow/my_lora.safetensors"]}


def test_the_picture_beside_the_file(part, output):
    files = part("training.outcome.lora_files").RunLora(output / "runs" / "mine")
    files.claim()
    red, blue = (Image.new("RGB", (4, 4), colour) for colour in ("red", "blue"))
    files.save_picture(red)
    files.save_picture(blue)
    path = output / "loras" / "diff2flow" / "mine.png"
    with Image.open(path) as found:
        assert found.getpixel((0, 0)) == (0, 0, 255)
    red.save(path)  # the user's own
    files.save_picture(blue)
    with Image.open(path) as found:
        assert found.getpixel((0, 0)) == (255, 0, 0)

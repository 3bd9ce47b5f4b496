"""What a training set says about itself in a LoRA's metadata, in the words of kohya's trainers and of ModelSpec."""

import json

import pytest

from diff2flow_kit.d2f_data.files.lora_file import LoraFacts, LoraModel, load_lora, save_lora
from diff2flow_kit.d2f_data.files.lora_metadata import read_facts, write_facts
from diff2flow_kit.d2f_data.files.metadata.kohya import kohya
from diff2flow_kit.d2f_data.files.metadata.modelspec import modelspec
from diff2flow_kit.d2f_data.image_sets.report.facts import SetCaption, set_facts, trigger_words

LORA = {"objective": "diff2flow", "prediction": "eps", "schedule": "a", "start": "noise", "shift": 1.0, "base": "b"}
LORA |= {"base_model": "SD15", "steps": 5, "rank": 2, "alpha": 2.0, "kind": "lora"}


def caption(text, image, folder="10_sks dog", regularisation=False):
    return SetCaption(text, False, image, folder, regularisation, (512, 768))


# Two images, of which one comes twice as often and has two captions, and one of the class.
ROWS = [
    *[[caption("sks dog, Red, grass", "a.png"), caption("sks dog, grass", "a.png")]] * 4,
    *[[caption("sks dog, snow", "b.png")]] * 2,
    [caption("dog", "reg/1_dog/c.png", "reg/1_dog", True)],
]


@pytest.fixture
def facts():
    return LoraFacts(**LORA, dataset=set_facts(ROWS))


def test_tags_are_counted_once_per_image_of_their_folder(facts):
    assert json.loads(kohya(facts, "x", "")["ss_tag_frequency"]) == {
        "10_sks dog": {"sks dog": 2, "grass": 1, "red": 1, "snow": 1},
        "reg/1_dog": {"dog": 1},
    }


def test_folders_and_buckets_are_those_of_kohya(facts):
    found = kohya(facts, "x", "")
    assert json.loads(found["ss_dataset_dirs"]) == {"10_sks dog": {"n_repeats": 3, "img_count": 2}}
    assert json.loads(found["ss_reg_dataset_dirs"]) == {"reg/1_dog": {"n_repeats": 1, "img_count": 1}}
    assert (found["ss_num_train_images"], found["ss_num_reg_images"]) == ("6", "1")
    assert json.loads(found["ss_bucket_info"])["buckets"] == {"0": {"resolution": [512, 768], "count": 7}}


@pytest.mark.parametrize(
    ("captions", "trigger"),
    [
        (["sks dog, red", "sks dog, blue"], "sks dog"),
        (["sks, dog, red", "sks,dog"], "sks, dog"),
        (["red, sks dog", "sks dog, red"], ""),
        (["sks dog on grass"], "sks dog on grass"),
        (["sks dog on grass", "sks dog on snow"], ""),
        ([], ""),
        (["", "sks"], ""),
    ],
)
def test_trigger_words_are_what_all_captions_begin_with(captions, trigger):
    assert trigger_words([[caption(text, text)] for text in captions]) == trigger


def test_regularisation_images_have_no_say_in_the_trigger(facts):
    assert modelspec(facts, "x", "", False)["modelspec.trigger_phrase"] == "sks dog"


def test_a_set_that_says_nothing_writes_nothing():
    facts = LoraFacts(**LORA, dataset=set_facts([[], []]))
    assert facts.dataset == {}
    assert "modelspec.trigger_phrase" not in modelspec(facts, "x", "", False)
    assert not {"ss_tag_frequency", "ss_bucket_info", "ss_num_reg_images"} & set(kohya(facts, "x", ""))


def test_the_facts_survive_loading_and_saving_again(tmp_path, facts):
    import torch

    one = {f"lora_unet_x.lora_{part}.weight": torch.ones(2, 2) for part in ("down", "up")}
    save_lora(tmp_path / "a.safetensors", LoraModel(one, facts))
    loaded = load_lora(tmp_path / "a.safetensors")
    assert loaded.facts == facts and loaded.facts.dataset == facts.dataset


def test_older_files_have_no_facts_of_their_set_and_false_ones_are_refused(facts):
    written = write_facts(facts)
    digest = written.pop("diff2flow.sha256")
    older = {key: text for key, text in written.items() if key != "diff2flow.dataset"}
    assert digest and read_facts(older).dataset == {}
    with pytest.raises(ValueError, match=r"diff2flow.dataset = .*n_rows.*invalid"):
        read_facts({**written, "diff2flow.dataset": '{"buckets": {"n_rows": 0}}'})

"""Tables and progress lines, and what the client makes of ComfyUI's answers."""

import io

import pytest

from devtools.client import Interrupted, PromptError, Result, note_steps, raise_failure, refusal
from devtools.console import Progress, bar, table
from devtools.demo import Meter, describe, row


def test_a_table_is_aligned_and_knows_missing_cells():
    text = table([{"name": "a", "seconds": 1.23456}, {"name": "longer", "images": 2}])
    assert text.splitlines() == [
        "name    seconds  images",
        "------  -------  ------",
        "a       1.235    -",
        "longer  -        2",
    ]


def test_a_bar_fills_up():
    assert bar(1, 4, width=8) == "[##......] 1/4"
    assert bar(9, 4, width=4) == "[####] 9/4"
    assert bar(0, 0, width=4) == "[....] 0/0"


def test_progress_prints_whole_lines_where_there_is_no_terminal():
    stream = io.StringIO()
    progress = Progress(stream, every=0)
    progress.update("one")
    progress.every = 1000
    progress.update("two")
    progress.close("done")
    assert stream.getvalue() == "one\ndone\n"


def test_a_refusal_names_node_and_reason():
    details = {
        "error": {"message": "Prompt outputs failed validation", "details": ""},
        "node_errors": {"3": {"class_type": "KSampler", "errors": [{"message": "Value too big", "details": "steps"}]}},
    }
    assert refusal(details) == "KSampler (node 3): Value too big steps"
    assert refusal({"error": {"message": "No prompt", "details": ""}}) == "No prompt"
    assert refusal({}) == "no reason given"


def test_failures_and_interrupts_raise():
    data = {"node_type": "Loader", "node_id": "7", "exception_message": "no file x\n"}
    with pytest.raises(PromptError, match=r"^Loader \(node 7\) failed: no file x$"):
        raise_failure({"type": "execution_error", "data": data})
    with pytest.raises(Interrupted):
        raise_failure({"type": "execution_interrupted", "data": {}})
    raise_failure({"type": "progress", "data": {}})


def test_evaluations_are_what_samplers_log_or_else_the_progress_bars(tmp_path):
    log = tmp_path / "server.log"
    log.write_text("heun: 99 model evaluations\n")
    meter, result = Meter(log), Result("id", 1.0)
    for node, written in (("3", "heun: 38 model evaluations\n"), ("4", "nothing\n"), (None, "")):
        meter.see({"type": "executing", "data": {"node": node}})
        with open(log, "a") as file:
            file.write(written)
    for node, steps in (("3", 20), ("4", 4)):
        note_steps(result.steps, {"type": "progress", "data": {"node": node, "value": 1, "max": steps}})
    assert meter.evaluations == {"3": 38}
    result.outputs = {"9": {"images": [{"filename": f"a_{i}.png", "subfolder": "", "type": "output"} for i in (1, 2)]}}
    expected = {"workflow": "name", "images": 2, "NFE": 42, "trained": None, "seconds": 1.0, "where": "a_*"}
    assert row("name", result, meter.evaluations, set()) == expected
    assert row("name", result, meter.evaluations, {"4"}) == expected | {"NFE": 38, "trained": 4}


def test_progress_is_told_with_the_title_of_the_node():
    event = {"type": "progress", "data": {"node": "3", "value": 1, "max": 2}}
    assert describe(event, {"3": "My sampler"}) == "My sampler [############............] 1/2"
    assert describe({"type": "executed", "data": {"node": "3"}}, {}) == ""

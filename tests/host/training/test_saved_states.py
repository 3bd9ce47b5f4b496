"""States on disk as the trainer uses them: damaged, of others, in use, saved by the clock and when ComfyUI ends."""

import asyncio
import json
import queue
import re
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

RUN = {"ema": 0.9, "dropout": 0.2}


class KilledError(BaseException):
    """Stands for kill -9: nothing is saved after it."""


@pytest.fixture
def run_path(output):
    return output / "diff2flow" / "runs" / "my_lora"


@pytest.fixture
def kill(part, monkeypatch):
    """`kill(step)`: the process dies after that step."""
    run = part("training.run").TrainingRun
    after = run._after

    def at(step):
        def replaced(self, record, clock):
            after(self, record, clock)
            if record.step == step:
                raise KilledError

        monkeypatch.setattr(run, "_after", replaced)
        monkeypatch.setattr(run, "_rescue", lambda self: None)

    return at


@pytest.fixture
def by_the_clock(part, monkeypatch):
    """The state is saved after every step."""
    monkeypatch.setattr(part("training.run"), "AUTOSAVE_S", -1.0)
    monkeypatch.setattr(part("training.run"), "_AUTOSAVE_SHARE", 0)


def flip(path, at=-1):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("resume", ["auto", "continue"])
def test_a_damaged_state_is_not_trained_from_and_the_node_says_so(build, train, same, run_path, shown, resume):
    whole = train(build(), steps=6, run_name="whole", **RUN)
    train(build(), steps=4, save_every=2, **RUN)
    flip(run_path / "state.safetensors")
    shown.clear()
    rest = train(build(), steps=6, resume=resume, **RUN)
    words = "; state.safetensors is damaged, so the run goes on from the save before (state.previous.safetensors)"
    assert shown[0] == f"resuming after step 2{words}" and all(text.endswith(words) for text in shown)
    assert same(whole[0], rest[0]) and whole[1] == rest[1] and rest[2] == 6


def test_two_damaged_states_are_refused_and_kept(build, train, run_path, unharmed):
    model = build()
    train(model, steps=4, save_every=2, **RUN)
    for path in run_path.glob("state*"):
        flip(path)
    before = {path: path.read_bytes() for path in run_path.rglob("*") if path.is_file()}
    with unharmed(model), pytest.raises(ValueError, match=r"No saved state of the run my_lora can be used: delete the"):
        train(model, steps=6, **RUN)
    assert {path: path.read_bytes() for path in run_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("part_of", ["weights", "optimizer"])
def test_an_old_state_with_integers_for_floats_is_refused_and_kept(build, train, run_path, part_of):
    """It has no checksum, and its bytes as integers would be trained on as floats of up to 1e9."""
    train(build(), steps=2, **RUN)
    path = run_path / "state.safetensors"
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    del header["__metadata__"]["diff2flow.sha256"]
    header["__metadata__"]["diff2flow.state"] = "1"
    names = [name for name in header if f"/{part_of}/" in name and header[name]["dtype"] == "F32"]
    for name in names:
        header[name]["dtype"] = "I32"
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[start:])
    before = path.read_bytes()
    with pytest.raises(ValueError, match=rf"{part_of}.* int32 of shape .*but must (be|have) float"):
        train(build(), steps=3, **RUN)
    assert names and path.read_bytes() == before


def test_a_run_that_somebody_else_trains_is_refused(build, train, run_path, unharmed):
    from diff2flow_kit.d2f_data.files.lock import WriterLock

    model = build()
    train(model, steps=1)
    before = (run_path / "state.safetensors").read_bytes()
    with WriterLock(run_path / "run.lock", "the training run is", "wait"), unharmed(model):  # noqa: SIM117
        with pytest.raises(ValueError, match=r"training run my_lora is being written by process .*another run_name"):
            train(model, steps=2)
    assert (run_path / "state.safetensors").read_bytes() == before
    assert train(model, steps=2)[2] == 2


def test_the_clock_saves_what_a_kill_would_lose(build, train, same, run_path, saved, kill, by_the_clock, monkeypatch):
    """With save_every 0 everything was lost; now it goes on from the step of the kill, bit for bit."""
    from diff2flow_kit.d2f_data.files.training_state import load_state

    with monkeypatch.context():
        kill(3)
        with pytest.raises(KilledError):
            train(build(), steps=5, **RUN)
    assert load_state(run_path / "state.safetensors")[0]["trainer"]["step"] == 3 and not saved("my_lora*")
    monkeypatch.undo()
    rest, whole = train(build(), steps=5, **RUN), train(build(), steps=5, run_name="whole", **RUN)
    assert same(whole[0], rest[0]) and whole[1] == rest[1]
    assert [path.stem for path in saved("my_lora*")] == ["my_lora_step000005"]


def test_a_run_that_was_killed_after_its_last_step_still_gets_its_file(
    build, train, saved, kill, by_the_clock, monkeypatch
):
    kill(2)
    with pytest.raises(KilledError):
        train(build(), steps=2, **RUN)
    monkeypatch.undo()
    for _ in range(2):
        assert train(build(), steps=2, **RUN)[2] == 2
        assert [path.stem for path in saved("my_lora*")] == ["my_lora_step000002"]


def test_the_clock_takes_a_fiftieth_of_the_time_at_most(build, train, part, monkeypatch, run_path):
    """A save that takes 20 s is followed by 1,000 s without one."""
    run = part("training.run")
    now = [0.0]
    monkeypatch.setattr(run.time, "monotonic", lambda: now[0])
    save = run.RunFolder.save

    def slow(self, state, record):
        now[0] += 20.0
        save(self, state, record)

    monkeypatch.setattr(run.RunFolder, "save", slow)
    after, steps = run.TrainingRun._after, []

    def timed(self, record, clock):
        now[0] += 200.0
        before = now[0]
        after(self, record, clock)
        steps.extend([record.step] if now[0] > before else [])

    monkeypatch.setattr(run.TrainingRun, "_after", timed)
    train(build(), steps=14)
    assert steps == [2, 8, 14]


def test_what_cannot_be_saved_is_said_in_the_node(build, train, part, monkeypatch, around_network):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    calls, said = [], []

    def network(call, network, x):
        calls.append(x)
        if len(calls) == 3:
            raise KilledError
        return call()

    around_network(network)
    monkeypatch.setattr(part("training.run").RunFolder, "save", full)
    monkeypatch.setattr(part("training.run").host, "settle", said.append)
    with pytest.raises(KilledError):
        train(build())
    assert said[-1] == "Stopped, and step 2 could not be saved: the log says why"


GRAPH = {
    "1": {"class_type": "D2FDemoCheckpoint", "inputs": {}},
    "2": {"class_type": "EmptyLatentImage", "inputs": {"width": 96, "height": 96, "batch_size": 1}},
    "3": {"class_type": "CLIPTextEncode", "inputs": {"text": "a red cube", "clip": ["1", 1]}},
}


@pytest.fixture
def graphs(schemas):
    """The trainer and the generator of pairs, with more to do than there is time for."""

    def node(name, **inputs):
        widgets = {one.id: one.default for one in schemas[name].inputs if getattr(one, "default", None) is not None}
        return {"class_type": name, "inputs": {**widgets, **inputs}}

    trains = node("D2FTrainLora", model=["1", 0], latents=["2", 0], positive=["3", 0], steps=100_000)
    pairs = node("D2FReflowPairs", model=["1", 0], positive=["3", 0], count=100_000, cfg=1.0, width=96, height=96)
    ends = {"class_type": "PreviewAny", "inputs": {"source": ["4", 2]}}
    return {"trainer": {**GRAPH, "4": trains, "5": ends}, "pairs": {**GRAPH, "4": pairs, "5": ends}}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot send these signals to another process")
@pytest.mark.parametrize(("what", "number"), [("trainer", "SIGTERM"), ("trainer", "SIGINT"), ("pairs", "SIGTERM")])
def test_ending_comfyui_loses_nothing(host_path, tmp_path, graphs, what, number):
    """SIGTERM, as of `docker stop`, and Ctrl-C: what was learned or made is saved, then ComfyUI ends as it does."""
    from devtools.client import Client
    from devtools.host import Host, read_version
    from devtools.server import ADDRESS, running
    from diff2flow_kit.d2f_data.files.training_state import load_state

    with running(Host(host_path, read_version(host_path)), Path(sys.executable), tmp_path, threads=1) as server:
        Client(ADDRESS, server.port, server.alive).queue(graphs[what])
        root, start = tmp_path / "output" / "diff2flow", time.monotonic()
        while not list(root.rglob("*.lock")):
            assert server.alive() and time.monotonic() - start < 120, server.log_tail()
            time.sleep(0.2)
        time.sleep(4)  # some steps
        server.process.send_signal(getattr(signal, number))
        code = server.process.wait(60)
        log = server.log.read_text(encoding="utf-8", errors="replace")
    assert "the running node saves its work before ComfyUI ends" in log
    # After Ctrl-C Python exits while ComfyUI's worker may still be ending the prompt, and sometimes aborts there.
    ends = {"SIGTERM": {-signal.SIGTERM}, "SIGINT": {0, -signal.SIGABRT}}
    assert code in ends[number], log[-2000:]
    if what == "trainer":
        step = load_state(root / "runs" / "my_lora" / "state.safetensors")[0]["trainer"]["step"]
        [lora] = (tmp_path / "output" / "loras" / "diff2flow").glob("*.safetensors")
        assert step > 0 and lora.stem == "my_lora"
    else:
        found = json.loads((root / "pairs" / "my_pairs" / "progress.json").read_text())
        assert sum(shard[3] for shard in found["shards"]) % 8 == 0 and found["shards"]
        assert re.search(r"shard-00000\.safetensors", json.dumps(found["shards"]))


class _Loop(asyncio.AbstractEventLoop):
    """The loop of a server, as far as signals need it: what it is to call waits for the test, in the main thread."""

    def __init__(self):
        self.calls = queue.Queue()

    def is_running(self):
        return True

    def call_soon_threadsafe(self, callback, *args, context=None):
        self.calls.put(callback)


def test_a_signal_handler_is_gone_after_the_block_and_the_older_one_is_back(host, part, monkeypatch):
    """In the main thread of a server whose loop runs; a second Ctrl-C acts at once."""
    before = {number: signal.getsignal(number) for number in part("host.progress")._SIGNALS}
    loop, go = _Loop(), threading.Event()
    monkeypatch.setattr(part("host.progress"), "_server", lambda: type("Server", (), {"loop": loop}))

    def worker():
        with torch.inference_mode(), host.cancelled_on_shutdown():
            go.wait(10)

    thread = threading.Thread(target=worker)
    thread.start()
    loop.calls.get(timeout=10)()
    assert all(signal.getsignal(number) != handler for number, handler in before.items())
    go.set()
    loop.calls.get(timeout=10)()
    thread.join(10)
    assert {number: signal.getsignal(number) for number in before} == before


def test_without_a_server_signals_are_left_alone(host):
    before = signal.getsignal(signal.SIGTERM)
    with host.cancelled_on_shutdown():
        assert signal.getsignal(signal.SIGTERM) == before

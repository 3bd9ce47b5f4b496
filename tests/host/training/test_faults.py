"""Cancel, errors and full memory at any place of a run: what was learned is kept, and the host is as it was.

Every case stops after step 2 of 4, and is then run again to the end: the LoRA is that of a run that never stopped.
"""

import os

import pytest
import torch

RUN = {"steps": 4, "ema": 0.5, "dropout": 0.1, "checkpointing": True, "validate_every": 2}
WHOLE = {}


class BoomError(Exception):
    pass


class StopNow(BaseException):
    pass


@pytest.fixture
def go(train, latents):
    """`go(model, **changes)` -> the LoRA of a run with everything switched on."""
    return lambda model, **changes: train(model, validation_latents=latents[:1], **{**RUN, **changes})[0]


@pytest.fixture
def whole(build, go):
    """The LoRA of a run that is not disturbed."""
    if "lora" not in WHOLE:
        WHOLE["lora"] = go(build(), run_name="whole")
    return WHOLE["lora"]


def raising(error, when):
    """A function of anything that raises the `when`-th time it is called."""
    calls = []

    def function(*args):
        calls.append(args)
        if len(calls) == when:
            raise error

    return function


def in_forward(error, around_network, **others):
    step, measured = raising(error, 3), raising(error, 99)

    def network(call, network, x):
        (step if torch.is_grad_enabled() else measured)()
        return call()

    around_network(network)


def in_backward(error, around_network, **others):
    fault = raising(error, 3)

    def network(call, network, x):
        output = call()
        if output.requires_grad:
            output.register_hook(lambda gradient: fault())
        return output

    around_network(network)


def in_recomputation(error, around_network, **others):
    """The second forward pass of a layer in a step is that of its recomputation."""
    fault = raising(error, 6)

    def network(call, network, x):
        if torch.is_grad_enabled():
            layer = network.module.get_submodule("middle_block.1.proj_in")
            if not layer._forward_pre_hooks:
                layer.register_forward_pre_hook(lambda layer, inputs: fault() if torch.is_grad_enabled() else None)
        return call()

    around_network(network)


def without_gradient(size):
    """In a preview (of 4 items) or a validation (of 1 item)."""

    def install(error, around_network, **others):
        fault = raising(error, 1)

        def network(call, network, x):
            if not torch.is_grad_enabled() and len(x) == size:
                fault()
            return call()

        around_network(network)

    return install


def in_writing(number):
    """While a file is synced to the disk; each is, and then its folder: settings (1, 2), state (3, 4), LoRA (5, 6)."""

    def install(error, monkeypatch, **others):
        sync, fault = os.fsync, raising(error, number)
        monkeypatch.setattr(os, "fsync", lambda file: fault() or sync(file))

    return install


PLACES = {
    "forward": in_forward,
    "backward": in_backward,
    "recomputation": in_recomputation,
    "preview": without_gradient(4),
    "validation": without_gradient(1),
    "writing the state": in_writing(3),
    "writing the LoRA": in_writing(5),
}


def interrupt():
    import comfy.model_management

    return comfy.model_management.InterruptProcessingException()


ERRORS = {
    "interrupt": interrupt,
    "error": BoomError,
    "base": StopNow,
    "memory": lambda: torch.OutOfMemoryError("CUDA out of memory"),
    "allocator": lambda: RuntimeError("DefaultCPUAllocator: can't allocate memory"),
}
CASES = [(place, "interrupt") for place in PLACES] + [("forward", error) for error in list(ERRORS)[1:]]


@pytest.fixture
def install(around_network, monkeypatch):
    return lambda place, error: PLACES[place](error, around_network=around_network, monkeypatch=monkeypatch)


@pytest.mark.parametrize(("place", "kind"), CASES)
def test_what_was_learned_is_kept(comfy, build, go, whole, install, unharmed, saved, same, monkeypatch, place, kind):
    from diff2flow_kit.d2f_data.files.lora_file import load_lora

    model, error = build(), ERRORS[kind]()
    extra = {"writing": {"save_every": 2}, "preview": {"preview_every": 2}}.get(place.split()[0], {})
    with unharmed(model):
        install(place, error)
        with pytest.raises(type(error)) as raised:
            go(model, **extra)
    assert raised.value is error
    monkeypatch.undo()
    (path,) = saved("my_lora*")
    assert path.name == "my_lora_step000002.safetensors" and load_lora(path).facts.steps == 2
    assert same(go(model, resume="continue"), whole)


def test_cancel_acts_within_a_layer(build, go, whole, around_network, unharmed, saved, same, comfy):
    """The host's layers look for a cancel themselves, in a forward pass and in its recomputation."""
    import comfy.model_management

    press = raising(BoomError(), 3)

    def network(call, network, x):
        try:
            press() if torch.is_grad_enabled() else None
        except BoomError:
            comfy.model_management.interrupt_current_processing(True)
        return call()

    model = build()
    around_network(network)
    with unharmed(model), pytest.raises(comfy.model_management.InterruptProcessingException):
        go(model)
    assert len(saved("my_lora*")) == 1
    around_network(lambda call, network, x: call())
    assert same(go(model), whole)


def test_a_second_error_does_not_hide_the_first(build, go, part, install, unharmed, monkeypatch, caplog, comfy):
    """The disk is full when the cancelled run is to be saved."""

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    model, error = build(), interrupt()
    install("forward", error)
    monkeypatch.setattr(part("training.run").RunFolder, "save", full)
    with unharmed(model), pytest.raises(type(error)) as raised:
        go(model)
    assert raised.value is error
    assert "could not be saved; step 0 is on disk" in caplog.text


def test_a_full_disk_stops_the_run_and_keeps_the_older_save(build, go, whole, part, monkeypatch, output, same):
    model, run = build(), part("training.run")
    go(model, steps=2)
    before = {path: path.read_bytes() for path in output.rglob("*.safetensors")}
    assert {"state.safetensors", "my_lora_step000002.safetensors"} <= {path.name for path in before}

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(part("training.outcome.lora_files"), "save_lora", full)
        patched.setattr(run.RunFolder, "save", full)
        with pytest.raises(OSError, match="No space left"):
            go(model, save_every=1)
    assert {path: path.read_bytes() for path in output.rglob("*.safetensors")} == before
    assert same(go(model), whole)


def test_a_mask_that_is_black_all_over_is_named(build, train, latents):
    masked = {"samples": latents, "noise_mask": torch.zeros(1, 1, 64, 64)}
    with pytest.raises(ValueError, match=r"noise mask of 'latents' is black.*white is learned"):
        train(build(), [masked])


def test_continue_without_a_run_and_a_first_step_that_fails_leave_no_folder(build, train, output, around_network):
    with pytest.raises(ValueError, match=r"no run 'typo'.*run_name"):
        train(build(), run_name="typo", resume="continue")

    def broken(call, network, x):
        raise RuntimeError("at once")

    around_network(broken)
    with pytest.raises(RuntimeError, match="at once"):
        train(build(), run_name="broken")
    assert not list((output / "diff2flow").rglob("settings.json"))

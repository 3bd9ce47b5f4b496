"""Dropout is seeded on every kind of device, and the generators of no other device change."""

import inspect
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from d2f_core import seeded


class Generators:
    """The generators of a backend with some devices; `draw` gives the next number of one of them."""

    def __init__(self, count):
        self.states, self.current = [100 + i for i in range(count)], 0

    def manual_seed(self, seed):
        self.states[self.current] = seed

    def draw(self, index=0):
        self.states[index] += 1
        return self.states[index]

    @contextmanager
    def device(self, device):
        before, self.current = self.current, device.index
        yield
        self.current = before


def numbered(count):
    """A backend as torch.cuda and torch.xpu are."""
    own = Generators(count)
    return own, SimpleNamespace(
        manual_seed=own.manual_seed,
        device=own.device,
        get_rng_state=lambda device: own.states[device.index],
        set_rng_state=lambda state, device: own.states.__setitem__(device.index, state),
    )


def single():
    """A backend as torch.mps is."""
    own = Generators(1)
    return own, SimpleNamespace(
        manual_seed=own.manual_seed,
        get_rng_state=lambda: own.states[0],
        set_rng_state=lambda state: own.states.__setitem__(0, state),
    )


KINDS = {"cuda": lambda: numbered(2), "xpu": lambda: numbered(2), "mps": single}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fails", [False, True])
def test_a_device_is_seeded_and_put_back(monkeypatch, kind, fails):
    own, backend = KINDS[kind]()
    monkeypatch.setattr(torch, kind, backend)
    before, cpu = list(own.states), torch.get_rng_state()
    index = len(own.states) - 1
    drawn = []
    for _ in range(2):
        try:
            with seeded(7, torch.device(kind, index)):
                drawn.append((own.draw(index), float(torch.rand(()))))
                assert own.states[:index] == before[:index]
                if fails:
                    raise KeyError
        except KeyError:
            assert fails
        assert own.states == before and own.current == 0
    assert drawn[0] == drawn[1] and drawn[0][0] == 8
    assert torch.equal(torch.get_rng_state(), cpu)


@pytest.mark.parametrize("kind", ["cpu", "meta", "privateuseone"])
def test_a_backend_without_generators_draws_from_the_cpus(kind):
    cpu = torch.get_rng_state()
    drawn = []
    for _ in range(2):
        with seeded(7, torch.device(kind)):
            drawn.append(float(torch.rand(())))
    assert drawn[0] == drawn[1] == float(torch.rand((), generator=torch.Generator().manual_seed(7)))
    assert torch.equal(torch.get_rng_state(), cpu)


def test_the_backends_of_this_torch_have_what_is_asked_of_them():
    """The stubs above stand for these; a change of theirs must be seen here."""
    for kind in ("cuda", "xpu", "mps"):
        backend = getattr(torch, kind)
        assert hasattr(backend, "device") == (kind != "mps")
        asked = ("new_state", "device") if kind != "mps" else ("new_state",)
        assert tuple(inspect.signature(backend.set_rng_state).parameters)[: len(asked)] == asked
        assert callable(backend.manual_seed) and callable(backend.get_rng_state)

"""TensorBoard's event files of a run: what is in them, across resumes, and without TensorBoard."""

import sys
from types import ModuleType

import pytest

from d2f_core import StepRecord
from diff2flow_kit.d2f_data.training import curves
from diff2flow_kit.d2f_data.training.curves import Curves


def record(step, loss):
    return StepRecord(step, loss, 0.5, 1e-4, 0.1)


class Writer:
    """TensorBoard's, as far as it is used; fails at a step if told."""

    made: list = []
    fails_at = None

    def __init__(self, folder, purge_step):
        self.folder, self.purge_step, self.scalars, self.closed = folder, purge_step, [], False
        Writer.made.append(self)

    def add_scalar(self, name, value, step):
        if step == Writer.fails_at:
            raise OSError("No space left on device")
        self.scalars.append((name, value, step))

    def close(self):
        self.closed = True


@pytest.fixture
def writers(monkeypatch):
    """The writers that were made, in place of TensorBoard's."""
    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    monkeypatch.setattr(curves, "find_spec", lambda name: object())
    monkeypatch.setattr(Writer, "made", [])
    monkeypatch.setattr(Writer, "fails_at", None)
    return Writer.made


def test_without_tensorboard_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(curves, "find_spec", lambda name: None)
    with Curves(tmp_path) as found:
        found.add(record(1, 2.0))
    assert not list(tmp_path.iterdir())


def test_values_of_a_step_and_the_step_of_a_resume(tmp_path, writers):
    for steps in ((1, 2), (3,)):
        with Curves(tmp_path) as found:
            assert len(writers) == (steps[0] > 1), "nothing is made before the first value"
            for step in steps:
                found.add(record(step, step / 2), 7.0 if step == 2 else None)
    first, second = writers
    assert first.closed and second.closed and (first.purge_step, second.purge_step) == (1, 3)
    assert [one for one in first.scalars if one[0] == "loss"] == [("loss", 0.5, 1), ("loss", 1.0, 2)]
    assert [one for one in first.scalars if one[0] == "validation_loss"] == [("validation_loss", 7.0, 2)]
    assert {name for name, _, _ in second.scalars} == {"loss", "learning_rate", "gradient_norm"}


def test_a_full_disk_ends_the_curves_only(tmp_path, writers, monkeypatch, caplog):
    monkeypatch.setattr(Writer, "fails_at", 2)
    with Curves(tmp_path / "my_lora") as found:
        for step in (1, 2, 3):
            found.add(record(step, 1.0))
    assert {step for _, _, step in writers[0].scalars} == {1}
    assert caplog.messages == ["TensorBoard's event file of my_lora is not written any more: No space left on device"]


def test_tensorboard_reads_it(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for steps in ((1, 2, 3), (3, 4)):  # the second session goes on after step 2
        with Curves(tmp_path) as found:
            for step in steps:
                found.add(record(step, 10.0 * len(steps) + step))
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(one.step, one.value) for one in events.Scalars("loss")] == [(1, 31.0), (2, 32.0), (3, 23.0), (4, 24.0)]

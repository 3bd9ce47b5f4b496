"""One training run in the graph: the core's trainer, its folder on disk, progress and results.

Whatever ends a run early - cancel, an error, a loss that is not finite, a signal that ends ComfyUI - what was learned
is saved first. A process that is killed has no time for that, so the state is also saved every few minutes.
"""

import time
from collections.abc import Mapping
from typing import Any

from ...d2f_core import StepRecord, Trainer
from ...d2f_data.files.lora_file import LoraFacts, LoraModel, lora_tensors
from ...d2f_data.files.run_folder import RunFolder
from ...d2f_data.files.state_form import check_fits, check_trainer_state
from ...d2f_data.fingerprints import schedule_fingerprint, weights_fingerprint
from ...d2f_data.training.curves import Curves
from ...d2f_data.training.plan import TrainingPlan
from .. import host
from .items import TrainingItems, words_fingerprint
from .outcome.facts import Subject, dtype_name, facts_of
from .outcome.lora_files import RunLora
from .outcome.report import Learned, Outcome
from .preview import Preview
from .samples.drawing import SampleDrawer
from .samples.sample_set import SampleSet
from .start import StartingLora
from .status import StatusLine, due, why_new
from .text.adapters import file_names, run_adapters
from .text.network import text_settings

AUTOSAVE_S = 300.0  # seconds between saves of the state; longer if a save takes more than a fiftieth of that
_AUTOSAVE_SHARE = 50


class TrainingRun:
    """A run of the trainer node.

    Args:
        model: MODEL, diffusion, converted or native flow matching.
        network: its network.
        items, validation: training set and validation set.
        plan: values of the widgets.
        vae: VAE for previews, or None.
        node_id: id of the node, for its progress text.
        samples: prompts to draw instead of previews of the training set, or None.
        start: LoRA to go on from, or None.
    """

    def __init__(
        self,
        model: Any,
        network: host.TrainingNetwork,
        items: TrainingItems,
        validation: TrainingItems | None,
        plan: TrainingPlan,
        vae: Any = None,
        node_id: str | None = None,
        samples: SampleSet | None = None,
        start: StartingLora | None = None,
    ) -> None:
        self.model, self.network, self.plan, self.validation = model, network, plan, validation
        self.items, self.base, self.start = items, weights_fingerprint(network.unet), start
        self.start_note = ""
        self.trainer = self._trainer()
        config = {**plan.config(), **self._subject()}
        self.folder = RunFolder(host.training_folder() / "runs", plan.run_name, config, plan.resume)
        self.losses: list[float] = []
        self.learning_rate: float | None = None  # of the last step of this session
        self.checks: list[tuple[int, float]] = []
        self.saved, self._autosave_at = 0, time.monotonic() + AUTOSAVE_S
        self.files, self.first, self._start = RunLora(self.folder.path), 0, time.monotonic()
        objective = self.trainer.objective
        self.preview = Preview(model, network, objective, items, vae, plan.preview_cfg, plan.seed)
        self.progress = host.NodeProgress(plan.steps, node_id)
        self.samples = None if samples is None else self._drawer(samples)

    def __repr__(self) -> str:
        return f"<training run {self.folder.name}, step {self.trainer.step} of {self.plan.steps}>"

    def run(self) -> Learned:
        """Train to the last step; saves regularly, and before an error is re-raised.

        Raises:
            ValueError: another process trains this run, or none of its saved states can be used.
        """
        with host.cancelled_on_shutdown(), self.folder, Curves(self.folder.path) as curves:
            self._restore()
            try:
                picture = None if self.samples is None else self._first_samples(self.samples)
                clock = StatusLine(self.first, self.plan.steps, "".join(self._notes()), self.network.remarks)
                self._show(picture, clock.opening())
                for record in self.trainer.run(self.plan.steps - self.trainer.step):
                    self.losses.append(record.loss)
                    self.learning_rate = record.learning_rate
                    self._after(record, clock)
                    curves.add(record, dict(self.checks).get(record.step))
            except BaseException:
                host.settle(self._rescue())
                raise
            if self.saved < self.trainer.step:
                self._save()
            if self.samples is not None:
                self._show(self._last_samples(), clock.again())
        sheet = None if self.samples is None else self.samples.files.sheet()
        return Learned(self.lora(), self.losses, self.checks, sheet, self.outcome().finished(), self.files.listed)

    def outcome(self) -> Outcome:
        """How the session stands."""
        notes = [note.removeprefix("; ") for note in [*self._notes(), *self.network.remarks] if note]
        file, extendable = self.files.listed if self.saved else "", self.plan.lr_schedule == "constant"
        numbers = (self.first, self.trainer.step, self.plan.steps, time.monotonic() - self._start)
        return Outcome(self.folder.name, *numbers, file, str(host.lora_folder()), notes, extendable)

    def _notes(self) -> list[str]:
        return [self.plan.note(self.trainer.objective), self.start_note, why_new(self.folder), self.folder.note]

    def lora(self) -> LoraModel:
        """The LoRA at the current step."""
        tensors = lora_tensors(self.trainer.averaged(), file_names(self.model, self.network))
        return LoraModel({key: tensor.cpu().clone() for key, tensor in tensors.items()}, self._facts())

    def _subject(self) -> dict[str, str | int | None]:
        """Data, model and data type; a run is resumed only with the same ones."""
        network, items = self.network, self.items
        drops = self.plan.caption_dropout > 0
        return {
            "items": len(items),
            "data": items.fingerprint(),
            "negative": words_fingerprint(items.condition(0, drop=True)) if drops else None,
            "base": self.base,
            "prediction": network.alignment.prediction,
            "noise_schedule": schedule_fingerprint(network.alignment.schedule, network.alignment.sigma_data)[:16],
            "dtype": dtype_name(network),
            **({"compiled": True} if network.compiled else {}),
            **text_settings(network, self.plan),
            **({} if self.start is None else {"start_lora": self.start.fingerprint()}),
        }

    def _trainer(self) -> Trainer:
        plan, network = self.plan, self.network
        condition = self.items.condition(0)
        adapters, self.start_note = run_adapters(self.model, network, condition, plan, self.start, self.base)
        return plan.make_trainer(network, adapters, self.items)

    def _drawer(self, samples: SampleSet) -> SampleDrawer:
        start, folder, say = self._facts().start, self.folder.path, self.progress.say
        return SampleDrawer(self.model, self.network, self.trainer.objective, start, samples, folder, say)

    def _first_samples(self, samples: SampleDrawer) -> Any:
        """Draw the model before training, and the step at which a resume goes on if a cancel has prevented that."""
        step, averaged = self.trainer.step, self.trainer.averaged
        picture = None if step and self.start else samples.draw(0, {} if step else averaged())
        return samples.draw(step, averaged()) if step and due(step, self.plan.preview_every) else picture

    def _last_samples(self) -> Any:
        """Draw the finished LoRA, also for a picture beside its file."""
        picture = self._draw(self.trainer.step)
        if picture is not None:
            with host.tolerated(lambda error: self.network.remarks.append(f"no picture beside the LoRA ({error})")):
                self.files.save_picture(picture)
        return picture

    def _restore(self) -> None:
        """Go on from the last state of the run, if there is one."""
        state = self.folder.load(self._put)
        if state is not None:
            self.losses, self.checks = list(state["losses"]), list(state["validation"])
            self.first = self.trainer.step
            has_lora = self.files.resume(state.get("lora_name")) and state.get("lora_saved", True)
            self.saved = self.first if has_lora else 0

    def _put(self, state: Mapping[str, Any]) -> None:
        """Put a saved state into the trainer. Raises ValueError if it is not one of such a trainer."""
        check_fits(state, {"trainer": {}, "losses": [], "validation": []})
        check_trainer_state(state["trainer"], self.trainer.state_dict())
        try:
            self.trainer.load_state_dict(state["trainer"])
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise ValueError(f"the state does not fit the optimizer or the schedule ({error!r})") from error

    def _after(self, record: StepRecord, clock: StatusLine) -> None:
        """Validate, save, preview and report, as far as they are due."""
        plan, step = self.plan, record.step
        if self.validation is not None and (due(step, plan.validate_every) or step == plan.steps):
            self.checks.append((step, self.trainer.validate(self.validation)))
        if due(step, plan.save_every):
            self._save()
        elif time.monotonic() > self._autosave_at:
            self._save_state(with_lora=False)
        last = self.samples is not None and step == plan.steps  # whose samples are drawn when it is saved
        picture = self._draw(step) if due(step, plan.preview_every) and not last else None
        self._show(picture, clock.line(record, self.losses, self.checks))

    def _draw(self, step: int) -> Any:
        if self.samples is not None:
            return self.samples.draw(step, self.trainer.averaged())
        picture = self.preview.draw(self.trainer.averaged())
        if picture is not None:
            self.folder.save_picture(picture, step)
        return picture

    def _show(self, picture: Any, text: str) -> None:
        self.progress.show(self.trainer.step, text, picture)

    def _save(self) -> None:
        """Save the training state and the LoRA."""
        self.files.claim()
        self._save_state(with_lora=True)
        self.files.save(self.lora(), self.trainer.step)
        self.saved = self.trainer.step

    def _save_state(self, with_lora: bool) -> None:
        start = time.monotonic()
        state = {"trainer": self.trainer.state_dict(), "losses": self.losses, "validation": self.checks}
        loss, rate = self.losses[-1] if self.losses else None, self.learning_rate
        record = {"step": self.trainer.step, "loss": loss, "learning_rate": rate, "time": time.time()}
        self.folder.save({**state, "lora_saved": with_lora, "lora_name": self.files.name}, record)
        now = time.monotonic()
        self._autosave_at = now + max(AUTOSAVE_S, _AUTOSAVE_SHARE * (now - start))

    def _rescue(self) -> str:
        """Save the steps since the last save, and say so; an error here must not hide the first one."""
        if self.trainer.step <= self.saved:
            return self.outcome().stopped()
        try:
            self._save()
            host.LOGGER.info("%r was stopped; what was learned is saved, run it again to go on", self)
        except Exception:
            host.LOGGER.exception("%r was stopped and could not be saved; step %d is on disk", self, self.saved)
            return f"Stopped, and step {self.trainer.step} could not be saved: the log says why"
        return self.outcome().stopped()

    def _facts(self) -> LoraFacts:
        subject = Subject(self.model, self.network, self.items, self.base)
        found = facts_of(subject, self.plan, self.trainer, self.folder.name)
        return found if self.start is None else self.start.recorded_in(found, self.trainer.averaged())

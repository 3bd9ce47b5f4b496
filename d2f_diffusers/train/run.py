"""One training run outside ComfyUI: ``d2f_core``'s trainer, items, checkpoints, pictures, and the end of it.

Every process trains; the first one writes. A signal that ends the program is taken up after the step, by all processes
together: they save and end.
"""

import json
import signal
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from d2f_core import OBJECTIVES, StepRecord, Trainer, agree, make_adapters
from d2f_data.files.atomic import append_line
from d2f_data.files.lora_metadata import LoraFacts
from d2f_data.files.state_form import check_fits, check_trainer_state
from d2f_data.fingerprints import items_fingerprint, schedule_fingerprint, weights_fingerprint
from d2f_data.training.epochs import epoch_facts
from d2f_data.training.plan import TrainingPlan

from .checkpoints import Checkpoints
from .data.items import Items
from .flags import FULL, Run
from .network import PipelineNetwork
from .outputs import LoraOutput, ModelOutput
from .processes import AcceleratedProcesses
from .shards import check_shardable, fsdp_plugin, gathered, like_shards, shard

PREVIEW_STEPS = 10


class TrainingRun:
    """A run.

    Args:
        plan: the settings that the node has as well.
        run: everything else of the command line.
        network: the pipeline's network.
        items: training items.
        processes: those that train together.
        say: prints a line.

    Raises:
        ValueError: a kind of adapter that only ComfyUI has.
    """

    def __init__(
        self,
        plan: TrainingPlan,
        run: Run,
        network: PipelineNetwork,
        items: Items,
        processes: AcceleratedProcesses,
        say: Callable[[str], None] = print,
    ) -> None:
        if plan.adapter not in ("lora", FULL):
            raise ValueError(f"adapter is {plan.adapter!r}, ComfyUI's own kind; train it with the node, or use 'lora'")
        self.plan, self.run, self.network = plan.for_items(items), run, network
        self.items, self.processes, self.say = items, processes, say
        self.base = weights_fingerprint(network.module)
        self.full = plan.adapter == FULL
        self.output = ModelOutput(network, plan.run_name, say) if self.full else LoraOutput(network, plan.run_name)
        self.trainer = self._trainer()
        self.config = {**plan.config(), **self._subject()}
        self.checkpoints = Checkpoints(run.output, plan.run_name, self.config, run.limit)
        self.losses: list[float] = []
        self.first, self._signal = 0, 0  # steps done before this session; the signal that came

    def train(self) -> int:
        """Train to the last step; 0, or 128 + the number of the signal that ended the run."""
        self._start()
        before = {number: signal.signal(number, self._take_up) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            begun = time.monotonic()
            for record in self.trainer.run(self.plan.steps - self.trainer.step):
                self.losses.append(record.loss)
                stopped = agree([bool(self._signal)], self.processes)[0]
                self._after(record, begun, stopped)
                if stopped:
                    self.say(f"ended by a signal; step {record.step} is saved: --resume_from_checkpoint latest goes on")
                    return 128 + (self._signal or signal.SIGTERM)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        return 0

    def _take_up(self, number: int, frame: Any) -> None:
        self._signal = number

    def _start(self) -> None:
        if self.run.resume:
            found = self.checkpoints.resume(self.run.resume, self._put)
            self.first = self.trainer.step
            self.say(f"resuming after step {self.trainer.step} of {found}" if found else "there is no checkpoint yet")
        elif self.processes.rank == 0:
            self.checkpoints.begin()

    def _trainer(self) -> Trainer:
        plan, network = self.plan, self.network
        if self.full:
            self._shard()
            return plan.make_trainer(network, None, self.items, self.processes)
        generator = torch.Generator().manual_seed(plan.seed)
        adapters = make_adapters(network.module, plan.adapters(), generator, in_full=network.widened)
        return plan.make_trainer(network, adapters, self.items, self.processes)

    def _shard(self) -> None:
        """Shard the network over the processes, if accelerate's configuration says so."""
        accelerator = self.processes.accelerator
        plugin = fsdp_plugin(accelerator)
        if plugin is not None:
            check_shardable(self.plan.optimizer, self.network.dtype)
            shard(self.network.unet, accelerator, plugin, self.network.dtype)
            self.processes.sharded = True
            self.say(f"the weights are sharded over {self.processes.count} processes")

    def _subject(self) -> dict[str, str | int | None]:
        """Data, model and data type; a run is resumed only with the same ones."""
        network = self.network
        return {
            "items": len(self.items),
            "data": self.items.fingerprint(),
            "negative": _null_fingerprint(network) if self.plan.caption_dropout else None,
            "base": self.base,
            "prediction": network.alignment.prediction,
            "noise_schedule": schedule_fingerprint(network.alignment.schedule)[:16],
            "dtype": self._dtype(),
        }

    def _dtype(self) -> str:
        return str(self.network.dtype).removeprefix("torch.")

    def _put(self, state: Mapping[str, Any]) -> None:
        check_fits(state, {"trainer": {}, "losses": []})
        own = self.trainer.state_dict()
        check_trainer_state(state["trainer"], own)
        self.trainer.load_state_dict(like_shards(state["trainer"], own) if self.processes.sharded else state["trainer"])
        self.losses = list(state["losses"])

    def _after(self, record: StepRecord, begun: float, stopped: bool) -> None:
        """Report and save, as far as they are due; the first process writes."""
        last = record.step == self.plan.steps
        due = last or stopped or (self.plan.save_every > 0 and record.step % self.plan.save_every == 0)
        if self.processes.rank == 0:
            entry = {"step": record.step, "loss": record.loss, "learning_rate": record.learning_rate}
            append_line(self.run.output / "log.jsonl", json.dumps(entry))
            self.processes.accelerator.log({"loss": record.loss, "lr": record.learning_rate}, step=record.step)
        if due and (self.processes.rank == 0 or self.processes.sharded):
            self._save(record.step, last, draw=not stopped)
        if self.processes.rank == 0 and (due or record.step % 10 == 0):
            pace = (record.step - self.first) / max(time.monotonic() - begun, 1e-9)
            self.say(f"step {record.step} of {self.plan.steps}: loss {record.loss:.4g}, {pace:.3g} steps/s")

    def _save(self, step: int, last: bool, draw: bool) -> None:
        """Save a checkpoint; where weights are shards, all processes take part, and the first one writes."""
        first = self.processes.rank == 0
        state = gathered({"trainer": self.trainer.state_dict(), "losses": self.losses, "validation": []}, first)
        learned = gathered(self.trainer.averaged(), first)
        if first:
            facts = self._facts()
            self.checkpoints.save(step, state, lambda folder: self.output.save(folder, learned, facts, last))
        if draw:
            self._draw(step)

    def _facts(self) -> LoraFacts:
        plan, facts = self.plan, dict(self.items.facts)
        start, condition = str(facts.pop("start", "t_min")), str(facts.pop("condition", ""))
        own = {"run_name": plan.run_name, "items": len(self.items), "dtype": self._dtype()}
        own |= epoch_facts(plan, self.trainer)
        return LoraFacts(
            objective=plan.objective,
            prediction=self.network.alignment.prediction,
            schedule=schedule_fingerprint(self.network.alignment.schedule),
            start=start,
            shift=1.0,
            base=self.base,
            base_model=self.network.kind,
            steps=self.trainer.step,
            rank=0 if self.full else plan.file_rank,
            alpha=0.0 if self.full else plan.file_alpha,
            kind=plan.adapter,
            training={**plan.config(), **own, **facts},  # type: ignore[dict-item]
            condition=condition,
            dataset=self.items.dataset,
        )

    @torch.no_grad()
    def _draw(self, step: int) -> None:
        """A picture of each validation prompt, through the pipeline with our scheduler."""
        from ..schedulers import Diff2FlowEulerScheduler

        if not (self.run.prompts and OBJECTIVES[self.plan.objective].is_aligned):
            return
        pipeline = self.network.pipeline
        own, start = pipeline.scheduler, self.items.facts.get("start", "t_min")
        pipeline.scheduler = Diff2FlowEulerScheduler.from_config(own.config, start=start)
        pipeline.set_progress_bar_config(disable=True)
        folder = Path(self.run.output) / "samples"
        folder.mkdir(exist_ok=True)
        draw = partial(pipeline, num_inference_steps=PREVIEW_STEPS, guidance_scale=self.plan.preview_cfg)
        self.network.move_encoders(self.network.device)
        with self.trainer.in_use(), self.network.casting():
            for number, prompt in enumerate(self.run.prompts):
                picture = draw(prompt, generator=torch.Generator().manual_seed(self.plan.seed)).images[0]
                if self.processes.rank == 0:
                    picture.save(folder / f"step{step:06}_{number}.png")
        pipeline.scheduler = own
        self.network.move_encoders("cpu")


def _null_fingerprint(network: PipelineNetwork) -> str:
    return items_fingerprint([], [{"c_crossattn": network.encode_caption("")[0][0]}])

"""What two processes do in test_parallel.py: python parallel_worker.py FOLDER, under torchrun. Results go to files."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from conftest import llama, qwen2
from safetensors.torch import save_file
from test_loop import SETTINGS, a_job, catalogue, run
from test_rows import mixed_job

from ilrec_cli import checkpoint
from ilrec_cli.errors import UserError
from ilrec_cli.lm.decode import beam_search
from ilrec_cli.lm.examples import Examples
from ilrec_cli.lm.loop import Job
from ilrec_cli.lm.model import SupervisedLM
from ilrec_cli.lm.phases import Material
from ilrec_cli.lm.sharding import Parallel
from ilrec_cli.methods import _pairs, grpo, s_dpo
from ilrec_cli.methods.grpo import data as grpo_data
from ilrec_cli.methods.grpo.loss import make_loss as make_grpo
from ilrec_cli.methods.s_dpo.loss import make_loss
from ilrec_cli.stages import _processes

TWENTY = replace(SETTINGS, epochs=5, micro_batch=5)


def whole(job: Job) -> dict[str, torch.Tensor]:
    return {name: checkpoint.whole(value.detach()).clone() for name, value in job.parallel.model.named_parameters()}


def parity(folder: Path) -> None:
    """Twenty steps, copies and shards. 49 windows in batches of 16: the last batch has one row, so one process has none."""
    for dtype in (torch.float64, torch.float32):
        for shard in (False, True):
            name = f"{'shard' if shard else 'copy'}-{str(dtype)[6:]}"
            job = a_job(folder / name, TWENTY, dtype, shard=shard)
            assert job.parallel.world == 2
            assert job.parallel.sharded == shard
            _, progress = run(job)
            assert progress.step == 20
            write(folder / f"{name}.safetensors", whole(job), job)


def material_of(job: Job, options: Any, folder: Path) -> Material:
    examples = cast(Examples, job.source)
    return Material(
        job.settings, options, examples, np.ones(40), job.parallel, folder / "phases" / "1", 0, max_history=4
    )


def pair_job(folder: Path, **parallel: Any) -> Job:
    """Four steps of S-DPO; 17 rows a batch, so one process has more of them. Each scores its share of the reference."""
    job = a_job(folder, replace(TWENTY, batch_size=17, max_steps=4), torch.float64, **parallel)
    material = material_of(job, options := s_dpo.Config(negatives=3), folder)
    source = _pairs.random_pairs(material)
    return replace(job, source=source, loss=make_loss(options), weights={"s_dpo": 1.0}, cost=material.cost)  # type: ignore[arg-type]


def rollout_job(folder: Path, **parallel: Any) -> Job:
    """Four steps of GRPO, averaged over the tokens of all processes; the second has no row of the last micro-batch."""
    job = a_job(folder, replace(TWENTY, batch_size=3, micro_batch=1, max_steps=4), torch.float64, **parallel)
    options = grpo.Config(rollouts="sample", group=4, prefix=1.0, beta_kl=0.1, average="token")
    material = material_of(job, options, folder)
    return replace(
        job, source=grpo_data.rollouts(material), loss=make_grpo(options), weights=grpo.weights(options), cost=material.cost
    )  # fmt: skip


def preference(folder: Path) -> None:
    for kind, make in (("pairs", pair_job), ("rollouts", rollout_job)):
        for shard in (False, True):
            name = f"{kind}-{'shard' if shard else 'copy'}"
            job = make(folder / name, shard=shard)
            _, progress = run(job)
            write(folder / f"{name}.safetensors", whole(job), job)
            if job.parallel.main:
                (folder / f"{name}.json").write_text(json.dumps(progress.costs))


def mixed(folder: Path) -> None:
    """Two tasks, one of them without collaborative rewards; in the last batch one process has no row."""
    for shard in (False, True):
        name = f"mixed-{'shard' if shard else 'copy'}"
        job = mixed_job(folder / name, replace(TWENTY, epochs=2, micro_batch=2), shard=shard)
        run(job)
        write(folder / f"{name}.safetensors", whole(job), job)


def other_modes(folder: Path) -> None:
    """A checkpoint of one process goes on in shards; one of shards is left for one process."""
    job = a_job(folder / "from-one", replace(TWENTY, resume=True), shard=True)
    run(job)
    write(folder / "from-one.safetensors", whole(job), job)
    job = a_job(folder / "for-one", replace(TWENTY, max_steps=9, schedule="constant", warmup=0.0), shard=True)
    run(job)
    job.parallel.unshard_for_saving()
    if job.parallel.main:
        assert all(type(value) is torch.nn.Parameter for value in job.parallel.model.parameters())
        write(folder / "for-one.safetensors", dict(job.parallel.model.named_parameters()), job)


def decoding(folder: Path) -> None:
    """Sharded decoding where one process has three batches and the other one, of prompts of other lengths."""
    for name, build in (("llama", llama), ("qwen2-tied", lambda: qwen2(tie_word_embeddings=True))):
        job = a_job(folder / name, TWENTY)
        model = SupervisedLM(build(), (2,))
        parallel = Parallel(model, job.parallel.accelerator, shard=True)
        sizes = [3, 4, 2] if parallel.rank == 0 else [5]

        def ranked(model: Any = model, sizes: list[int] = sizes) -> list[torch.Tensor]:
            items = catalogue(40)
            return [torch.stack([part.double() for part in beam_search(
                model.backbone, prompt(size), torch.ones(2, size, dtype=torch.long), items.trie, beams=4)])
                for size in sizes]  # fmt: skip

        save_file(
            dict(zip(map(str, sizes), parallel.together(ranked), strict=True)),
            str(folder / f"{name}-{parallel.rank}.safetensors"),
        )
        assert parallel.gather(parallel.rank) == [0, 1]
        assert parallel.agree(parallel.rank == 1)
        assert not parallel.agree(False)


def shared(folder: Path) -> None:
    """Arrays that the first process makes for both; and what it cannot make."""
    accelerator = a_job(folder / "shared", TWENTY).parallel.accelerator
    rank = accelerator.process_index

    def make() -> dict[str, np.ndarray]:
        (folder / f"made-{rank}").touch()
        return {"some.numbers": np.arange(5000), "none": np.zeros(0, dtype=bool), "grid": np.eye(3)}

    def refuse() -> dict[str, np.ndarray]:
        raise UserError("no text")

    found = _processes.once_a_machine(make, accelerator)
    assert sorted(found) == ["grid", "none", "some.numbers"]
    assert (folder / "made-0").exists()
    assert not (folder / "made-1").exists()
    accelerator.wait_for_everyone()
    assert all(np.array_equal(found[name], array) for name, array in make().items())
    assert isinstance(found["some.numbers"].base, np.memmap)
    assert not Path(str(found["some.numbers"].base.filename)).exists()
    try:
        _processes.once_a_machine(refuse, accelerator)
    except UserError as error:
        (folder / f"refused-{rank}").write_text(str(error))


def prompt(size: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(size).integers(3, 16, size=(2, size)))


def write(path: Path, tensors: dict[str, torch.Tensor], job: Job) -> None:
    if job.parallel.main:
        save_file({name: value.detach().contiguous() for name, value in tensors.items()}, str(path))


if __name__ == "__main__":
    torch.set_num_threads(1)
    target = Path(sys.argv[1])
    parity(target)
    preference(target)
    mixed(target)
    other_modes(target)
    decoding(target)
    shared(target)
    torch.distributed.barrier()
    (target / f"done-{os.environ['RANK']}").touch()
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    sys.stdout.flush()
    os._exit(0)

"""Training of the RQ-VAE, in the order in which things happen.

The epoch's order comes from (seed, epoch), so a checkpoint goes on with the same bits (on a CPU, with as many threads).
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ilrec_cli.errors import UserError
from ilrec_cli.ids import rqvae
from ilrec_cli.ids._quantise import Job
from ilrec_cli.ids.rqvae import checkpoint, kmeans
from ilrec_cli.ids.rqvae.evaluation import Evaluation, collapsed_levels, diagnosis, encode, evaluate
from ilrec_cli.ids.rqvae.model import Model

STEPS, EPOCHS = 16_000, (20, 400)  # of a training of automatic length: about so many steps, within these epochs
EVALUATIONS = 40  # of a training, spread evenly, where their number is automatic
SAVE_SECONDS = 120  # between checkpoints that no evaluation asks for
START, SHUFFLE, RESTART = range(3)  # streams of random numbers


@dataclass
class Progress:
    """Where the training stands; saved with every checkpoint."""

    epoch: int = 0
    best_epoch: int = 0
    best: tuple[float, float] = (float("inf"), float("inf"))  # collisions, then loss
    collapsed: int = 0  # evaluations in a row
    restarted: int = 0  # codes
    threads: int = field(default_factory=torch.get_num_threads)


class Trainer:
    """Trains on different vectors in a fixed order; `run` returns the evaluation of the best weights."""

    def __init__(self, vector_UV: np.ndarray, codes: int, config: rqvae.Config, seed: int, job: Job):
        self.config, self.seed, self.job = config, seed, job
        self.vector_UV = torch.from_numpy(vector_UV).to(job.device)
        generator = torch.Generator().manual_seed(seed)
        self.model = Model(vector_UV.shape[1], codes, config, generator).to(job.device)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        self.batches = -(-len(vector_UV) // config.batch_size)
        self.epochs = config.epochs or int(np.clip(round(STEPS / self.batches), *EPOCHS))
        self.evaluate_every = config.evaluate_every or max(1, self.epochs // EVALUATIONS)
        self.best_state: dict[str, Tensor] = {}
        self.path_U = np.arange(
            len(vector_UV)
        )  # numbers of the rows' paths at the last evaluation; at first all differ
        self.progress = Progress()
        self.identity = identity(vector_UV, config, seed)
        self.saved = time.monotonic()

    def run(self) -> Evaluation:
        """Train; the model ends with its best weights."""
        if not self._resume():
            self._start_codebooks()
        first = self.progress.epoch + 1
        for epoch in self.job.console.progress(range(first, self.epochs + 1), "RQ-VAE", total=self.epochs + 1 - first):
            losses = self._train_epoch(epoch)
            self.progress.epoch = epoch
            if epoch % self.evaluate_every == 0 or epoch == self.epochs:
                found = evaluate(self.model, self.vector_UV)
                self.path_U = np.unique(found.code_UL, axis=0, return_inverse=True)[1].ravel()
                self._judge(found, losses)
                if self._collapsed(found):
                    break
                self._restart(found)
                self._save()
            elif time.monotonic() - self.saved > SAVE_SECONDS:
                self._save()
        if self.best_state:  # none when it stops early
            self.model.load_state_dict(self.best_state)
        return self._checked(evaluate(self.model, self.vector_UV))

    def _random(self, purpose: int, epoch: int = 0) -> np.random.Generator:
        return np.random.default_rng([self.seed, purpose, epoch])

    def _start_codebooks(self) -> None:
        latent_UD = encode(self.model, self.vector_UV)
        levels, codes, _ = self.model.codebook_LKD.shape
        found = kmeans.codebooks(latent_UD, levels, codes, self.config.kmeans_iterations, self._random(START))
        with torch.no_grad():
            self.model.codebook_LKD.copy_(torch.from_numpy(found))

    def _train_epoch(self, epoch: int) -> dict[str, float]:
        """Mean losses of the epoch."""
        order = torch.from_numpy(self._order(epoch))
        total = torch.zeros(4, device=self.vector_UV.device)
        for batch, rows in enumerate(order.to(self.vector_UV.device).tensor_split(self.batches)):
            rate = self.config.learning_rate * self._schedule((epoch - 1) * self.batches + batch)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            losses = self.model.losses(self.vector_UV.index_select(0, rows), training=True)
            self.optimizer.zero_grad()
            torch.autograd.backward(losses.total(self.config))
            self._clip()
            self.optimizer.step()
            total += torch.stack([loss.detach() for loss in losses[:4]])
        names = ("train_reconstruction", "train_codebook", "train_commitment", "train_separation")
        return dict(zip(names, (total / self.batches).tolist(), strict=True)) | {"learning_rate": rate}

    def _order(self, epoch: int) -> np.ndarray:
        """Rows in random order; those that had the same path at the last evaluation side by side, to be parted."""
        rng = self._random(SHUFFLE, epoch)
        order_U = rng.permutation(len(self.vector_UV))
        if not self.config.separation:
            return order_U
        place_U = rng.permutation(len(order_U))[self.path_U[order_U]]
        return order_U[np.argsort(place_U, kind="stable")]

    def _schedule(self, step: int) -> float:
        """Up in a line during the warm-up, then down to 0 in a line."""
        total = self.epochs * self.batches
        warm = round(self.config.warmup * total)
        return (step + 1) / warm if step < warm else (total - step) / max(1, total - warm)

    def _clip(self) -> None:
        try:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip, error_if_nonfinite=True)
        except RuntimeError as error:
            raise UserError("RQ-VAE: the gradient is not finite. Lower it: -o learning_rate=1e-4") from error

    def _judge(self, found: Evaluation, losses: dict[str, float]) -> None:
        """Report, and keep the weights with the fewest collisions; of equal ones, those with the lower loss."""
        progress = self.progress
        settled = progress.epoch > self.config.settle * self.epochs
        better = settled and (found.collisions, found.loss) < progress.best
        if better:
            progress.best, progress.best_epoch = (found.collisions, found.loss), progress.epoch
            self.best_state = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        row = {"epoch": progress.epoch, **losses, "loss": found.loss, **found.row(), "best": better}
        self.job.log(row | {"restarted": progress.restarted})
        shares = " ".join(f"{share:.0%}" for share in found.used / found.count_LK.shape[1])
        self.job.console.detail(
            f"epoch {progress.epoch}: loss {found.loss:.4f}, {found.collisions:,} collisions, codes used {shares}, "
            f"entropy {' '.join(f'{bits:.2f}' for bits in found.entropy)} bits"
        )

    def _collapsed(self, found: Evaluation) -> bool:
        """Whether a level has been nearly unused for several evaluations since the warm-up; says so when it has."""
        levels = collapsed_levels(found, self.config.collapse)
        # Deep encoders begin with all latents in one place and spread them out during the warm-up.
        warm = self.progress.epoch > self.config.warmup * self.epochs
        self.progress.collapsed = self.progress.collapsed + 1 if warm and len(levels) else 0
        if not self.config.collapse_patience or self.progress.collapsed < self.config.collapse_patience:
            return False
        self.job.console.warn(f"RQ-VAE stops at epoch {self.progress.epoch}: {diagnosis(found, levels, self.config)}")
        return True

    def _checked(self, found: Evaluation) -> Evaluation:
        """The best evaluation, unless even that one is collapsed."""
        levels = collapsed_levels(found, self.config.collapse)
        if len(levels) and self.config.collapse_patience:
            raise UserError(f"RQ-VAE: {diagnosis(found, levels, self.config)}")
        return found

    def _restart(self, found: Evaluation) -> None:
        """Give codes that no item has what is left of random items at their level, and a fresh optimiser state."""
        progress, every = self.progress, self.config.restart_every * self.evaluate_every
        if not every or progress.epoch % every or progress.epoch == self.epochs:
            return
        rng = self._random(RESTART, progress.epoch)
        codebook_LKD = self.model.codebook_LKD.detach()
        entries = [self.optimizer.state[self.model.codebook_LKD][name] for name in ("exp_avg", "exp_avg_sq")]
        residual_UD = found.latent_UD
        for level, codebook_KD in enumerate(codebook_LKD.cpu().numpy().copy()):
            dead = np.flatnonzero(found.count_LK[level] == 0)
            rows = rng.integers(len(residual_UD), size=len(dead))
            index = torch.from_numpy(dead).to(codebook_LKD.device)
            codebook_LKD[level].index_copy_(0, index, torch.from_numpy(residual_UD[rows]).to(codebook_LKD.device))
            for entry in entries:
                entry[level].index_fill_(0, index, 0.0)
            progress.restarted += len(dead)
            residual_UD = residual_UD - codebook_KD[found.code_UL[:, level]]

    def _path(self) -> Path | None:
        return self.job.checkpoints / "rqvae.safetensors" if self.job.checkpoints else None

    def _save(self) -> None:
        path, self.saved = self._path(), time.monotonic()
        if path is None:
            return
        parts = {
            "model": self.model.state_dict(),
            "best": self.best_state,
            "optimizer": checkpoint.optimizer_tensors(self.optimizer),
            "order": {"path_U": torch.from_numpy(self.path_U)},
        }
        tensors = {f"{part}/{name}": tensor for part, named in parts.items() for name, tensor in named.items()}
        checkpoint.save(path, tensors, {"identity": self.identity, **asdict(self.progress)})

    def _resume(self) -> bool:
        """Go on from a checkpoint of the same vectors, settings and seed, if there is one."""
        path = self._path()
        if path is None or not path.exists():
            return False
        loaded = checkpoint.load(path)
        if loaded is None or loaded[1].pop("identity", None) != self.identity:
            self.job.console.warn(f"{path} is damaged or of other vectors or settings: training starts anew")
            return False
        tensors, state = loaded
        if state.pop("threads") != self.progress.threads:
            self.job.console.warn("the checkpoint was made with another number of threads: the last bits may differ")
        self.progress = Progress(**(state | {"best": tuple(state["best"])}))

        def part(name: str) -> dict[str, Tensor]:
            return {
                key.removeprefix(f"{name}/"): tensor for key, tensor in tensors.items() if key.startswith(f"{name}/")
            }

        self.model.load_state_dict(part("model"))
        checkpoint.load_optimizer(self.optimizer, part("optimizer"))
        self.best_state = part("best")
        self.path_U = tensors["order/path_U"].numpy()
        self.job.console.say(f"going on after epoch {self.progress.epoch} of {self.epochs}")
        return True


def identity(vector_UV: np.ndarray, config: rqvae.Config, seed: int) -> str:
    """Digest of all that the training depends on."""
    digest = hashlib.sha256(json.dumps([asdict(config), seed, vector_UV.shape]).encode())
    digest.update(np.ascontiguousarray(vector_UV).tobytes())
    return digest.hexdigest()

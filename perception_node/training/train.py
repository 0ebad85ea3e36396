"""`perception train`: from a configuration and labelled frames to a checkpoint.

It writes checkpoint.pt after every epoch, whole or not at all, and goes on from it when started again, exactly where an
uninterrupted run would be. On several GPUs torchrun starts it: one process each, gradients averaged by torch.
"""

import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import cv2
import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader
from tqdm import tqdm

from perception_node.errors import UserError
from perception_node.training import log
from perception_node.training.config import Config
from perception_node.training.frames import EpochSampler, LabelledFrames, TrainingFrames, open_frames
from perception_node.training.losses import frequency_weights, panoptic_losses
from perception_node.training.network import PanopticDeepLab, imagenet_weights
from perception_node.training.validation import Validation

CHECKPOINT, BEST = "checkpoint.pt", "best.pt"


def train(config: Config, data: Path, out: Path, workers: int = 1, start: Path | None = None) -> dict[str, Any]:
    """Trains until the last epoch, or until PQ has not become better for schedule.patience validations.

    Writes into `out`: checkpoint.pt, all that is needed to go on; best.pt, the averaged weights with the best PQ so
    far; log.csv and log.png.

    Args:
        config: how.
        data: folder that the configuration's images and labels are below.
        out: folder, made if missing.
        workers: processes that load and augment, for each process that trains; 0 does it in this one.
        start: checkpoint.pt or best.pt of another training whose averaged weights this one starts from, in place of
            ImageNet's.

    Returns:
        The measures of the best weights: epoch, pq, miou.

    Raises:
        UserError: of frames that cannot be used, of a checkpoint of another configuration, or of a loss that is no
            number.
    """
    with _process() as (rank, world, device):
        return _train(config, data, out, workers, start, rank, world, device)


def _train(config, data, out, workers, start, rank, world, device) -> dict[str, Any]:
    out.mkdir(parents=True, exist_ok=True)
    schedule, seed, n_classes = config["schedule"], config["seed"], len(config.taxonomy)
    if schedule["batch"] % world or schedule["batch"] < 2 * world:  # batch normalisation takes two
        raise UserError(f"schedule.batch: {schedule['batch']} on {world} processes; expected: 2, 3, ... for each")
    torch.manual_seed(seed)
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True

    sets = open_frames(config, "train", data)
    shares = [entry.get("share") for entry in config["data"]["train"]]
    sampler = EpochSampler([len(frames) for frames in sets], shares, schedule["batch"], seed, rank, world)
    loader = DataLoader(
        TrainingFrames(sets, config),
        schedule["batch"] // world,
        sampler=sampler,
        drop_last=True,
        num_workers=workers,
        worker_init_fn=_start_worker,
        pin_memory=device.type == "cuda",
        persistent_workers=workers > 0,
    )
    validation = Validation(open_frames(config, "val", data), config)
    pixels = class_pixels(sets[0], n_classes)
    weights = torch.from_numpy(frequency_weights(pixels, config["loss"]["class_balance"])).to(device)

    net = build_network(config, None if start else imagenet_weights(config["network"]["backbone"]))
    if start:
        net.load_state_dict(averaged_weights(read_checkpoint(start)))
    net = net.to(device, memory_format=torch.channels_last)
    if world > 1 and device.type == "cuda":
        net = nn.SyncBatchNorm.convert_sync_batchnorm(net)
    backbone = [p for p in net.backbone.parameters() if p.requires_grad]
    rest = [p for name, p in net.named_parameters() if not name.startswith("backbone.")]
    groups = [
        {"params": rest, "lr": schedule["learning_rate"]},
        {"params": backbone, "lr": schedule["backbone_learning_rate"]},
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=schedule["weight_decay"])
    one_cycle = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [g["lr"] for g in groups], schedule["epochs"] * len(loader), pct_start=0.05, div_factor=10
    )
    average = AveragedModel(net, avg_fn=moving_average(schedule["ema"]), use_buffers=True)
    state = {"net": net, "average": average, "optimizer": optimizer, "schedule": one_cycle}
    done, best = load_checkpoint(out / CHECKPOINT, state, config, start)
    parallel = nn.parallel.DistributedDataParallel(net) if world > 1 else net

    def step(batch: dict[str, Tensor]) -> dict[str, float]:
        batch = {name: array.to(device, non_blocking=True) for name, array in batch.items()}
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=_has_bfloat16(device)):
            outputs = parallel(normalise(batch["image"], config))
        losses = panoptic_losses([output.float() for output in outputs], batch, weights, config["loss"])
        loss = torch.stack(list(losses.values())).sum()
        if not math.isfinite(loss.item()):
            raise UserError(f"schedule.learning_rate: the loss is {loss.item()}; expected: a lower one")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 10.0)
        optimizer.step()
        one_cycle.step()
        average.update_parameters(net)
        return {name: value.item() for name, value in losses.items()}

    for epoch in range(done + 1, schedule["epochs"] + 1):
        if _is_over(best, epoch - 1, schedule):
            break
        sampler.epoch = epoch
        net.train()
        sums: dict[str, float] = {}
        progress = tqdm(loader, desc=f"epoch {epoch}/{schedule['epochs']}", mininterval=5, disable=rank > 0)
        for batch in progress:
            losses = step(batch)
            sums = {name: sums.get(name, 0.0) + value for name, value in losses.items()}
            progress.set_postfix({name: f"{value:.3f}" for name, value in losses.items()}, refresh=False)
        row: dict[str, Any] = {"epoch": epoch, **{name: round(s / len(loader), 5) for name, s in sums.items()}}
        row |= {"pq": "", "miou": ""}
        is_better = False
        if epoch % schedule["validate_every"] == 0 or epoch == schedule["epochs"]:
            found = [validation.measure(average.module) if rank == 0 else None]
            if world > 1:
                dist.broadcast_object_list(found)  # all must know when to stop
            measures = found[0] or {}
            row |= {name: round(measures[name] or 0.0, 4) for name in ("pq", "miou")}
            is_better = best is None or row["pq"] > best["pq"]
            best = {name: row[name] for name in ("epoch", "pq", "miou")} if is_better else best
        if rank == 0:
            common = {"epoch": epoch, "config": config.document, "best": best}
            if is_better:
                save(out / BEST, {**common, "average": average.state_dict()})
            log.append(out / "log.csv", row, epoch - 1)
            save(out / CHECKPOINT, {**common, **{name: part.state_dict() for name, part in state.items()}})
            log.plot(out / "log.csv", out / "log.png")
            tqdm.write(" ".join(f"{name} {value}" for name, value in row.items()), file=sys.stderr)
    return best or {}


@contextmanager
def _process() -> Iterator[tuple[int, int, torch.device]]:
    """This process's rank, how many there are, and what it computes on; torchrun says so in the environment."""
    world, local = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("LOCAL_RANK", 0))
    has_gpu = torch.cuda.is_available()
    device = torch.device("cuda", local) if has_gpu else torch.device("cpu")
    if has_gpu:
        torch.cuda.set_device(device)
    if world == 1:
        yield 0, 1, device
        return
    dist.init_process_group("nccl" if has_gpu else "gloo")
    try:
        yield dist.get_rank(), world, device
    finally:
        dist.destroy_process_group()


def _has_bfloat16(device: torch.device) -> bool:
    """Mixed precision where it pays: on GPUs from Ampere on. CPUs without matrix units are slower with it."""
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def _start_worker(_: int) -> None:
    cv2.setNumThreads(1)  # the processes are the parallelism
    if hasattr(os, "sched_setaffinity"):  # where OMP_PROC_BIND has bound the process that trains to one core
        os.sched_setaffinity(0, range(os.cpu_count() or 1))


def _is_over(best: dict[str, Any] | None, epoch: int, schedule: dict[str, Any]) -> bool:
    patience = schedule["patience"] * schedule["validate_every"]
    return bool(patience and best and epoch - best["epoch"] >= patience)


def build_network(config: Config, backbone_weights: str | None = None) -> PanopticDeepLab:
    return PanopticDeepLab(
        len(config.taxonomy), config.input.size_hw, backbone_weights=backbone_weights, **config["network"]
    )


def class_pixels(frames: LabelledFrames, n_classes: int, at_most: int = 400) -> np.ndarray:
    """int64 (C,): pixels of each class in frames evenly spread over the set."""
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(at_most, len(frames))).astype(int))
    return sum(np.bincount(frames[index].class_map.ravel(), minlength=256)[:n_classes] for index in chosen)


def moving_average(decay: float):
    """Exponential moving average that forgets faster at first, so that the start's weights do not linger."""

    def update(average: Tensor, new: Tensor, n_averaged: Tensor | int) -> Tensor:
        if not average.is_floating_point():
            return new
        keep = min(decay, (1 + float(n_averaged)) / (10 + float(n_averaged)))
        return average.lerp(new, 1 - keep)

    return update


def normalise(image: Tensor, config: Config) -> Tensor:
    """uint8 (B, H, W, 3) -> float32 (B, 3, H, W), channels last in memory."""
    mean, std = (
        torch.tensor(values, device=image.device, dtype=torch.float32)
        for values in (config.input.mean, config.input.std)
    )
    return ((image - mean) / std).permute(0, 3, 1, 2)


def load_checkpoint(path: Path, state: dict, config: Config, start: Path | None) -> tuple[int, dict[str, Any] | None]:
    """Restores `state` from `path` where it exists; the epochs done and the best measures so far.

    Raises:
        UserError: the checkpoint is of another configuration, whose schedule and classes may not fit.
    """
    if not path.exists():
        return 0, None
    saved = read_checkpoint(path)
    if changed := config.difference(saved["config"]):
        raise UserError(f"{path} was trained with another {', '.join(changed)}; restore that, or use another --out")
    for name, part in state.items():
        part.load_state_dict(saved[name])
    note = f"; {start} was its start already" if start else ""
    print(f"going on after epoch {saved['epoch']} of {path}{note}", file=sys.stderr)
    return saved["epoch"], saved["best"]


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint's contents. Raises UserError if it is none."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected: checkpoint.pt or best.pt of `perception train`")
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        return {**saved, "config": saved["config"], "average": saved["average"]}
    except (RuntimeError, EOFError, LookupError, TypeError, ValueError, OSError, UnpicklingError) as error:
        remedy = "expected: checkpoint.pt or best.pt of `perception train`"
        raise UserError(f"{path}: no checkpoint, or cut off ({type(error).__name__}); {remedy}") from error


def averaged_weights(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """The moving average's weights, by the network's own names."""
    prefix = "module."
    return {
        name.removeprefix(prefix): value for name, value in checkpoint["average"].items() if name.startswith(prefix)
    }


def save(path: Path, content: dict[str, Any]) -> None:
    """Writes beside, then renames: the file is whole or not there."""
    part = path.with_name(f"{path.name}.part")
    torch.save(content, part)
    part.replace(path)

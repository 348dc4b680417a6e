"""A made-up payload of the results page, with an example of everything that a payload can have."""

import math
import random
from typing import Any

METHODS = ("SGD", "SAM", "ASAM", "GSAM", "ESAM", "LookSAM", "F-SAM", "MSAM", "SAMPa")
BASES = ("SGD", "AdamW", "Lion")

#: A title that must be shown as it is, and do nothing.
NASTY = '<b>SAM</b> & "quotes" \' </script><script>alert(1)</script> <!--'

#: Key, title, description and decimals of each column.
COLUMNS = (
    ("rho", "ρ", "The radius of the perturbation.", None),
    ("error", "test error %", "Mean over the seeds, last epoch, with its standard deviation.", 2),
    ("delta", "Δ to SGD", "Test error minus SGD's, seed by seed, with the corrected interval.", 2),
    ("delta_passes", "Δ to SGD, same passes", "The same against SGD with twice the epochs.", 2),
    ("delta_sam", "Δ to SAM", "Test error minus SAM's, seed by seed.", 2),
    ("memorised", "memorised %", "Wrong training labels that are predicted as labelled.", 1),
    ("ece", "ECE %", "Calibration error, 15 bins.", 2),
    ("nll", "NLL", "Negative log-likelihood in nats.", 3),
    ("passes", "passes", "Forward-backward passes of one run.", 0),
    ("cost", "cost", "Seconds of one run, in those of SGD.", 2),
    ("seeds", "seeds", "How many finished.", 0),
)

#: A figure with all that Matplotlib writes: metadata, a style, a clip path, a marker, a glyph, and an image.
FIGURE = """<?xml version="1.0" encoding="utf-8" standalone="no"?>
<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "http://www.w3.org/Graphics/SVG/1.1/DTD/svg11.dtd">
<svg xmlns:xlink="http://www.w3.org/1999/xlink" width="460pt" height="240pt" viewBox="0 0 460 240" \
xmlns="http://www.w3.org/2000/svg" version="1.1">
<metadata><rdf>http://purl.org/dc/dcmitype/StillImage</rdf></metadata>
<defs><style type="text/css">*{stroke-linejoin: round; stroke-linecap: butt}</style>
<clipPath id="clip"><rect width="380" height="180"/></clipPath>
<path id="mark" d="M-4 0L0 -4L4 0L0 4Z"/></defs>
<defs><path id="DejaVuSans-4c" d="M 6 46
L 16 46 L 16 8 L 36 8 L 36 0 L 6 0 Z" transform="scale(0.1)"/></defs><use xlink:href="#DejaVuSans-4c"/>
<g id="axes_1" font-size="12" fill="currentColor"><path d="M50 20V200H440" fill="none" stroke="currentColor"/>
<text x="50" y="222">30 epochs</text><text x="360" y="222">60 epochs</text><text x="8" y="110">%</text></g>
<g clip-path="url(#clip)"><path d="M60 60L430 150" fill="none" stroke="#0072b2" stroke-width="2"/></g>
<use xlink:href="#mark" x="200" y="94" fill="#d55e00"/>
<image x="300" y="40" width="40" height="40" xlink:href="data:image/png;base64,
iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="/>
</svg>
"""

#: The text at the head of the page.
ANSWERS = f"""\
# Does SAM help?

**Yes**, by `noisy40: SAM − SGD at equal epochs` here, see `optimizer=sam`.

![Differences in all studies](forest.svg)

## Which one is best?

None.

```comparisons
SAM − SGD at equal epochs
{NASTY} − SAM
```
"""


def payload(rows: int = 27, seeds: int = 5) -> dict[str, Any]:
    """Return the payload of two regimes, the second with fewer rows.

    The first has a row with markup in its title, a run that diverged, and a row that was evaluated in every epoch.

    Args:
        rows: the number of measured rows of the first regime.
        seeds: the number of runs of each row.
    """
    return {
        "title": "Sharpness-aware optimizers on CIFAR-10",
        "answers": ANSWERS,
        "figures": {"forest.svg": FIGURE},
        "across": [
            {
                "title": "SAM − SGD at equal epochs",
                "cells": [{"text": "−3.10 ± 0.50", "verdict": "better"}, None],
                "average": None,
                "heterogeneity": "–",
            },
            {
                "title": f"{NASTY} − SAM",
                "cells": [{"text": "+1.20 ± 0.30", "verdict": "worse"}, {"text": "+0.10", "verdict": None}],
                "average": {"text": "+0.65 (−0.20 to +0.90)", "verdict": "within the margin"},
                "heterogeneity": f"τ 0.10 {NASTY}",
            },
        ],
        "false_claims": "0.3",
        "version": {"sam_bench": "0.1.0", "data": "cifar10 6d3a8c2f", "runs": "537 in 2 studies"},
        "regimes": [
            _regime("noisy40", "40 % wrong labels, nine trials each", rows, seeds),
            _regime("quick", "Correct labels, 20 epochs <quick>", max(rows // 3, 3), seeds),
        ],
    }


def _regime(name: str, title: str, rows: int, seeds: int) -> dict[str, Any]:
    chance = random.Random(name)  # noqa: S311
    measured = [_row(name, i, seeds, chance) for i in range(rows)]
    if name == "noisy40":
        _add_special_cases(measured)

    return {
        "name": name,
        "title": title,
        "about": "ResNet-20 on 10,000 training images of which 40 % have a wrong label, evaluated on the clean test "
        "set. Learning rate, weight decay and ρ were tuned for each row with as many trials, on held-out images with "
        "wrong labels; the seeds of the table are others than those of the tuning.",
        "statements": [
            {"text": "SAM is better than SGD by 3.1 points (2.6 to 3.6).", "verdict": "better"},
            {"text": "Lion as it is, without a second pass, is worse than SGD by 1.2 points.", "verdict": "worse"},
            {"text": "ASAM and SAM, each with its own radius, differ by 0.1.", "verdict": "undecided"},
        ],
        "sharpness": {"headings": ["measure", "across rows"], "cells": [["λ₁", "+0.50 (+0.10 to +0.80)"]]},
        "notes": [
            "Intervals are Student's over the paired seeds, corrected for the number of comparisons (Bonferroni).",
            "Runs that diverged are left out of every mean, and counted: SAM & AdamW 1.",
        ],
        "figures": [
            {"name": "forest", "title": "Differences with their intervals", "alt": 'A "forest" plot.', "svg": FIGURE},
            {"name": "passes", "title": "Test error by passes", "alt": "Error by passes", "svg": FIGURE},
        ],
        "columns": [{"key": key, "title": head, "help": text, "digits": n} for key, head, text, n in COLUMNS],
        "rows": [*measured, _not_run(name, "bSAM"), _not_run(name, "SAMPa with AdamW")],
    }


def _add_special_cases(rows: list[dict[str, Any]]) -> None:
    """Give one row a run that diverged, one a title with markup, and one a test error in every epoch."""
    diverged = rows[1]["seeds"][-1]
    diverged |= {"status": "diverged", "error": None}
    diverged["history"] = {key: [*values[:11], math.nan] for key, values in diverged["history"].items()}

    rows[2]["title"] = NASTY

    for seed in rows[4]["seeds"]:
        history = seed["history"]
        history["test_error"] = [value - 25 for value in history["train_error"]]


def _row(regime: str, i: int, seeds: int, chance: random.Random) -> dict[str, Any]:
    method, base = METHODS[i % len(METHODS)], BASES[i // len(METHODS) % len(BASES)]
    epochs = 30 if i % 2 else 60
    error = 12 + 12 * chance.random()
    delta = error - 18
    command = f"python -m sam_bench experiment={regime} optimizer={method.lower()} optimizer/base={base.lower()} "
    command += f"optimizer.base.lr=0.05 optimizer.base.weight_decay=0.001 trainer.epochs={epochs}"

    return {
        "id": f"{method}-{base}-{i}".lower(),
        "title": f"{method}" + ("" if base == "SGD" else f" with {base}") + (", ρ shared" if i > 26 else ""),
        "optimizer": base,
        "status": "measured",
        "cells": {
            "rho": {"value": 0.05 * i or None, "text": f"{0.05 * i:.2f}" if i else "", "verdict": None},
            "error": {"value": error, "text": f"{error:.2f} ± 0.21", "verdict": None},
            "delta": _difference(delta) if i else {"value": None, "text": "", "verdict": None},
            "delta_passes": _difference(delta + 0.6),
            "delta_sam": _difference(delta + 2),
            "memorised": {"value": 4 * i, "text": f"{4 * i:.1f}", "verdict": None},
            "ece": {"value": 3.2 + i / 10, "text": "", "verdict": None},
            "nll": {"value": 0.6 + i / 100, "text": f"{0.6 + i / 100:.3f}", "verdict": None},
            "passes": {"value": 2340 * (1 + i % 2), "text": f"{2340 * (1 + i % 2):,}", "verdict": None},
            "cost": {"value": 1 + i % 2, "text": f"{1 + i % 2:.2f}", "verdict": None},
            "seeds": {"value": seeds, "text": f"{seeds}", "verdict": None},
        },
        "command": f"{command} seed={','.join(map(str, range(seeds)))} --multirun",
        "settings": {"optimizer.rho": f"{0.05 * i:.2f}", "optimizer.base.lr": "0.05"},
        "prominent": i < 5,
        "seeds": [
            _seed(f"{regime}-{i}", seed, error, epochs, f"{command} seed={seed}", chance) for seed in range(seeds)
        ],
    }


def _difference(value: float) -> dict[str, Any]:
    verdict = "undecided" if abs(value) < 1 else "better" if value < 0 else "worse"
    text = f"{value:+.2f} ({value - 0.6:+.2f} to {value + 0.6:+.2f})".replace("-", "−")
    return {"value": value, "text": text, "verdict": verdict}


def _seed(name: str, seed: int, error: float, epochs: int, command: str, chance: random.Random) -> dict[str, Any]:
    def falling(end: float, start: float) -> list[float]:
        return [end + (start - end) * math.exp(-5 * e / epochs) + chance.gauss(0, 0.4) for e in range(epochs)]

    test_errors = falling(error, 85)
    return {
        "seed": seed,
        "status": "finished",
        "error": test_errors[-1],
        "run_id": f"{name}-{chance.randrange(16**8):08x}",
        "command": command,
        "settings": {f"group{i % 7}.setting_{i}": f"value {i}" for i in range(60)} | {"seed": f"{seed}"},
        "versions": {"python": "3.11.2", "torch": "2.10.0+cpu", "numpy": "2.3.1"},
        "device": "AMD EPYC 7B13, 2 threads",
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "history": {
            "test_error": [value if (e + 1) % 5 == 0 else None for e, value in enumerate(test_errors)],
            "train_error": falling(error + 30, 88),
            "memorised": [100 - value for value in falling(80, 99)],
            "train_loss": [value / 40 for value in falling(error, 92)],
        },
    }


def _not_run(regime: str, title: str) -> dict[str, Any]:
    return {
        "id": title.lower().replace(" ", "-"),
        "title": title,
        "optimizer": "AdamW",
        "status": "not run",
        "cells": {},
        "command": f"make study OPTIONS='{regime} --rows {title.lower()} --seeds 0,1,2,3,4'",
        "settings": {"optimizer.rho": "0.05"},
        "prominent": False,
        "seeds": [],
    }

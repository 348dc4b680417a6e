"""Tables: what a row is made from, and the files to the letter."""

import copy
import json
import math

import pandas as pd
import pytest
from scipy import stats

from sam_bench.cli import compose
from sam_bench.config.schema import Config
from sam_bench.errors import StateError
from sam_bench.report.published import LEFT_OUT, PUBLISHED, differences, is_of_protocol, published, published_table
from sam_bench.report.stats import t_interval
from sam_bench.report.table import Findings, protocol, read_records, write_table

ERRORS = {"sgd": [3.3, 3.1, 3.2], "sam": [2.9, 2.8, 3.0], "gsam": [2.5]}


def record(method: str, seed: int, error: float, **changes) -> dict:
    config = compose.compose(["experiment=sam_example", f"optimizer={method}", f"seed={seed}"]).identity()
    made = {
        "schema_version": 1,
        "run_id": f"{method}-{seed}",
        "experiment": "sam_example",
        "method": method,
        "seed": seed,
        "status": "finished",
        "test_error": error,
        "best_test_error": error - 0.1,
        "test_loss": 0.05 * error,
        "test_ece": 1.5,
        "history": {},
        "skipped_steps": 0,
        "passes": 78_200 if method == "sgd" else 156_400,
        "train_seconds": 1000.0 + seed,
        "images_per_second": 10_000.0,
        "peak_memory_bytes": 3 * 2**30,
        "device": "NVIDIA H200",
        "precision": "bf16",
        "dataset": "cifar10",
        "dataset_sha256": "0" * 64,
        "config": config,
    }
    return made | changes


def records() -> list[dict]:
    return [record(method, seed, error) for method, errors in ERRORS.items() for seed, error in enumerate(errors)]


GOLDEN = """\
# sam_example

The sam_example protocol: wrn22_8, cifar10, all training images, test split, augmentation crop + flip + cutout, \
normalised, 200 epochs, batch 128, step schedule by the step, warm-up 0, base optimizer sgd, lr 0.1, weight_decay \
0.0005, momentum 0.9, no nesterov, label smoothing 0.1 over others, BatchNorm clean.

| method | ρ    | seeds | test error % | Δ to SGD at equal epochs | ECE % | passes  | cost |
| ------ | ---- | ----- | ------------ | ------------------------ | ----- | ------- | ---- |
| SGD    | –    | 3     | 3.20 ± 0.25  | –                        | 1.50  | 78,200  | 1.00 |
| SAM    | 0.05 | 3     | 2.90 ± 0.25  | −0.30 ± 0.36 undecided   | 1.50  | 156,400 | 2.00 |
| GSAM   | 2    | 1     | 2.50         | −0.75                    | 1.50  | 156,400 | 2.00 |

Test error of the last epoch, mean over the seeds ± half of Student's 95 % interval. ECE: calibration error, 15 bins. \
Passes: forward-backward passes of one run. Cost: seconds of training over those of SGD.

Cost from passes alone, as no benchmark here has it: SAM, GSAM.

Δ: error minus the baseline's, in points (1 or 3 seeds); below 0 is better. ± or brackets: the 95 % interval at which \
all differences of its family hold together.

Verdict, from 3 seeds on: better or worse if the interval excludes 0, else undecided.

Residual standard deviation: 0.07 points, 2 degrees of freedom (error = row + seed).

Draws of images and labels: 1. Draws of the tuning: 1.

Measured on: NVIDIA H200, bf16.
"""


def make_table(made: list[dict]) -> pd.DataFrame:
    return Findings.of(made).as_frame()


def write_all(made: list[dict], folder) -> str:
    return write_table(Findings.of(made), "sam_example", folder)


def test_runs_of_code_that_was_not_committed_are_counted(tmp_path):
    commits = ["a" * 40, "b" * 40 + "+changes", None]
    made = [each | {"git_commit": commits[each["seed"]]} for each in records()]
    assert "\n\n2 of 7 runs are of a checkout in which not everything was committed.\n\n" in write_all(made, tmp_path)


def test_errors_on_held_out_images_are_called_so(tmp_path):
    made = [
        each | {"config": each["config"] | {"data": each["config"]["data"] | {"split": "val"}}} for each in records()
    ]
    text = write_all(made, tmp_path)
    assert "| held-out error % |" in text and "\n\nHeld-out error of the last epoch" in text
    assert "test error" not in text.lower()


def test_the_files_to_the_letter(tmp_path):
    assert write_all(records(), tmp_path) == GOLDEN
    assert (tmp_path / "table.md").read_text() == GOLDEN
    table = pd.read_csv(tmp_path / "table.csv")
    assert list(table.columns[:7]) == ["row", "method", "rho", "weights", "settings", "seeds", "diverged"]
    assert table["method"].tolist() == ["sgd", "sam", "gsam"]
    assert table["test_error_mean"].tolist() == pytest.approx([3.2, 2.9, 2.5])
    assert table["delta_equal_epochs"].tolist()[1:] == pytest.approx([-0.3, -0.75])
    text = (tmp_path / "table.tex").read_text()
    assert "\\toprule\n" + r"method & $\rho$ & seeds & test error \% &" in text
    assert r"SAM & 0.05 & 3 & 2.90 $\pm$ 0.25 & $-$0.30 $\pm$ 0.36 undecided &" in text


def test_the_interval_is_students():
    values = [3.3, 3.1, 3.25, 2.9]
    expected = stats.t.interval(0.95, 3, loc=sum(values) / 4, scale=stats.sem(values))
    assert t_interval(values) == pytest.approx(expected)
    assert all(math.isnan(bound) for bound in t_interval([3.0]))
    assert t_interval([3.0, 3.0]) == (3.0, 3.0)


def row(table: pd.DataFrame, method: str) -> pd.Series:
    (found,) = [line for _, line in table.iterrows() if line["method"] == method]
    return found


def test_a_diverged_run_is_counted_and_never_averaged():
    table = make_table([*records(), record("sam", 3, 90.0, status="diverged")])
    sam = row(table, "sam")
    assert (sam["seeds"], sam["diverged"], sam["worst_seed_error"]) == (3, 1, 3.0)
    only = make_table([record("sam", 0, 90.0, status="diverged")])
    assert only["seeds"][0] == 0
    assert math.isnan(only["test_error_mean"][0])


@pytest.mark.parametrize(
    ("path", "value", "shown"),
    [
        (("optimizer", "batchnorm"), "both", "batchnorm=both"),
        (("trainer", "precision"), "fp32", "trainer.precision=fp32"),
        (("trainer", "epochs"), 400, "trainer.epochs=400"),
        (("data", "train_subset"), 1000, "data.train_subset=1000"),
    ],
)
def test_runs_that_differ_in_more_than_the_seed_are_never_one_row(path, value, shown):
    other = copy.deepcopy(record("sam", 0, 9.0))
    other["config"][path[0]][path[1]] = value
    table = make_table([*records(), other])
    found = {line["settings"]: line for _, line in table.iterrows() if line["method"] == "sam"}
    assert found[shown]["test_error_mean"] == 9.0
    assert len(found) == 2
    assert all(line["test_error_mean"] < 4 for settings, line in found.items() if settings != shown)


def test_every_radius_is_a_row_of_its_own_in_their_order():
    made = [record("asam", seed, 3.0 - rho) for seed in (0, 1) for rho in (2.0, 0.5)]
    for item, rho in zip(made, (2.0, 0.5, 2.0, 0.5), strict=True):
        item["config"]["optimizer"]["rho"] = rho
    table = make_table(made)
    assert table["rho"].tolist() == [0.5, 2.0]
    assert table["test_error_mean"].tolist() == [2.5, 1.0]


def test_costs_on_different_devices_are_not_averaged_and_errors_are():
    table = make_table([record("sam", 0, 3.0), record("sam", 1, 2.0, device="another")])
    assert table["test_error_mean"].tolist() == [2.5]
    assert table[["train_seconds", "images_per_second", "peak_memory_mib"]].isna().all(axis=None)


def test_two_records_of_one_run_are_refused():
    with pytest.raises(StateError, match="several records of sam"):
        make_table([record("sam", 0, 3.0), record("sam", 0, 3.1)])


def test_skipped_steps_are_shown_where_there_were_any(tmp_path):
    assert "skipped" not in write_all(records(), tmp_path)
    skipped = record("sam", 5, 3.0, skipped_steps=8)
    assert "skipped steps" in write_all([*records(), skipped], tmp_path)


def test_the_protocol_is_what_all_rows_share_and_the_settings_the_rest():
    other = record("sam", 0, 2.0)
    other["config"]["optimizer"]["base"]["lr"] = 0.2
    configs = [item["config"] for item in [record("sam", 0, 3.0), other]]
    line = protocol(configs, "sam_example")
    assert "momentum 0.9" in line
    assert "lr 0.1 (not in all rows)" in line
    assert set(make_table([record("sam", 0, 3.0), other])["settings"]) == {"base.lr=0.1", "base.lr=0.2"}


def test_other_data_are_another_row():
    table = make_table([*records(), record("sam", 0, 9.0, dataset_sha256="1" * 64)])
    assert "dataset_sha256=11111111" in set(table["settings"])


def write(folder, made: list[dict]) -> None:
    (folder / "records").mkdir(parents=True)
    for item in made:
        (folder / "records" / f"{item['run_id']}.json").write_text(json.dumps(item))


def test_tuning_runs_stay_out_of_the_table(tmp_path):
    tuning = record("sam", 7, 1.0)
    tuning["config"]["data"]["split"] = "val"
    write(tmp_path, [*records(), tuning])
    assert len(read_records(tmp_path / "records")) == len(records())
    assert [item["seed"] for item in read_records(tmp_path / "records", "val")] == [7]


def test_newer_and_broken_records_are_errors(tmp_path):
    write(tmp_path, [record("sam", 0, 3.0, schema_version=99)])
    with pytest.raises(StateError, match="newer"):
        read_records(tmp_path / "records")


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["experiment=sam_example", "optimizer=sgd"], None),
        (["experiment=sam_example", "optimizer=sam"], None),
        (["experiment=sam_example", "optimizer=asam"], None),
        (["experiment=sam_example", "optimizer=asam_official"], None),
        (["experiment=gsam_example"], None),
        (["experiment=sam_example", "optimizer=gsam"], None),
        (["experiment=wrn16_8"], "label_smoothing is 0.1, not 0.0"),
        (["experiment=wrn16_8", "trainer.label_smoothing=0"], None),
        (["experiment=wrn16_8", "optimizer=asam"], "model.name is wrn16_8, not wrn22_8"),
        (["experiment=quick"], "trainer.epochs is 2, not 200"),
        (["experiment=smoke"], "data.name is synthetic"),
        (["experiment=noisy40"], "there is no figure for wrong labels"),
        (["experiment=smoke", "optimizer=usam"], "there is no figure for this method"),
        (["experiment=sam_example", "data.split=val"], "data.split is val"),
        (["experiment=sam_example", "data.train_subset=1000"], "data.train_subset is 1000"),
        (["experiment=sam_example", "model=resnet8"], "resnet8"),
        (["experiment=sam_example", "optimizer/base=adamw"], "adamw, not sgd"),
        (["experiment=sam_example", "trainer.batch_size=256"], "256, not 128"),
        (["experiment=sam_example", "schedule=constant"], "constant, not step"),
        (["experiment=sam_example", "data.cutout=false"], "data.cutout is False"),
        (["experiment=sam_example", "data.normalise=false"], "data.normalise is False"),
        (["experiment=sam_example", "optimizer.rho=5"], "optimizer.rho is 5"),
        (["experiment=sam_example", "optimizer.base.nesterov=true"], "nesterov is True"),
        (["experiment=sam_example", "schedule.gamma=0.1"], "schedule.gamma is 0.1"),
    ],
)
def test_what_cannot_be_compared_with_published_figures_is_said(overrides, reason):
    config = compose.compose(overrides)
    found = differences(config.identity())
    assert any(reason in text for text in found) if reason else found == []


def test_what_a_record_leaves_out_is_as_it_was_before_there_was_the_setting():
    """Otherwise a run of zero padding could pass for one of the closure example, which mirrors."""
    default, left_out = compose.compose([]), {}
    for group in (name for name in Config.names() if Config.group(name)):
        for name, field in Config.group(group).model_fields.items():
            value = getattr(getattr(default, group), name)
            if field.exclude_if is not None and field.exclude_if(value):
                left_out[f"{group}.{name}"] = value
                assert name not in default.identity()[group]
    elsewhere = {"trainer.drop_last": False, "optimizer.base.norm_bias_lr_factor": 1.0}
    assert left_out | elsewhere == LEFT_OUT
    config = compose.compose(["experiment=closure_example"]).identity()
    for key in left_out:
        group, _, name = key.partition(".")
        config[group].pop(name, None)
    assert differences(config) == [
        "data.padding is zeros, not reflect",
        "schedule.warmup_start is 0.0, not 0.25",
    ]
    dropped = record("sam", 0, 3.0)["config"]
    assert differences(dropped) == []
    dropped["trainer"]["drop_last"] = True
    assert differences(dropped) == ["trainer.drop_last is True, not False"]


def test_the_protocol_says_how_the_crop_is_padded_and_where_the_warm_up_begins():
    config = compose.compose(["experiment=closure_example"]).identity()
    line = protocol([config], "closure_example")
    assert "augmentation crop (reflect padding) + flip, normalised" in line
    assert "cosine schedule by the epoch, warm-up 5 from 0.25 of the rate, base" in line


def test_the_protocol_says_where_a_method_begins_late(tmp_path):
    config = compose.compose(["experiment=noisy40", "optimizer.start_at=0.8"]).identity()
    assert "the method from 0.8 of the run on, base optimizer" in protocol([config], "noisy40")
    whole = compose.compose(["experiment=noisy40"]).identity()
    assert "0.8 of the run on (not in all rows)" in protocol([config, whole], "noisy40")
    rows = make_table([record("sam", 0, 3.0), record("sam", 1, 3.0, config=config | {"seed": 1})])
    assert any("start_at=0.8" in settings for settings in rows["settings"])


@pytest.mark.parametrize("figure", PUBLISHED, ids=lambda figure: f"{figure.method}-{figure.model}")
def test_the_command_of_a_published_figure_is_of_its_protocol(figure):
    config = compose.compose([*figure.overrides.split(), f"optimizer={figure.method}"]).identity()
    assert is_of_protocol(config, figure)
    assert figure.command.endswith(f"optimizer={figure.method}")


def test_published_figures_are_found_by_network_else_the_sam_examples():
    def beside(method, model, **data):
        return published({"optimizer": {"name": method}, "model": {"name": model}, "data": data})

    assert beside("sgd", "wrn16_8").error == 3.98
    assert beside("gsam", "resnet8").error == 2.45
    assert beside("sgd", "nothing").model == "wrn22_8"
    assert beside("nothing", "wrn16_8") is None
    assert beside("sgd", "wrn16_8", label_noise=0.4) is None
    assert all(0 < figure.error < 10 and figure.caveat for figure in PUBLISHED)


def with_m(made: dict, m: int) -> dict:
    made["config"]["optimizer"]["m"] = made["m"] = m
    return made


def test_runs_of_different_m_are_never_in_one_row_and_say_so():
    runs = [with_m(record("sam", seed, 3.0), m) for seed, m in ((0, 128), (1, 128), (2, 64))]
    table = make_table(runs)
    assert list(table["seeds"]) == [2, 1]
    assert list(table["settings"]) == ["m=128", "m=64"]
    other = make_table([with_m(record("sam", 0, 3.0), 128), with_m(record("gsam", 0, 3.0), 64), record("sgd", 0, 3.0)])
    assert list(other["settings"]) == ["", "m=128", "m=64"]
    same = make_table([with_m(record("sam", 0, 3.0), 64), with_m(record("gsam", 0, 3.0), 64), record("sgd", 0, 3.0)])
    assert not same["settings"].any()


def test_averages_have_rows_of_their_own_beside_the_raw_weights(tmp_path):
    runs = [
        record("wasam", seed, 3.0 + seed, averaged={"swa 0.5": {"test_error": 2.0 + seed, "test_loss": 0.1}})
        for seed in (0, 1)
    ]
    runs.append(record("wasam", 2, 90.0, status="diverged", averaged={"swa 0.5": {"test_error": 90.0}}))
    table = make_table([*runs, record("sgd", 0, 3.3)])
    assert list(table["weights"]) == ["last", "last", "swa 0.5"]
    assert list(table["test_error_mean"]) == [3.3, 3.5, 2.5]
    assert list(table["seeds"]) == [1, 2, 2]
    text = write_all(runs, tmp_path)
    assert "| WASAM, swa 0.5 |" in text
    assert "Not of the weights after the last step: WASAM, swa 0.5 (swa 0.5)." in text
    assert "Not of the weights" not in write_all([record("sgd", 0, 3.3)], tmp_path)


def test_what_no_protocol_says_the_rows_say():
    """Each of these differs between two methods only, and would otherwise be seen nowhere."""
    for key, value in {"base": {"name": "adamw", "lr": 0.001}, "batchnorm": "both", "clip_norm": 1.0}.items():
        other = record("gsam", 0, 3.0)
        other["config"]["optimizer"][key] = value
        table = make_table([record("sam", 0, 3.0), other])
        assert ("adamw" if key == "base" else str(value)) in table["settings"][1]
        assert len(set(table["settings"])) == 2
    own = record("gsam", 0, 3.0)
    own["config"]["optimizer"]["alpha"] = 0.7
    assert not make_table([record("sam", 0, 3.0), own])["settings"].any()
    assert make_table([record("gsam", 1, 3.0), own])["settings"].str.contains("alpha").all()


def test_what_is_memorised_is_shown_where_labels_are_wrong():
    noisy = [
        record("sgd", seed, 60.0, history={"wrong_label_error": [95.0, missed]}) for seed, missed in ((0, 30), (1, 40))
    ]
    made = make_table([*noisy, record("sam", 0, 50.0)])
    of_sgd, of_sam = made["memorised"]
    assert of_sgd == 65.0 and math.isnan(of_sam)


def test_columns_of_what_nobody_measured_are_left_out(tmp_path):
    old = [{key: value for key, value in each.items() if key != "test_ece"} for each in records()]
    text = write_all(old, tmp_path)
    assert "ECE" not in text and "memorised" not in text and "passes" in text


def test_tta_error_has_a_column_if_measured():
    measured = [record("sgd", seed, 6.8, test_error_tta=error) for seed, error in enumerate((5.8, 6.0, 6.2))]
    found = Findings.of([*measured, record("sam", 0, 6.5)])
    headings, cells = found.for_reading()
    column = headings.index("with test-time augmentation %")
    half = 4.302652729911275 * 0.2 / 3**0.5  # Student's 0.975 quantile with two degrees of freedom
    assert [row[column] for row in cells] == [f"6.00 ± {half:.2f}", "–"]
    assert found.as_frame()["test_error_tta_mean"].tolist()[0] == pytest.approx(6.0)
    assert "with test-time augmentation %" not in Findings.of(records()).for_reading()[0]


def test_airbench94_is_compared_with_test_time_augmentation():
    config = compose.compose(["experiment=airbench94"]).identity()
    runs = [record("sgd", seed, 6.7, config=config | {"seed": seed}, test_error_tta=5.9 + seed / 5) for seed in (0, 1)]
    (row,) = Findings.of(runs).rows
    assert is_of_protocol(row.config, published(config))
    assert "| 6.00 ± 1.27 (2 seeds) |" in published_table([row], only_measured=True)

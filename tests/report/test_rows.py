"""Tests of a table's rows: which runs are one row, what tells rows apart, and their means."""

import math

import pandas as pd
import pytest

from sam_bench.errors import StateError
from tests.report.table_records import make_table, record, records

# Which runs are one row


@pytest.mark.parametrize(
    ("group", "key", "value", "settings"),
    [
        ("optimizer", "batchnorm", "both", "batchnorm=both"),
        ("optimizer", "start_at", 0.8, "start_at=0.8"),
        ("trainer", "precision", "fp32", "trainer.precision=fp32"),
        ("trainer", "epochs", 400, "trainer.epochs=400"),
        ("data", "train_subset", 1000, "data.train_subset=1000"),
    ],
)
def test_other_setting_is_another_row(group, key, value, settings):
    other = record("sam", 0, 9.0)
    other["config"][group][key] = value
    table = make_table([*records(), other])
    means = {line["settings"]: line["test_error_mean"] for _, line in table.iterrows() if line["method"] == "sam"}
    assert means.pop(settings) == 9.0
    assert list(means.values()) == [pytest.approx(2.9)]


def test_other_learning_rate_is_another_row():
    other = record("sam", 0, 2.0)
    other["config"]["optimizer"]["base"]["lr"] = 0.2
    assert set(make_table([record("sam", 0, 3.0), other])["settings"]) == {"base.lr=0.1", "base.lr=0.2"}


def test_other_data_are_another_row():
    table = make_table([*records(), record("sam", 0, 9.0, dataset_sha256="1" * 64)])
    assert "dataset_sha256=11111111" in set(table["settings"])


def test_radii_are_rows_in_ascending_order():
    entries = []
    for seed in (0, 1):
        for rho in (2.0, 0.5):
            entry = record("asam", seed, 3.0 - rho)
            entry["config"]["optimizer"]["rho"] = rho
            entries.append(entry)
    table = make_table(entries)
    assert table["rho"].tolist() == [0.5, 2.0]
    assert table["test_error_mean"].tolist() == [2.5, 1.0]


def test_row_refuses_two_records_of_one_seed():
    with pytest.raises(StateError, match=r"several records of sam .*: keep one"):
        make_table([record("sam", 0, 3.0), record("sam", 0, 3.1)])


# The settings that tell rows of several methods apart


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("base", {"name": "adamw", "lr": 0.001}, "adamw"),
        ("batchnorm", "both", "both"),
        ("clip_norm", 1.0, "1.0"),
    ],
)
def test_shared_setting_that_differs_is_shown(key, value, shown):
    other = record("gsam", 0, 3.0)
    other["config"]["optimizer"][key] = value
    settings = make_table([record("sam", 0, 3.0), other])["settings"]
    assert shown in settings[1]
    assert len(set(settings)) == 2


def test_own_setting_is_shown_if_rows_of_method_differ():
    other = record("gsam", 0, 3.0)
    other["config"]["optimizer"]["alpha"] = 0.7
    assert not make_table([record("sam", 0, 3.0), other])["settings"].any()
    assert make_table([record("gsam", 1, 3.0), other])["settings"].str.contains("alpha").all()


def with_m(entry: dict, m: int) -> dict:
    """Return a record with another m."""
    entry["config"]["optimizer"]["m"] = entry["m"] = m
    return entry


def test_other_m_is_another_row():
    table = make_table([with_m(record("sam", seed, 3.0), m) for seed, m in ((0, 128), (1, 128), (2, 64))])
    assert list(table["seeds"]) == [2, 1]
    assert list(table["settings"]) == ["m=128", "m=64"]


@pytest.mark.parametrize(("m", "settings"), [(128, ["", "m=128", "m=64"]), (64, ["", "", ""])])
def test_m_is_shown_if_methods_differ(m, settings):
    entries = [record("sgd", 0, 3.0), with_m(record("sam", 0, 3.0), m), with_m(record("gsam", 0, 3.0), 64)]
    assert list(make_table(entries)["settings"]) == settings


# Means


def test_diverged_run_is_counted_and_not_averaged():
    table = make_table([*records(), record("sam", 3, 90.0, status="diverged")])
    (sam,) = (line for _, line in table.iterrows() if line["method"] == "sam")
    assert (sam["seeds"], sam["diverged"], sam["worst_seed_error"]) == (3, 1, 3.0)

    without_finished_run = make_table([record("sam", 0, 90.0, status="diverged")])
    assert without_finished_run["seeds"][0] == 0
    assert math.isnan(without_finished_run["test_error_mean"][0])


def test_costs_on_different_devices_have_no_mean():
    table = make_table([record("sam", 0, 3.0), record("sam", 1, 2.0, device="another")])
    assert table["test_error_mean"].tolist() == [2.5]
    assert table[["train_seconds", "images_per_second", "peak_memory_mib"]].isna().all(axis=None)


def test_averaged_weights_are_rows_beside_last_weights():
    runs = [
        record("wasam", seed, 3.0 + seed, averaged={"swa 0.5": {"test_error": 2.0 + seed, "test_loss": 0.1}})
        for seed in (0, 1)
    ]
    diverged = record("wasam", 2, 90.0, status="diverged", averaged={"swa 0.5": {"test_error": 90.0}})
    table = make_table([*runs, diverged, record("sgd", 0, 3.3)])
    assert list(table["weights"]) == ["last", "last", "swa 0.5"]
    assert list(table["test_error_mean"]) == [3.3, 3.5, 2.5]
    assert list(table["seeds"]) == [1, 2, 2]


def test_memorised_is_nan_without_wrong_labels():
    noisy = [
        record("sgd", seed, 60.0, history={"wrong_label_error": [95.0, error]}) for seed, error in enumerate((30, 40))
    ]
    memorised = make_table([*noisy, record("sam", 0, 50.0)])["memorised"]
    assert memorised[0] == 65.0
    assert pd.isna(memorised[1])

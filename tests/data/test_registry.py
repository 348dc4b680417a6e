"""Tests that the registry of data sets agrees with the configuration and the loaders."""

import pytest

from sam_bench.cli import compose
from sam_bench.data import synthetic
from sam_bench.data.registry import DATASETS
from sam_bench.lookup import load
from sam_bench.training.build import load_data, obtain_data, verify_data
from tests.conftest import options


def test_every_data_set_has_config_file():
    assert set(options("data")) == set(DATASETS)


@pytest.mark.parametrize("name", DATASETS)
def test_registry_names_existing_code(name):
    spec = DATASETS[name]
    assert callable(load(spec.loader))
    assert spec.files is None or load(spec.files).title == spec.title
    assert spec.train_images % spec.classes == 0 == spec.test_images % spec.classes


def test_synthetic_data_need_no_files(folder, monkeypatch):
    config = compose.compose(["data=synthetic"]).data
    assert obtain_data(config) is None
    monkeypatch.setattr(synthetic, "load", lambda *_: pytest.fail("there are no files to verify"))
    verify_data(config)


@pytest.mark.parametrize("split", ["test", "val"])
@pytest.mark.parametrize("subset", [None, 100])
def test_config_counts_loaded_images(split, subset):
    overrides = ["data=synthetic", f"data.split={split}", f"data.train_subset={subset or 'null'}"]
    config = compose.compose(overrides).data
    dataset = load_data(config)
    assert len(dataset.train) == config.train_images
    assert (len(dataset.test) == DATASETS["synthetic"].test_images) == (split == "test")

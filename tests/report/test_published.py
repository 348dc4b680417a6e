"""Tests of published test errors: which runs have their protocols, and which figure is shown beside a row."""

import pytest

from sam_bench.cli import compose
from sam_bench.config.schema import Config
from sam_bench.report.published import LEFT_OUT, PUBLISHED, differences, is_of_protocol, published, published_table
from sam_bench.report.table import Findings
from tests.report.table_records import record


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
def test_differences_name_the_setting(overrides, reason):
    listed = differences(compose.compose(overrides).identity())
    assert any(reason in text for text in listed) if reason else listed == []


# Settings that records leave out


def test_left_out_settings_are_those_of_identity():
    config = compose.compose([])
    left_out = {}
    for group in (name for name in Config.names() if Config.group(name)):
        for name, field in Config.group(group).model_fields.items():
            value = getattr(getattr(config, group), name)
            if field.exclude_if is not None and field.exclude_if(value):
                left_out[f"{group}.{name}"] = value
                assert name not in config.identity()[group]

    # The base optimizer's settings are a group within a group.
    of_base = {"optimizer.base.norm_bias_lr_factor": 1.0}
    assert left_out | of_base == LEFT_OUT


def test_missing_setting_has_its_default():
    # Otherwise a run with zero padding could pass for one of the closure example, which mirrors.
    config = compose.compose(["experiment=closure_example"]).identity()
    for key in LEFT_OUT:
        group, _, name = key.partition(".")
        config[group].pop(name, None)
    assert differences(config) == [
        "data.padding is zeros, not reflect",
        "schedule.warmup_start is 0.0, not 0.25",
    ]


def test_drop_last_is_a_difference():
    config = record("sam", 0, 3.0)["config"]
    assert differences(config) == []
    config["trainer"]["drop_last"] = True
    assert differences(config) == ["trainer.drop_last is True, not False"]


# Figures


@pytest.mark.parametrize("figure", PUBLISHED, ids=lambda figure: f"{figure.method}-{figure.model}")
def test_command_of_figure_has_its_protocol(figure):
    config = compose.compose([*figure.overrides.split(), f"optimizer={figure.method}"]).identity()
    assert is_of_protocol(config, figure)
    assert figure.command.endswith(f"optimizer={figure.method}")
    assert 0 < figure.error < 10 and figure.caveat


def test_figure_is_that_of_network_or_sam_example():
    def figure_for(method, model, **data):
        return published({"optimizer": {"name": method}, "model": {"name": model}, "data": data})

    assert figure_for("sgd", "wrn16_8").error == 3.98
    assert figure_for("gsam", "resnet8").error == 2.45
    assert figure_for("sgd", "nothing").model == "wrn22_8"
    assert figure_for("nothing", "wrn16_8") is None
    assert figure_for("sgd", "wrn16_8", label_noise=0.4) is None


def test_airbench94_compares_errors_with_tta():
    config = compose.compose(["experiment=airbench94"]).identity()
    runs = [record("sgd", seed, 6.7, config=config | {"seed": seed}, test_error_tta=5.9 + seed / 5) for seed in (0, 1)]
    (row,) = Findings.of(runs).rows
    assert is_of_protocol(row.config, published(config))
    assert "| 6.00 ± 1.27 (2 seeds) |" in published_table([row], only_measured=True)

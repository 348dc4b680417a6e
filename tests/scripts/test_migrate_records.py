"""Records of earlier versions: brought to today's names, with the ids that follow from them."""

import json

import pytest

from sam_bench.runs.spec import digest
from scripts import migrate_records
from tests.conftest import ROOT

OLD = {
    "data": {"name": "cifar10", "split": "tune"},
    "schedule": {"name": "step", "factor": 0.2},
    "trainer": {"epochs": 2, "last_batch": "drop"},
}
NEW = {
    "data": {"name": "cifar10", "split": "val"},
    "schedule": {"name": "step", "gamma": 0.2},
    "trainer": {"epochs": 2, "drop_last": True},
}


def record(config: dict, **own) -> dict:
    return {"schema_version": 1, "run_id": f"sam-resnet8-seed0-{digest(config)}", "config": config, **own}


def test_a_record_gets_todays_names_and_the_id_that_follows_from_them(tmp_path, capsys):
    old = record(OLD, last_batch="drop", test_error=31.3)
    (tmp_path / f"{old['run_id']}.json").write_text(json.dumps(old))
    for changed in (1, 0):  # the second time there is nothing left to do
        migrate_records.main([str(tmp_path)])
        assert capsys.readouterr().out.startswith(f"{changed} records")
        (path,) = tmp_path.iterdir()
        assert json.loads(path.read_text()) == record(NEW, drop_last=True, test_error=31.3)
        assert path.stem == record(NEW)["run_id"]


def test_a_record_whose_id_is_not_its_own_is_refused(tmp_path):
    other = record(OLD) | {"run_id": "sam-resnet8-seed0-0123456789"}
    (tmp_path / "other.json").write_text(json.dumps(other))
    with pytest.raises(SystemExit, match="changed by hand"):
        migrate_records.main([str(tmp_path)])
    assert [path.name for path in tmp_path.iterdir()] == ["other.json"]


@pytest.mark.parametrize("path", sorted((ROOT / "results" / "measured").rglob("records/*.json")), ids=lambda p: p.stem)
def test_committed_records_are_up_to_date(path):
    found = json.loads(path.read_text())
    assert path.stem == found["run_id"]
    assert found["run_id"].endswith(digest(found["config"]))
    assert found["config"]["data"]["split"] in ("test", "val")

"""Tests of the command `analyse`."""

import json
from pathlib import Path

import pytest
import torch

from sam_bench.analysis.measure import names
from sam_bench.analysis.spectrum import NotConverged
from sam_bench.cli import analysis, compose
from sam_bench.cli.commands import analyse, weights
from sam_bench.runtime.device import Hardware
from sam_bench.training.build import build_network, fixed_images, load_data
from tests.conftest import TINY, everything_below, last_checkpoint

RUN = ["experiment=smoke", "model=resnet8", "data.crop=false", "data.flip=false", "trainer.precision=fp32",
       "data.train_subset=20"]  # fmt: skip
SAM_RUN = [*RUN, "optimizer=sam"]

#: Settings of an analysis that takes little time.
SMALL_ANALYSIS = ["analysis.images=10", "analysis.eigenvalues=0", "analysis.trace_vectors=2", "analysis.radii=[0.1]",
                  "analysis.adaptive_radii=[]", "analysis.sigmas=[]", "analysis.adaptive_sigmas=[]"]  # fmt: skip
SMALL_SLICE = ["--points", "3", *SMALL_ANALYSIS]


def results(folder: Path, kind: str) -> list[dict]:
    """Return the contents of all files in the folder "analysis" or "landscape", sorted by name."""
    return [json.loads(path.read_text()) for path in sorted((folder / "results" / "smoke" / kind).glob("*.json"))]


# Measures


def test_existing_analysis_is_kept(tiny_run, folder, capsys):
    record = tiny_run(*SAM_RUN)
    command = [f"run={record['run_id']}", *SMALL_ANALYSIS]
    analyse.main(command)
    (path,) = (folder / "results" / "smoke" / "analysis").iterdir()
    assert str(path.relative_to(folder)) in capsys.readouterr().out
    (result,) = results(folder, "analysis")
    assert list(result["measures"]) == names(compose.compose(["analysis=full", *SMALL_ANALYSIS]).analysis)
    assert result["run_ids"] == [record["run_id"]]
    assert result["settings"]["images"] == 10

    written_at = path.stat().st_mtime_ns
    analyse.main(command)
    assert path.stat().st_mtime_ns == written_at

    # With other settings, or damaged, the file is in the way.
    with pytest.raises(SystemExit, match="made with other settings: move it away"):
        analyse.main([*command, "analysis.ascent_steps=2"])
    path.write_text("{")
    with pytest.raises(SystemExit, match="move it away"):
        analyse.main(command)


def test_batch_statistics_have_their_own_file(tiny_run, folder):
    run_id = tiny_run(*SAM_RUN)["run_id"]
    analyse.main([f"run={run_id}", *SMALL_ANALYSIS])
    (before,) = results(folder, "analysis")
    analyse.main([f"run={run_id}", "analysis=batch_statistics", *SMALL_ANALYSIS])

    assert (folder / "results" / "smoke" / "analysis" / f"{run_id}-batch.json").exists()
    batch, stored = results(folder, "analysis")
    assert stored == before
    assert (batch["settings"]["batchnorm"], stored["settings"]["batchnorm"]) == ("batch", "stored")
    assert batch["measures"]["loss"] != stored["measures"]["loss"]
    assert "m_sharpness_0.1" in batch["measures"]


def test_kept_weights_are_used_without_checkpoint(tiny_run, folder):
    record = tiny_run(*SAM_RUN)
    command = [f"run={record['run_id']}", *SMALL_ANALYSIS]
    analyse.main(command)
    (result,) = results(folder, "analysis")
    weights.main(["--experiment", "smoke"])
    for path in (folder / "runs" / "smoke" / record["run_id"]).glob("*.pt"):
        path.unlink()
    analyse.main(command)  # the weights are equal, so the result is kept

    (path,) = (folder / "results" / "smoke" / "weights").glob("*.pt")
    torch.save({name: value * 2 for name, value in torch.load(path, weights_only=True).items()}, path)
    with pytest.raises(SystemExit, match="other weights_sha256"):
        analyse.main(command)
    assert results(folder, "analysis") == [result]

    path.write_bytes(b"no tensors")
    with pytest.raises(SystemExit, match="holds no weights"):
        analyse.main(command)

    path.unlink()
    with pytest.raises(SystemExit, match=r"neither in .* nor in .*: run it again"):
        analyse.main(command)


def test_wrong_labels_are_those_trained_on(tiny_run, folder):
    overrides = [*RUN, "optimizer=sgd", "data.label_noise=0.4"]
    record = tiny_run(*overrides)
    analyse.main([f"run={record['run_id']}", *SMALL_ANALYSIS, "analysis.images=20"])
    (result,) = results(folder, "analysis")

    config = compose.compose([*TINY, *overrides])
    model = build_network(config).eval()
    model.load_state_dict(last_checkpoint(folder, record["run_id"], "smoke")["training"]["model"])
    train = load_data(config.data).train
    inputs = fixed_images(config.data, train, 20, Hardware(torch.device("cpu"), "fp32")).inputs
    error = 100 * (model(inputs).argmax(1) != train.labels).double().mean().item()

    assert len(train) == 20
    assert train.wrong_labels
    assert result["measures"]["error"] == pytest.approx(error)


def test_run_without_eigenvalues_is_named(tiny_run, folder, monkeypatch, capsys):
    run_ids = [tiny_run(*SAM_RUN, f"seed={seed}")["run_id"] for seed in (0, 1)]
    measure = analysis.measure
    errors = iter([NotConverged("no eigenvalues: too many steps"), None])

    def fail_once(*arguments):
        if error := next(errors):
            raise error
        return measure(*arguments)

    monkeypatch.setattr(analysis, "measure", fail_once)
    with pytest.raises(SystemExit, match="1 of 2 runs: no eigenvalues found"):
        analyse.main(["experiment=smoke", *SMALL_ANALYSIS])

    (result,) = results(folder, "analysis")
    (failed,) = set(run_ids) - set(result["run_ids"])
    assert f"{failed}: no eigenvalues: too many steps" in capsys.readouterr().out


# Choice of runs


def test_rows_and_seeds_choose_runs(tiny_run, folder):
    run_ids = {(o, s): tiny_run(*RUN, f"optimizer={o}", f"seed={s}")["run_id"] for o in ("sgd", "sam") for s in (0, 1)}
    analyse.main(["experiment=smoke", "--rows", "SAM", "--seeds", "1", *SMALL_ANALYSIS])
    assert [result["run_ids"] for result in results(folder, "analysis")] == [[run_ids["sam", 1]]]

    analyse.main(["experiment=smoke", "--rows", "SGD; SAM", *SMALL_ANALYSIS])
    assert {result["run_ids"][0] for result in results(folder, "analysis")} == set(run_ids.values())


def test_run_without_solution_is_left_out_or_refused(tiny_run, folder, capsys):
    diverged = tiny_run(*RUN, "optimizer=sgd", "optimizer.base.lr=1e30")
    averaged = tiny_run(*SAM_RUN, "optimizer/base=schedule_free")
    finished = tiny_run(*SAM_RUN)
    assert diverged["status"] == "diverged"

    reasons = [(diverged, "diverged: it has no solution"), (averaged, "evaluates an average of the weights")]
    for record, reason in reasons:
        with pytest.raises(SystemExit, match=reason):
            analyse.main([f"run={record['run_id']}", *SMALL_ANALYSIS])

    analyse.main(["experiment=smoke", *SMALL_ANALYSIS])
    assert [result["run_ids"] for result in results(folder, "analysis")] == [[finished["run_id"]]]
    assert capsys.readouterr().out.count("Left out: ") == 2


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (["run=nothing"], "there are 0 records nothing.json"),
        (["experiment=smoke", "--seeds", "7"], "no finished runs of these rows and seeds"),
        (["experiment=smoke", "--rows", "SMA"], "did you mean SAM"),
        (["experiment=smoke", "--landscape", "between"], "needs run=RUN_ID,RUN_ID"),
        (["smoke"], "use run=RUN_ID without --rows and --seeds, or experiment=NAME"),
        (["run=RUN", "--seeds", "0"], "run=RUN_ID without --rows and --seeds"),
        (["run=RUN,RUN"], "give one run, run=RUN_ID"),
        (["run=RUN", "--points", "4"], "must be odd"),
        (["run=RUN", "analysis=none"], "measures nothing"),
        (["run=RUN", "analysis.images=30"], "at most the 20 training images"),
        (["run=RUN", "analysis.images=15"], "a multiple of the 10 classes"),
        (["run=RUN", "analysis.radii=[0]"], "above 0"),
        (["run=RUN", "analysis.radii=[0.1,0.1]"], "each value once"),
        (["run=RUN", "analysis.radius=1"], "analysis.radius"),
    ],
)
def test_invalid_request_writes_nothing(tiny_run, folder, command, reason):
    run_id = tiny_run(*SAM_RUN)["run_id"]
    before = everything_below(folder)
    with pytest.raises(SystemExit, match=reason):
        analyse.main([word.replace("RUN", run_id) if word.startswith("run=") else word for word in command])
    assert everything_below(folder) == before


# Slices


@pytest.mark.parametrize("kind", ["line", "plane"])
def test_middle_of_slice_is_the_solution(tiny_run, folder, kind):
    run_id = tiny_run(*SAM_RUN)["run_id"]
    analyse.main([f"run={run_id}", "--landscape", kind, "--span", "0.5", *SMALL_SLICE])
    analyse.main([f"run={run_id}", *SMALL_ANALYSIS])
    (loss_slice,), (result,) = results(folder, "landscape"), results(folder, "analysis")

    assert loss_slice["steps"] == [-0.5, 0.0, 0.5]
    assert loss_slice["settings"]["direction_seeds"] == ([0, 1] if kind == "plane" else [0])
    for name, values in (("loss", loss_slice["losses"]), ("error", loss_slice["errors"])):
        assert len(values) == 3
        if kind == "plane":
            assert [len(row) for row in values] == [3, 3, 3]
        middle = values[1][1] if kind == "plane" else values[1]
        assert middle == result["measures"][name]


def test_slice_between_solutions_is_the_same_reversed(tiny_run, folder):
    sgd, sam = (tiny_run(*RUN, f"optimizer={optimizer}")["run_id"] for optimizer in ("sgd", "sam"))
    analyse.main([f"run={sgd},{sam}", "--landscape", "between", *SMALL_SLICE])
    (forward,) = results(folder, "landscape")
    assert forward["steps"] == [0.0, 0.5, 1.0]
    assert forward["run_ids"] == [sgd, sam]
    assert forward["settings"]["batchnorm"] == "reestimated"

    analyse.main([f"run={sam},{sgd}", "--landscape", "between", *SMALL_SLICE])
    (backward,) = (result for result in results(folder, "landscape") if result["run_ids"] == [sam, sgd])
    assert backward["losses"] == pytest.approx(forward["losses"][::-1], rel=1e-4)


def test_slice_between_different_data_is_refused(tiny_run, folder):
    correct = tiny_run(*SAM_RUN)["run_id"]
    noisy = tiny_run(*SAM_RUN, "data.label_noise=0.4")["run_id"]
    with pytest.raises(SystemExit, match="differ in network or training images"):
        analyse.main([f"run={correct},{noisy}", "--landscape", "between", *SMALL_SLICE])

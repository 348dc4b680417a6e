"""What is said of a finished run's surroundings is of its own weights, and stays."""

import json

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
LITTLE = ["analysis.images=10", "analysis.eigenvalues=0", "analysis.trace_vectors=2", "analysis.radii=[0.1]",
          "analysis.adaptive_radii=[]", "analysis.sigmas=[]", "analysis.adaptive_sigmas=[]"]  # fmt: skip
SMALL = ["--points", "3", *LITTLE]


def read(folder, kind):
    return [json.loads(path.read_text()) for path in sorted((folder / "results" / "smoke" / kind).glob("*.json"))]


def test_a_run_is_measured_once(tiny_run, folder, capsys):
    record = tiny_run(*RUN, "optimizer=sam")
    command = [f"run={record['run_id']}", *LITTLE]
    analyse.main(command)
    ((path,), (found,)) = (list((folder / "results" / "smoke" / "analysis").iterdir()), read(folder, "analysis"))
    assert str(path.relative_to(folder)) in capsys.readouterr().out
    assert list(found["measures"]) == names(compose.compose(["analysis=full", *LITTLE]).analysis)
    assert found["run_ids"] == [record["run_id"]] and found["settings"]["images"] == 10
    written = path.stat().st_mtime_ns
    analyse.main(command)
    assert path.stat().st_mtime_ns == written
    with pytest.raises(SystemExit, match="made with other settings: move it away"):
        analyse.main([*command, "analysis.ascent_steps=2"])
    path.write_text("{")
    with pytest.raises(SystemExit, match="move it away"):
        analyse.main(command)


def test_with_the_statistics_of_each_batch_it_has_a_file_of_its_own(tiny_run, folder):
    run_id = tiny_run(*RUN, "optimizer=sam")["run_id"]
    analyse.main([f"run={run_id}", *LITTLE])
    (before,) = read(folder, "analysis")
    analyse.main([f"run={run_id}", "analysis=batch_statistics", *LITTLE])
    batch, stored = read(folder, "analysis")
    assert stored == before
    assert (folder / "results" / "smoke" / "analysis" / f"{run_id}-batch.json").exists()
    assert (batch["settings"]["batchnorm"], stored["settings"]["batchnorm"]) == ("batch", "stored")
    assert batch["measures"]["loss"] != stored["measures"]["loss"] and "m_sharpness_0.1" in batch["measures"]


def test_weights_are_the_kept_ones_where_there_are_any(tiny_run, folder):
    record = tiny_run(*RUN, "optimizer=sam")
    analyse.main([f"run={record['run_id']}", *LITTLE])
    weights.main(["--experiment", "smoke"])
    for path in (folder / "runs" / "smoke" / record["run_id"]).glob("*.pt"):
        path.unlink()
    (found,) = read(folder, "analysis")
    analyse.main([f"run={record['run_id']}", *LITTLE])  # of the same weights: it stays
    (path,) = (folder / "results" / "smoke" / "weights").glob("*.pt")
    torch.save({name: value * 2 for name, value in torch.load(path, weights_only=True).items()}, path)
    with pytest.raises(SystemExit, match="other weights_sha256"):
        analyse.main([f"run={record['run_id']}", *LITTLE])
    assert read(folder, "analysis") == [found]
    path.write_bytes(b"no tensors")
    with pytest.raises(SystemExit, match="holds no weights"):
        analyse.main([f"run={record['run_id']}", *LITTLE])
    path.unlink()
    with pytest.raises(SystemExit, match=r"neither in .* nor in .*: run it again"):
        analyse.main([f"run={record['run_id']}", *LITTLE])


def test_rows_and_seeds_of_an_experiment(tiny_run, folder):
    runs = {(o, s): tiny_run(*RUN, f"optimizer={o}", f"seed={s}")["run_id"] for o in ("sgd", "sam") for s in (0, 1)}
    analyse.main(["experiment=smoke", "--rows", "SAM", "--seeds", "1", *LITTLE])
    assert [found["run_ids"] for found in read(folder, "analysis")] == [[runs["sam", 1]]]
    analyse.main(["experiment=smoke", "--rows", "SGD; SAM", *LITTLE])
    assert {found["run_ids"][0] for found in read(folder, "analysis")} == set(runs.values())


@pytest.mark.parametrize("kind", ["line", "plane"])
def test_a_slice_has_the_solution_in_its_middle(tiny_run, folder, kind):
    record = tiny_run(*RUN, "optimizer=sam")
    analyse.main([f"run={record['run_id']}", "--landscape", kind, "--span", "0.5", *SMALL])
    (found,) = read(folder, "landscape")
    assert found["steps"] == [-0.5, 0.0, 0.5]
    assert found["settings"]["direction_seeds"] == ([0, 1] if kind == "plane" else [0])
    analyse.main([f"run={record['run_id']}", *LITTLE])
    (measured,) = read(folder, "analysis")
    for name, values in (("loss", found["losses"]), ("error", found["errors"])):
        middle = values[1][1] if kind == "plane" else values[1]
        assert middle == measured["measures"][name]
        assert len(values) == 3 and (kind == "line" or [len(row) for row in values] == [3, 3, 3])


def test_between_two_solutions(tiny_run, folder):
    one, other = (tiny_run(*RUN, f"optimizer={optimizer}")["run_id"] for optimizer in ("sgd", "sam"))
    analyse.main([f"run={one},{other}", "--landscape", "between", *SMALL])
    (found,) = read(folder, "landscape")
    assert found["steps"] == [0.0, 0.5, 1.0] and found["run_ids"] == [one, other]
    assert found["settings"]["batchnorm"] == "reestimated"
    analyse.main([f"run={other},{one}", "--landscape", "between", *SMALL])
    back, there = sorted(read(folder, "landscape"), key=lambda each: each["run_ids"] == [one, other])
    assert back["losses"] == pytest.approx(there["losses"][::-1], rel=1e-4)


def test_wrong_labels_count_as_they_were_trained_on(tiny_run, folder):
    noisy = [*RUN, "optimizer=sgd", "data.label_noise=0.4"]
    record = tiny_run(*noisy)
    analyse.main([f"run={record['run_id']}", *LITTLE, "analysis.images=20"])
    (found,) = read(folder, "analysis")
    config = compose.compose([*TINY, *noisy])
    model = build_network(config).eval()
    model.load_state_dict(last_checkpoint(folder, record["run_id"], "smoke")["training"]["model"])
    train = load_data(config.data).train
    hardware = Hardware(torch.device("cpu"), "fp32")
    predicted = model(fixed_images(config.data, train, 20, hardware).inputs).argmax(1)
    assert train.wrong_labels and len(train) == 20
    assert found["measures"]["error"] == pytest.approx(100 * (predicted != train.labels).double().mean().item())


def test_a_run_without_eigenvalues_is_named_and_the_others_are_measured(tiny_run, folder, monkeypatch, capsys):
    ids = [tiny_run(*RUN, "optimizer=sam", f"seed={seed}")["run_id"] for seed in (0, 1)]
    measured = analysis.measure
    outcomes = iter([NotConverged("no eigenvalues: too many steps"), None])

    def measure(*arguments):
        if error := next(outcomes):
            raise error
        return measured(*arguments)

    monkeypatch.setattr(analysis, "measure", measure)
    with pytest.raises(SystemExit, match="1 of 2 runs: no eigenvalues found"):
        analyse.main(["experiment=smoke", *LITTLE])
    (found,) = read(folder, "analysis")
    (missing,) = set(ids) - set(found["run_ids"])
    assert f"{missing}: no eigenvalues: too many steps" in capsys.readouterr().out


def test_what_has_no_solution_is_left_out_or_refused(tiny_run, folder, capsys):
    lost = tiny_run(*RUN, "optimizer=sgd", "optimizer.base.lr=1e30")
    assert lost["status"] == "diverged"
    average = tiny_run(*RUN, "optimizer=sam", "optimizer/base=schedule_free")
    kept = tiny_run(*RUN, "optimizer=sam")
    for record, words in ((lost, "diverged: it has no solution"), (average, "evaluates an average of the weights")):
        with pytest.raises(SystemExit, match=words):
            analyse.main([f"run={record['run_id']}", *LITTLE])
    analyse.main(["experiment=smoke", *LITTLE])
    assert [found["run_ids"] for found in read(folder, "analysis")] == [[kept["run_id"]]]
    assert capsys.readouterr().out.count("Left out: ") == 2


def test_between_different_networks_there_is_no_way(tiny_run, folder):
    one = tiny_run(*RUN, "optimizer=sam")["run_id"]
    other = tiny_run(*RUN, "optimizer=sam", "data.label_noise=0.4")["run_id"]
    with pytest.raises(SystemExit, match="differ in network or training images"):
        analyse.main([f"run={one},{other}", "--landscape", "between", *SMALL])


@pytest.mark.parametrize(
    ("command", "words"),
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
def test_what_cannot_be_done_is_refused_before_anything_is_written(tiny_run, folder, command, words):
    run_id = tiny_run(*RUN, "optimizer=sam")["run_id"]
    before = everything_below(folder)
    with pytest.raises(SystemExit, match=words):
        analyse.main([word.replace("RUN", run_id) if word.startswith("run=") else word for word in command])
    assert everything_below(folder) == before

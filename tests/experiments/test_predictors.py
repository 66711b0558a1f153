"""What is measured of an experiment's cells: a row each, none twice, none of a cell without a record."""

from experiments.predicting.measure import measure as measure_signs
from experiments.predicting.signs import predictors
from experiments.predictors import FILE, main, measure
from layerpipe2.lab.judging.designs import PIPELINE
from layerpipe2.lab.runs import cell_file
from tests.made_records import record
from tests.small_experiments import UNTUNED, read_rows, small


def made(folder, lr=0.1):
    """An experiment with records of both partitions, but of exact stashing in one alone."""
    changes = {"settings": {"width": 8, "epochs": 4, "batch_size": 128}, "group_sizes": [3, 5], "seeds": [7, 1]}
    grid = small(folder, UNTUNED | changes, optimizer_settings={"sgd": {"lr": lr, "momentum": 0.0}})
    for task in grid.tasks:
        if (task.cell.group, task.cell.strategy) != (5, "stash"):
            path = grid.folder / task.path
            cell_file.write(path, record(task.cell.strategy, task.config.seed) | {"config": task.config.to_dict()})
    return grid


def test_every_cell_with_a_record_of_stash_is_measured_once_with_its_settings(tmp_path, capsys):
    grid = made(tmp_path)
    assert measure(grid) == (1, 1)
    (row,) = read_rows(grid.folder / FILE)
    assert [row[name] for name in PIPELINE] == ["mlp", "digits", "sgd", "0.0", "3", "layerpipe2", "sgd"]
    (task,) = [t for t in grid.tasks if t.cell[3:] == (3, 3, "stash") and t.config.seed == 7]
    expected = predictors(measure_signs(task.config, ["ema-span"]))
    assert {name: float(row[name]) for name in expected} == {n: float(f"{v:.9g}") for n, v in expected.items()}
    assert row["diverged"] == "0"
    before = (grid.folder / FILE).read_bytes()
    main([str(tmp_path / "small.yaml"), "--out", str(grid.folder)])
    assert capsys.readouterr().out.startswith("1 cells of small in ")
    assert (grid.folder / FILE).read_bytes() == before
    assert measure(made(tmp_path, lr=0.05)) == (1, 1)  # the row of the other rate is not about this cell
    assert [row["lr"] for row in read_rows(grid.folder / FILE)] == ["0.05"]

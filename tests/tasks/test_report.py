"""What a run leaves behind, number by number: tables, lines for logs, pictures."""

import json
import math

import numpy as np
import pytest
from matplotlib.figure import Figure

from metanet.errors import ConfigError
from metanet.tasks.class_report import ClassReport
from metanet.tasks.report import Report, RunFacts, cpu_name, epoch_line, write_whole
from metanet.tasks.scores import classified, score

FACTS = RunFacts("val_tau", 0.5, 3, 10, 1234, 0.25, "a machine")
TRUE = np.array([0.0, 1.0, 2.0, 4.0])
GUESSED = TRUE + np.array([0, 0, 0.5, 0.1])
REPORT = Report("zoo", "test_accuracy", 7, "OperatorMetanet", FACTS, TRUE, GUESSED, TRUE[::-1] + 1.0)
ONES = np.eye(3)[[0, 1, 2, 2, 1]]
CLASSES = ClassReport(
    "zoo", "last_layer", 7, "GaugeMetanet", FACTS, ("a", "b", "c"), np.array([0, 1, 2, 1, 1]),
    0.1 / 3 + 0.9 * ONES, np.full((5, 3), 1 / 3),
)  # fmt: skip


def cells(table):
    return [list(column.cells) for column in table.columns]


def test_the_table_of_a_regression():
    assert cells(REPORT.table()) == [
        ["metanet (OperatorMetanet)", "StatNN"],
        ["1.000", "-1.000"],  # Kendall's tau: the same order, and the other way round
        [f"{1 - (0.25 + 0.01) / 8.75:.3f}", f"{1 - (25 + 4 + 0 + 9) / 8.75:.3f}"],
        [f"{0.6 / 4:.4f}", f"{(5 + 2 + 0 + 3) / 4:.4f}"],
    ]
    assert str(REPORT.table().title) == "zoo: test_accuracy of 4 test nets, seed 7"


def test_scores_by_hand():
    """tau-b of one tie in the predictions: 4 concordant, 1 discordant, 1 tied of 6 pairs."""
    found = score([1.0, 1.0, 3.0, 2.0], [0.0, 1.0, 2.0, 3.0])
    assert found.tau == pytest.approx((4 - 1) / math.sqrt(5 * 6))
    assert found.r2 == pytest.approx(1 - (1 + 0 + 1 + 1) / 5)
    assert found.mae == pytest.approx(3 / 4)
    assert found.count == 4
    assert score([0.5, 0.7], [1.0, 2.0]).tau == pytest.approx(1)
    assert score([0.5], [1.0]).as_dict() == {"tau": None, "r2": None, "mae": 0.5}


def test_class_scores_by_hand():
    probabilities = [[0.7, 0.3, 0.0], [0.4, 0.6, 0.0], [0.5, 0.5, 0.0], [0.0, 0.1, 0.9]]
    found = classified(probabilities, [0, 1, 1, 1])
    assert found.accuracy == pytest.approx(2 / 4)
    assert found.balanced_accuracy == pytest.approx((1 / 1 + 1 / 3) / 2)
    assert found.nll == pytest.approx(-(math.log(0.7) + math.log(0.6) + math.log(0.5) + math.log(0.1)) / 4)
    assert classified([[1.0, 0.0]], [1]).nll == pytest.approx(-math.log(1e-12))
    assert found.as_dict() == {"accuracy": 0.5, "balanced_accuracy": found.balanced_accuracy, "nll": found.nll}
    assert found.count == 4


def test_the_table_of_a_classification():
    right, wrong = -math.log(0.1 / 3 + 0.9), -math.log(0.1 / 3)
    assert cells(CLASSES.table()) == [
        ["metanet (GaugeMetanet)", "StatNN"],
        ["0.800", "0.200"],
        [f"{(1 + 2 / 3 + 1) / 3:.3f}", "0.333"],
        [f"{(4 * right + wrong) / 5:.3f}", f"{math.log(3):.3f}"],
    ]
    assert str(CLASSES.table().title) == "zoo: last_layer of 5 test nets, seed 7"


def test_the_picture_of_a_regression():
    figure = Figure()
    REPORT.draw(figure)
    left, right = figure.axes
    low, high = 0.0, 5.0  # of all values: StatNN's predictions lie between 1 and 5
    for axes, values in ((left, REPORT.metanet), (right, REPORT.statnn)):
        (line,), (points,) = axes.lines, axes.collections
        assert line.get_xydata().tolist() == [[low, low], [high, high]]
        np.testing.assert_allclose(points.get_offsets(), np.column_stack([TRUE, values]))
        assert points.get_zorder() > line.get_zorder(), "points lie over the line"
        assert axes.get_xlim() == axes.get_ylim() == pytest.approx((low - 0.04 * 5, high + 0.04 * 5))
        assert axes.get_xlabel() == "true test accuracy"
    assert left.get_ylabel() == "predicted test accuracy"
    assert [a.get_title() for a in (left, right)] == [
        "OperatorMetanet: Kendall tau 1.000",
        "StatNN: Kendall tau -1.000",
    ]
    assert figure.get_suptitle() == "zoo: 4 test nets"


def test_the_picture_of_a_classification():
    figure = Figure()
    CLASSES.draw(figure)
    left, right, bar = figure.axes
    found = [axes.images[0].get_array().tolist() for axes in (left, right)]
    assert found[0] == [[1, 0, 0], [0, pytest.approx(2 / 3), pytest.approx(1 / 3)], [0, 0, 1]]
    assert found[1] == [[1, 0, 0]] * 3, "of equal probabilities the first is told"
    assert [axes.images[0].get_clim() for axes in (left, right)] == [(0, 1)] * 2
    for axes in (left, right):
        assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b", "c"]
        assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b", "c"]
        assert {label.get_rotation() for label in axes.get_xticklabels()} == {0}
        assert axes.get_xlabel() == "predicted last layer"
    assert left.get_ylabel() == "true last layer"
    assert [a.get_title() for a in (left, right)] == ["GaugeMetanet: accuracy 0.800", "StatNN: accuracy 0.200"]
    assert bar.get_ylabel() == "share of the true class"
    assert figure.get_suptitle() == "zoo: 5 test nets"


@pytest.mark.parametrize(("count", "name", "shown"), [(20, "c{}", True), (21, "c{}", False), (3, "class {}", True)])
def test_classes_are_named_where_there_is_room(count, name, shown):
    """Twenty at most; long names stand upright."""
    numbers, names = np.arange(count), tuple(name.format(i) for i in range(count))
    report = ClassReport("zoo", "c", 0, "M", FACTS, names, numbers, np.eye(count), np.eye(count))
    figure = Figure()
    report.draw(figure)
    labels = figure.axes[0].get_xticklabels()
    assert ([label.get_text() for label in labels] == list(names)) == shown
    if shown:
        assert {label.get_rotation() for label in labels} == {90 if len(names[0]) > 2 else 0}


def test_files(tmp_path):
    files = REPORT.write(tmp_path)
    assert [f.name for f in files] == ["metrics.json", "predicted.png", "predicted.svg"]
    content = json.loads(files[0].read_text())
    assert content["seed"] == 7
    assert content["zoo"] == "zoo"
    assert content["run"]["epoch"] == 3
    assert content["metanet"] == REPORT.scores()["metanet"].as_dict()
    assert content["statnn"]["tau"] == -1
    head = files[1].read_bytes()[:24]
    assert head[1:4] == b"PNG"
    assert [int.from_bytes(head[i : i + 4]) for i in (16, 20)] == [9 * 150, 4.6 * 150]
    assert b"<svg" in files[2].read_bytes()[:1000]
    assert sorted(f.name for f in tmp_path.iterdir()) == sorted(f.name for f in files)


def test_what_cannot_be_written_leaves_nothing_behind(tmp_path):
    (tmp_path / "metrics.json").mkdir()
    with pytest.raises(ConfigError, match=r"Cannot write .*metrics.json"):
        write_whole(tmp_path / "metrics.json", b"{}")
    assert [f.name for f in tmp_path.iterdir()] == ["metrics.json"]


def test_lines_for_logs():
    assert epoch_line(2, 10, 44, {"val_tau": 0.25, "a": 1}) == "epoch 2/10  step 44  val_tau=0.2500  a=1.0000"
    assert epoch_line(2, -1, 44, {}).startswith("epoch 2/?  step 44")
    assert epoch_line(2, None, 44, {}).startswith("epoch 2/?")
    assert epoch_line(1, 1, 4, {}).startswith("epoch 1/1 ")


def test_the_processor_has_a_name():
    assert cpu_name().strip() == cpu_name() != ""

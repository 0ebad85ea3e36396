import pytest

from perception_node.bag_tests.checks import Checks, parse_limit
from perception_node.errors import UserError


@pytest.mark.parametrize(
    ("tolerances", "path", "limit"),
    [
        ({}, "instances.detections.results.hypothesis.score", 0.001),
        ({}, "instances.detections.bbox.center.position.x", 0.5),  # a box first of all, not a position
        ({}, "instances.header.frame_id", -1),
        ({"score": 0.1}, "instances.detections.results.hypothesis.score", 0.1),
        ({"score": 0.1, "instances.score": 0.2}, "instances.detections.results.hypothesis.score", 0.2),
        ({"position": 3, "score": 0.1}, "instances.detections.bbox.center.position.x", 3),  # the user's first
        ({"score.instances": 7}, "instances.detections.results.hypothesis.score", 0.001),  # in another order
        ({"class_map": 1}, "class_map.pixels", -1),
        ({"class_map.pixels": 1}, "class_map.pixels", 1),
        ({"pixels": 1, "confidence.pixels": 2}, "class_map.pixels", 1),
        ({"pixels": 1, "confidence.pixels": 2}, "confidence.pixels", 2),
        ({"pixels": 1}, "class_map", -1),
    ],
)
def test_the_tolerance_of_a_field(tolerances, path, limit):
    assert Checks(tolerances).tolerance(tuple(path.split(".")), -1) == limit


def test_budgets_are_upper_limits_but_for_the_peak_rate():
    checks = Checks({}, {"network.p95": 40, "total.p50": 9, "15hz.loss": 0.05, "peak.hz": 20, "nothing.p50": 1})
    assert checks.rates_hz == (10, 15, 30, 60)
    figures = {"network": {"p95": 40.0}, "total": {"p50": 9.1}, "15hz": {"loss": 0.06}, "peak": {"hz": 19.9}}
    found = checks.over_budget(figures)
    assert [(budget["name"], budget["ok"]) for budget in found] == [
        ("network.p95", True),
        ("total.p50", False),
        ("15hz.loss", False),
        ("peak.hz", False),
        ("nothing.p50", False),
    ]
    assert found[-1]["value"] is None


@pytest.mark.parametrize(
    ("tolerances", "budgets", "message"),
    [
        ({"scroe": 1}, {}, "tolerance 'scroe': no results have a field 'scroe'; expected: such as score"),
        ({"instances.scroe": 1}, {}, "tolerance 'instances.scroe': no results have a field 'scroe'"),
        ({}, {"network": 1}, "budget 'network': expected: "),
        ({}, {"network.p90": 1}, "budget 'network.p90': expected"),
        ({}, {"network.loss": 1}, "budget 'network.loss': expected"),
        ({}, {"peak.p95": 1}, "budget 'peak.p95': expected"),
    ],
)
def test_what_there_is_not_is_refused(tolerances, budgets, message):
    with pytest.raises(UserError) as caught:
        Checks(tolerances, budgets)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("text", ["score", "score=", "=1", "score=-1", "score=nan", "score=inf", "score=much"])
def test_a_limit_is_a_name_and_a_number(text):
    with pytest.raises(UserError, match="expected: NAME=NUMBER"):
        parse_limit("--tolerance", text)


def test_checks_of_a_file(tmp_path):
    path = tmp_path / "checks.yaml"
    path.write_text("tolerances: {score: 0.01}\nbudgets:\n  network.p95: 40\n")
    checks = Checks.from_yaml(path).updated({"bbox": 1.0}, {"network.p95": 50.0})
    assert (checks.tolerances, checks.budgets) == ({"score": 0.01, "bbox": 1.0}, {"network.p95": 50.0})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tolerances: {score: -1}", "checks.yaml:1: tolerances.score: -1 is less than the minimum"),
        ("budgets:\n  network.p95: fast", "checks.yaml:2: budgets.network.p95: 'fast' is not of type 'number'"),
        ("tolerance: {}", "checks.yaml:1: the file: Additional properties are not allowed"),
        ("tolerances: {scroe: 1}", "checks.yaml: tolerance 'scroe'"),
        ("", "checks.yaml:1: the file: None is not of type 'object'"),
        ("a: [", "checks.yaml: not valid YAML"),
    ],
)
def test_a_wrong_file_is_named_with_its_line(tmp_path, text, message):
    path = tmp_path / "checks.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        Checks.from_yaml(path)
    assert message in str(caught.value)

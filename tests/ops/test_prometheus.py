"""The rules: they are correct, they fire, and they name what there is."""

import re
from pathlib import Path

import pytest

from tests.ops.promql import ROOT, RULES, known, names, promtool, rule_queries

ALERTS = re.split(r"^      - alert: ", RULES[1].read_text(), flags=re.MULTILINE)[1:]
TESTS = (ROOT / "prometheus" / "alerts_test.yml").read_text()


@pytest.mark.parametrize("arguments", [("test", "rules", "alerts_test.yml"), ("check", "config", "prometheus.yml")])
def test_promtool_finds_no_fault(arguments: tuple[str, ...]) -> None:
    promtool(*arguments, directory=ROOT / "prometheus")


@pytest.mark.parametrize("rules", RULES, ids=lambda path: path.stem)
def test_a_rule_names_only_metrics_that_exist(rules: Path, tmp_path: Path) -> None:
    named = {query: names(query) for query in rule_queries(rules)}
    assert all(named.values())
    assert {query: unknown for query, found in named.items() if (unknown := found - known(tmp_path))} == {}


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.partition("\n")[0])
def test_an_alert_says_what_it_means_and_where_to_read_on(alert: str) -> None:
    name = alert.partition("\n")[0]
    assert re.fullmatch(r"Recommender([A-Z][a-z]+)+", name)
    assert re.search(r"severity: (page|ticket)}", alert)
    for annotation in ("summary: .", "description: >-\n +[A-Z]", rf"runbook_url: docs/operations\.md#{name.lower()}\n"):
        assert re.search(rf"^ +{annotation}", alert, re.MULTILINE)


def test_every_rule_is_tried_on_a_fault_or_a_value() -> None:
    alerts = [alert.partition("\n")[0] for alert in ALERTS]
    recorded = re.findall(r"- record: (\S+)", RULES[0].read_text())
    assert [alert for alert in alerts if f'alertname="{alert}"' not in TESTS] == []
    assert [name for name in recorded if not re.search(rf"expr: '?(round\()?{name}\b", TESTS)] == []

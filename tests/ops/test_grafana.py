"""The dashboards: every query is one, names what there is, and what there is to see is shown."""

import json
from itertools import chain
from pathlib import Path
from typing import Any

from tests.ops.promql import ROOT, RULES, known, names, promtool, rule_queries, samples, worker_metrics

DASHBOARDS = [json.loads(path.read_text()) for path in sorted((ROOT / "grafana" / "dashboards").glob("*.json"))]
PANELS: list[dict[str, Any]] = [panel for dashboard in DASHBOARDS for panel in dashboard["panels"]]
QUERIES = [target["expr"] for panel in PANELS for target in panel.get("targets", [])]


def test_a_query_names_only_metrics_that_exist(tmp_path: Path) -> None:
    assert len(QUERIES) >= len(PANELS) / 2
    named = {query: names(query) for query in QUERIES}
    assert all(named.values())
    assert {query: unknown for query, found in named.items() if (unknown := found - known(tmp_path))} == {}


def test_every_metric_of_a_worker_is_on_a_dashboard_or_in_a_rule(tmp_path: Path) -> None:
    used = set[str]().union(*map(names, [*QUERIES, *chain.from_iterable(map(rule_queries, RULES))]))
    assert [metric.name for metric in worker_metrics(tmp_path) if not samples(metric) & used] == []


def test_prometheus_understands_every_query(tmp_path: Path) -> None:
    rules = [{"record": f"query_{number}", "expr": query} for number, query in enumerate(QUERIES)]
    # JSON is YAML
    (tmp_path / "queries.yml").write_text(json.dumps({"groups": [{"name": "dashboards", "rules": rules}]}))
    promtool("check", "rules", "queries.yml", directory=tmp_path)


def test_a_panel_has_a_title_a_meaning_and_the_provisioned_data_source() -> None:
    assert "uid: prometheus" in (ROOT / "grafana" / "provisioning" / "datasources" / "prometheus.yml").read_text()
    for panel in PANELS:
        assert panel["title"]
        if panel["type"] != "row":
            assert panel["description"].endswith(".")
            assert panel["datasource"] == {"type": "prometheus", "uid": "prometheus"}


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in PANELS:
        place = panel["gridPos"]
        cells = {(place["x"] + dx, place["y"] + dy) for dx in range(place["w"]) for dy in range(place["h"])}
        assert not taken & cells, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells

"""A derivation as text, and its graphs in every format of ``layerpipe2 derive --export``."""

import json

import networkx as nx
import pytest

from layerpipe2.cli.derivation_text import FORMATS, explain, export
from layerpipe2.errors import UserError
from layerpipe2.theory import derive, prove


def test_report_tables_and_exports():
    derivation = derive(3, convention="pipedream")
    report = explain(derivation)
    assert "step 2t" in report
    assert "3 take a delayed gradient" in report
    assert "step 4.3" not in explain(derive(6))
    assert report.count("[holds]") == len(prove(derivation))
    graph = derivation.pipeline
    assert export(graph, "table").splitlines()[1].split() == ["0", "0", "0", "1", "6", "0", "0", "5", "5"]
    assert len(export(graph, "edges").splitlines()) == 1 + len(list(graph.edges))
    data = json.loads(export(graph, "json"))
    assert {(e["source"], e["target"], e["kind"]): e["registers"] for e in data["edges"]} == graph.registers
    again = nx.parse_graphml(export(graph, "graphml"), force_multigraph=True)
    assert sum(again.edges[e]["registers"] for e in again.edges) == sum(graph.registers.values())
    assert '"U0" -> "A0" [kind="history", label="6D"]' in export(graph, "dot")
    assert set(FORMATS) == {"table", "edges", "dot", "json", "graphml"}


def test_unknown_format():
    with pytest.raises(UserError, match="unknown graph format 'png'"):
        export(derive(2).pipeline, "png")

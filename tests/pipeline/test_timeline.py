"""Time stamps of a real pipeline: the processes work at the same time, and Chrome can show it."""

import json
from itertools import pairwise

from layerpipe2.pipeline.strategy import PipelineStrategy
from layerpipe2.pipeline.timeline import Span, SpanRecorder, chrome_trace
from tests.pipeline import processes
from tests.pipeline.fits import Case


def events(case, limit=10_000, **options):
    strategy = PipelineStrategy(timeline=SpanRecorder(limit), **options)
    case(strategy)
    return strategy.events


def test_every_task_of_every_stage_is_there_in_order():
    ranks = processes.run(events, 2, Case())[0]
    for rank, found in enumerate(ranks):
        assert {event.stage for event in found} == {2 * rank, 2 * rank + 1}
        for what in ("forward", "backward", "weights"):
            for stage in (2 * rank, 2 * rank + 1):
                mine = [event for event in found if (event.what, event.stage) == (what, stage)]
                assert [event.batch for event in mine] == list(range(15))
                assert all(a.start < a.stop <= b.start for a, b in pairwise(mine))


def test_no_more_than_the_limit_is_kept():
    assert [len(found) for found in processes.run(events, 2, Case(), 7)[0]] == [7, 7]


def test_time_stamps_tell_what_is_computed_again():
    ranks = processes.run(events, 2, Case("stash", network="residual", epochs=1), recompute_activations=True)[0]
    last = [event for rank in ranks for event in rank]
    again = {(e.stage, e.batch): e for e in last if e.what == "recompute"}
    assert {batch for _, batch in again} == set(range(5))
    assert 0 < len({stage for stage, _ in again}) <= max(event.stage for event in last)  # the last one has no delay
    for event in last:
        if event.what == "backward" and (event.stage, event.batch) in again:
            assert again[event.stage, event.batch].stop <= event.start


def test_chrome_trace():
    ranks = [[Span("forward", 0, 3, 5_000, 9_000)], [Span("wait", 1, 2, 4_000, 5_000)]]
    found = json.loads(chrome_trace(ranks))["traceEvents"]
    assert [e["args"]["name"] for e in found if e["ph"] == "M"] == ["rank 0", "rank 1"]
    assert {"name": "forward 3", "cat": "forward", "ph": "X", "pid": 0, "tid": 0, "ts": 1.0, "dur": 4.0} in found
    assert json.loads(chrome_trace([[]]))["traceEvents"][0]["pid"] == 0

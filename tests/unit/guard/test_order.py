"""Which queue a worker looks into first."""

from kombu.utils.scheduling import cycle_by_name

from superset_fleet.guard.order import QueriesFirst

QUEUES = ["thumbnails", "sql_lab", "reports", "charts"]


def test_a_waiting_query_goes_before_any_waiting_report() -> None:
    assert QueriesFirst(QUEUES.copy()).consume(4) == ["sql_lab", "charts", "thumbnails", "reports"]


def test_queues_of_queries_take_turns_and_so_do_those_of_reports() -> None:
    cycle = QueriesFirst(QUEUES.copy())
    cycle.rotate("sql_lab")
    cycle.rotate("thumbnails")
    assert cycle.consume(4) == ["charts", "sql_lab", "reports", "thumbnails"]


def test_a_queue_that_came_or_went_is_known() -> None:
    cycle = QueriesFirst(QUEUES.copy())
    cycle.update({"reports"})
    assert cycle.consume(1) == ["reports"]


def test_kombu_takes_it_for_the_order_of_queues() -> None:
    assert cycle_by_name("superset_fleet.guard.order:QueriesFirst") is QueriesFirst

"""What Superset itself does of which the guard knows better."""

import pytest

from superset_fleet.control.superset import SupersetError
from tests.support.deployed.fleet import Fleet
from tests.support.deployed.users import User


def test_sql_that_superset_refuses_is_failed_at_once_with_what_its_user_was_told(
    fleet: Fleet, user: User
) -> None:
    query = user.send("select (1 as one")
    assert (query.status, query.http_status) == ("refused", 422)
    row = fleet.ledger.ends([query.client_id])[query.client_id]
    assert row["status"] == "failed"
    assert "Error parsing near 'one'" in row["error_message"]
    assert row["error_message"] in query.error


@pytest.mark.usefixtures("both")
def test_a_client_id_that_names_another_query_is_refused_in_words(fleet: Fleet, user: User) -> None:
    (query,) = user.wait([user.send("select 1 as one")])
    with pytest.raises(SupersetError, match=f"The client_id '{query.client_id}' was used") as error:
        user.superset.ask(
            "send it again",
            "POST",
            "/api/v1/sqllab/execute/",
            {
                "database_id": user.database_id,
                "sql": "select 2 as two",
                "client_id": query.client_id,
            },
        )
    assert error.value.status == 409
    assert fleet.ledger.ends([query.client_id])[query.client_id]["status"] == "success"


@pytest.mark.usefixtures("both")
def test_a_chart_is_found_that_is_sorted_by_a_metric_of_one_s_own_sql(
    fleet: Fleet, user: User, dataset: int
) -> None:
    fleet.pace("chart", 0)
    metric = {"expressionType": "SQL", "sqlExpression": "count(*)", "label": "how many"}
    chart = user.ask_chart(dataset, "seconds", metrics=[metric], orderby=[[metric, False]])
    event = user.wait_for_chart(chart)
    assert user.chart_rows(event) == [{"seconds": 0, "how many": 1}]

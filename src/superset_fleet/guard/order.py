"""Which queue a worker looks into first."""

from __future__ import annotations

from kombu.utils.scheduling import round_robin_cycle

from ..state.jobs import BROWSER_QUEUES


class QueriesFirst(round_robin_cycle):  # type: ignore[misc]
    """Queues take turns, but what needs a browser waits for as long as anything else does.

    For kombu's option `queue_order_strategy`. A worker that takes from all queues so gives each
    slot that becomes free to a query, where one waits.
    """

    def consume(self, n: int) -> list[str]:
        """Return the next n queues, in the order in which they are looked into."""
        return sorted(super().consume(n), key=lambda queue: queue in BROWSER_QUEUES)

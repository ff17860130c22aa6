"""The README's table of clients has the rows there are, and none of them fails."""

import unittest

from lib import table


class Clients(unittest.TestCase):
    """The table that `tests/run clients --table` wrote last."""

    def test_every_client_has_its_row(self) -> None:
        wanted = [*(client.name for client in table.CLIENTS), *(name for name, _ in table.RECORDED.values())]
        self.assertEqual(wanted, list(table.rows(table.block())))

    def test_no_row_tells_of_a_failure(self) -> None:
        for line in table.rows(table.block()).values():
            self.assertNotIn(table.FAILED, line)
            self.assertNotIn("not run", line)

"""`trs demo`: the main job on embedded parts, step by step, with what one is seeing.

Stack up → a synthetic TRS into MariaDB → snapshot to Kafka → worker → features in Delta on S3 → some invoices are paid,
a price changes, an invoice is issued → just these rows again → features as of before and after, compared.
"""

import os
import subprocess
import sys
import time
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

from rich.console import Console
from rich.table import Table as RichTable

from app.bootstrap import snapshot
from app.lake_session import LakeSession
from app.settings import Settings, load_settings
from app.wiring import kafka_config
from batch_bootstrap.changes import change_price, pay_invoices
from batch_bootstrap.emit import Touched, emit_rows
from batch_bootstrap.generate import Generated
from connectors.kafka import Producer
from connectors.mysql import Connection, connect, ddl, execute, load_rows, query
from connectors.mysql_source import MySqlSource
from devstack.stack import Stack
from processors.errors import TrsError
from processors.features.declarations import INVOICE_FEATURES
from processors.tables import INVOICE_LINE_ITEMS, INVOICES, TABLES

UNPAID = 5


class Demo:
    """One demonstration below one folder. `invoices`: size of the synthetic TRS."""

    def __init__(self, home: Path, *, invoices: int, seed: int) -> None:
        self._home = home
        self._invoices = invoices
        self._seed = seed
        self._console = Console(highlight=False, soft_wrap=True)
        self._began = time.monotonic()
        self._steps = 0

    def run(self, *, keep: bool) -> None:
        """Runs all steps; ends the stack afterwards unless it is to be kept. Raises TrsError when a step fails."""
        stack = Stack(self._home)
        self._step("Stack up: Kafka, a MariaDB server and an S3 server, from pip-installable parts alone")
        stack.down(wipe=True)
        environment = stack.up(report=lambda part, message: self._say(f"{part} {message}"))
        os.environ.update(environment, TRS_HOME=str(self._home))
        settings = load_settings()
        try:
            self._main_job(settings)
        finally:
            if not keep:
                stack.down(wipe=True)
        self._console.print(f"\n[bold green]done[/bold green] in {time.monotonic() - self._began:.0f} s")
        if keep:
            self._say(f"the stack goes on: export TRS_HOME={self._home}, then trs status, trs sql …, trs devstack down")

    def _main_job(self, settings: Settings) -> None:
        if settings.database is None:
            raise TrsError("the stack names no database")
        source = MySqlSource(settings.database.get_secret_value(), TABLES, chunk_rows=50_000)
        connection = connect(source.url, autocommit=False)
        try:
            self._fill(connection)
            self._step("Bootstrap: every row of the database as a row event on the four Kafka topics (op r)")
            summary = snapshot(
                settings,
                "mysql",
                stopped=lambda: False,
                report=lambda _table, _rows, _estimate: None,
                announce=self._say,
            )
            self._say(", ".join(f"{name} {t.rows:,}" for name, t in summary.progress.tables.items()))
            self._work(settings, "rows → invoice documents → features, committed to Delta on S3")
            before = self._look(settings)
            self._step("At the source: invoices are paid late, a price doubles, an invoice is issued at the new price")
            source.preflight()
            touched = self._change(connection)
            producer = Producer(kafka_config(settings))
            sent = emit_rows(
                touched,
                source,
                connection,
                producer,
                topic_prefix=settings.topic_prefix,
                source_name=settings.source_names[-1],
            )
            producer.close()
            self._say(f"{sent} rows sent again: just those that changed (with CDC on, Debezium would send them)")
            self._work(settings, "only the accounts that were touched are computed again")
            self._compare(settings, before)
        finally:
            connection.close()
            source.close()

    def _fill(self, connection: Connection) -> None:
        self._step(f"A synthetic TRS of {self._invoices:,} invoices into MariaDB (seed {self._seed})")
        with Generated(self._invoices, seed=self._seed) as generated:
            for table in TABLES:
                execute(connection, ddl(table))
                count = sum(load_rows(connection, table, rows) for rows in generated.rows(table))
                connection.commit()
                self._say(f"{table.name}: {count:,} rows")

    def _work(self, settings: Settings, what: str) -> None:
        self._step(f"Worker: {what}")
        command = [sys.executable, "-m", "app.cli.main", "worker", "--until-caught-up"]
        done = subprocess.run(
            command, env=os.environ | {"TRS_WEB_PORT": "0"}, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise TrsError(f"the worker ended with {done.returncode}:\n{done.stderr[-2000:]}")
        self._say(next((line for line in done.stderr.splitlines() if line.startswith("caught up")), ""))

    def _look(self, settings: Settings) -> datetime:
        with LakeSession(settings) as session:
            session.create_views(["invoice_features", "accounts", "invoices"])
            ((rows, revenue, late),) = session.con.sql(
                "SELECT count(*), sum(inv_total), sum(is_late) FROM invoice_features"
            ).fetchall()
            self._say(f"invoice_features: {rows:,} rows, total {revenue:,.2f}, {late:,} paid late")
        return datetime.now(UTC)

    def _change(self, connection: Connection) -> list[Touched]:
        unpaid = query(
            connection,
            "SELECT i.invoice_id, i.account_id FROM invoices i JOIN invoice_line_items l USING (invoice_id)"
            f" WHERE payment_dates IS NULL GROUP BY 1, 2 ORDER BY 1 LIMIT {UNPAID}",
        )
        today = datetime.now(UTC).date()
        touched = pay_invoices(connection, [number for number, _ in unpaid], today)
        self._say(f"paid today: invoices {', '.join(str(number) for number, _ in unpaid)}")
        ((item, price),) = query(
            connection,
            "SELECT s.item_id, s.item_retail_price FROM skus s JOIN invoice_line_items l USING (item_id)"
            " GROUP BY 1, 2 ORDER BY count(*) DESC, 1 LIMIT 1",
        )
        touched += change_price(connection, item, Decimal(price) * 2)
        self._say(
            f"price of {item}: {price:.2f} → {Decimal(price) * 2:.2f}; issued invoices keep what they were charged"
        )
        return touched + self._issue(connection, unpaid[0][1], item, today)

    def _issue(self, connection: Connection, account: int, item: str, today: date) -> list[Touched]:
        ((number,),) = query(connection, "SELECT max(invoice_id) + 1 FROM invoices")
        execute(connection, "INSERT INTO invoices VALUES (%s, %s, %s, NULL)", (number, account, today))
        execute(connection, "INSERT INTO invoice_line_items VALUES (%s, %s, 3)", (number, item))
        connection.commit()
        self._say(f"issued: invoice {number} of account {account}, 3 x {item}")
        line = (number, item)
        return [Touched(INVOICES, (number,), created=True), Touched(INVOICE_LINE_ITEMS, line, created=True)]

    def _compare(self, settings: Settings, before: datetime) -> None:
        self._step(f"Features as of {before:%H:%M:%S} UTC, before the changes, against now")
        after = datetime.now(UTC) + timedelta(milliseconds=1)
        with LakeSession(settings) as session:
            found = session.compare(INVOICE_FEATURES, before, after)
            old = session.as_of(INVOICE_FEATURES, before)
            new = session.as_of(INVOICE_FEATURES, after)
            changed = session.con.sql(f"""
                SELECT n.inv_id, o.inv_total, n.inv_total, o.is_late, n.is_late, o.cum_tot_inv_acct, n.cum_tot_inv_acct
                FROM ({new}) AS n LEFT JOIN ({old}) AS o ON n.inv_id = o.inv_id
                WHERE o.inv_id IS NULL OR o.is_late <> n.is_late OR o.inv_total <> n.inv_total
                  OR o.cum_tot_inv_acct <> n.cum_tot_inv_acct
                ORDER BY n.inv_id
            """).fetchall()
        table = RichTable(
            box=None, padding=(0, 2, 0, 0), collapse_padding=True, pad_edge=False, header_style="bold"
        )  # without a frame it fits into 80 columns
        for name in ("inv_id", "inv_total before", "after", "is_late before", "after", "cum_tot before", "after"):
            table.add_column(name, justify="right")
        for row in changed:
            table.add_row(*("-" if v is None else f"{v:,.2f}" if isinstance(v, Decimal) else str(v) for v in row))
        self._console.print(table)
        same = found.before - found.removed - found.changed
        self._say(f"added {found.added}, removed {found.removed}, changed {found.changed}, as before {same:,}")

    def _step(self, text: str) -> None:
        self._steps += 1
        seconds = time.monotonic() - self._began
        self._console.print(f"\n[bold cyan]{self._steps}[/bold cyan] [bold]{text}[/bold] [dim]({seconds:.0f} s)[/dim]")

    def _say(self, text: str) -> None:
        self._console.print(f"  {text}", markup=False)

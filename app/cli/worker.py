"""`trs worker`: the program that keeps the lake up to date."""

from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command(
        epilog="Example: trs worker --until-caught-up   (in production: trs worker --wait, as many as you like)"
    )(worker)


def worker(
    until_caught_up: Annotated[
        bool,
        typer.Option(
            "--until-caught-up", help="End once all that is in the topics now is committed, its documents included."
        ),
    ] = False,
    accept_gap: Annotated[
        bool,
        typer.Option(
            "--accept-gap", help="Go on although Kafka lost or deleted records that the lake has not read; logs which."
        ),
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for Kafka, or the lake's store, where it does not answer at the start.")
    ] = False,
    interval: Annotated[
        float | None, typer.Option(min=0.05, max=3600, help="Seconds between commits, instead of TRS_EPOCH_INTERVAL_S.")
    ] = None,
    max_events: Annotated[
        int | None, typer.Option(min=1, help="Events per commit at most, instead of TRS_EPOCH_MAX_EVENTS.")
    ] = None,
    web_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port of the pages, instead of TRS_WEB_PORT; 0: a free one.")
    ] = None,
) -> None:
    """Read row changes from Kafka and keep the lake's tables up to date.

    Runs until it is stopped (SIGTERM: finishes its commit and leaves the group). Any number of workers may run: they
    share the partitions, and take over from one that dies. Pages: / for people, /health, /ready, /metrics,
    /status.json.
    """
    from app.memory import plan_of, share_heaps
    from app.run_worker import run_worker
    from app.settings import load_settings
    from app.wiring import build_engine, store_watch

    given = {"epoch_interval_s": interval, "epoch_max_events": max_events, "web_port": web_port}
    settings = load_settings(**{name: value for name, value in given.items() if value is not None})
    plan = plan_of(settings)
    share_heaps()
    settings = settings.model_copy(update={"memory_mb": plan.state_mb})
    with store_watch(settings) as store:
        run_worker(
            settings,
            lambda topic_ids: build_engine(settings, topic_ids, plan),
            plan=plan,
            until_caught_up=until_caught_up,
            accept_gap=accept_gap,
            wait=wait,
            store=store,
        )

"""A PostgreSQL server that is there, and says nothing."""

import time
from contextlib import ExitStack

import pytest
from sqlalchemy import text

import service.postgresql
from service.databases import Database
from service.errors import StoreError
from service.postgresql import ImpatientConnection
from service.targets import TargetStore
from tests.service.bundles import FAN_0
from tests.service.postgres import Postgres

SILENT_S = 2.0
NOISE_S = 15.0
"""Two attempts to connect at three seconds each, on a machine that has much else to do."""


@pytest.fixture
def url(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> str:
    """A database with its tables, whose silence is noticed soon from here on."""
    made = postgres.new_database()
    Database(made).close()
    monkeypatch.setattr(service.postgresql, "ANSWERS_S", SILENT_S)
    monkeypatch.setattr(service.postgresql, "WRITES_S", SILENT_S)
    monkeypatch.setattr(ImpatientConnection, "patience_s", SILENT_S)
    return made


def write_half_and_freeze(database: Database, postgres: Postgres) -> None:
    with database.writing() as connection:
        connection.execute(text("CREATE TABLE half (id int)"))
        with postgres.frozen():
            connection.execute(text("SELECT 1"))


def test_a_frozen_server_is_noticed_and_asked_again(postgres: Postgres, url: str) -> None:
    """`StoreError` within seconds, for who asks and for who is in the midst of writing; later it serves as before."""
    with TargetStore(url, patience_s=1.0) as store:
        assert store.state() is not None
        with postgres.frozen():
            begun = time.monotonic()
            with pytest.raises(StoreError, match="cannot be used"):
                store.state()
            assert time.monotonic() - begun < SILENT_S + NOISE_S
        assert store.versions(FAN_0) == []
        database = store._database
        with pytest.raises(StoreError, match="has not answered for"):
            write_half_and_freeze(database, postgres)
        with database.reading() as connection:
            assert connection.scalar(text("SELECT to_regclass('half')")) is None
        assert store.withdraw(FAN_0)[0] is False


def test_a_commit_that_a_frozen_server_does_not_answer_is_in_doubt(postgres: Postgres, url: str) -> None:
    """It may come through when the server goes on, and so the error does not say that nothing was done."""
    database = Database(url, patience_s=1.0)
    with ExitStack() as stack, pytest.raises(StoreError, match="may have been done") as refused:
        write_and_freeze(database, postgres, stack)
    assert refused.value.in_doubt
    database.close()


def write_and_freeze(database: Database, postgres: Postgres, until: ExitStack) -> None:
    with database.writing() as connection:
        connection.execute(text("CREATE TABLE half (id int)"))
        until.enter_context(postgres.frozen())


@pytest.mark.alone
def test_a_server_that_works_is_not_taken_for_a_silent_one(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is large or takes its time within the limits is waited for; the server itself gives up after them."""
    monkeypatch.setattr(service.postgresql, "ANSWERS_S", 3.0)  # so much later than the server do we give up
    database = Database(url, patience_s=4.0)
    with database.writing() as connection:
        connection.execute(text("SELECT pg_sleep(3.2)"))
        assert connection.scalar(text("SHOW statement_timeout")) == "6s"
        assert len(connection.scalar(text("SELECT repeat('x', 50000000)")) or "") == 50_000_000
    with pytest.raises(StoreError, match="statement timeout"), database.writing() as connection:
        connection.execute(text("SELECT pg_sleep(30)"))
    database.close()

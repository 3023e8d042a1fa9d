"""The SQLite store: WAL mode, foreign processes wait for each other, writes serialised and durable."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, event, insert, inspect, select
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from sealvm.authority.ports import Transaction
from sealvm.authority.sql import tables
from sealvm.authority.sql.transaction import SqlTransaction
from sealvm.errors import ConflictError, NotFoundError, StorageFault

BUSY_SECONDS = 20


class SqlStore:
    """A store in one SQLite file. Implements authority.ports.Store; safe for use from many threads and processes."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise NotFoundError(f"authority database {path} does not exist", hint="run `sealvm authority init` first")
        self._path = path
        self._engine = _engine(path)
        with self._translated(), self._engine.connect() as connection:
            found = connection.execute(select(tables.schema.c.version)).scalar_one()
        if found != tables.SCHEMA_VERSION:
            raise ConflictError(f"authority database {path} has schema {found}, expected {tables.SCHEMA_VERSION}")

    @classmethod
    def create(cls, path: Path) -> SqlStore:
        """A new, empty store; ConflictError when the file holds one already."""
        engine = _engine(path)
        try:
            with engine.begin() as connection:
                if inspect(connection).get_table_names():
                    raise ConflictError(f"authority database {path} exists already")
                tables.metadata.create_all(connection)
                connection.execute(insert(tables.schema).values(version=tables.SCHEMA_VERSION))
            path.chmod(0o600)
        except (SQLAlchemyError, OSError) as error:
            raise StorageFault(f"authority database {path} cannot be made: {_reason(error)}") from error
        finally:
            engine.dispose()
        return cls(path)

    def close(self) -> None:
        """Close every connection. The store is not used afterwards."""
        self._engine.dispose()

    @contextmanager
    def read(self) -> Iterator[Transaction]:
        """See Store."""
        with self._translated(), self._engine.connect() as connection:
            connection.exec_driver_sql("BEGIN")
            try:
                yield SqlTransaction(connection)
            finally:
                connection.exec_driver_sql("ROLLBACK")

    @contextmanager
    def write(self) -> Iterator[Transaction]:
        """See Store."""
        with self._translated(), self._engine.connect() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            try:
                yield SqlTransaction(connection)
                connection.exec_driver_sql("COMMIT")
            except BaseException:
                _roll_back(connection)
                raise

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            raise StorageFault(
                f"authority database {self._path}: {_reason(error)}", hint="check disk space and permissions"
            ) from error


def _engine(path: Path) -> Engine:
    engine = create_engine(
        f"sqlite:///{path}",
        isolation_level="AUTOCOMMIT",  # transactions are begun by hand, writes with BEGIN IMMEDIATE
        connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False},
        pool_size=8,
        max_overflow=24,
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _: Any) -> None:
        cursor = connection.cursor()
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    return engine


def _roll_back(connection: Connection) -> None:
    if connection.connection.dbapi_connection.in_transaction:  # type: ignore[union-attr]
        connection.exec_driver_sql("ROLLBACK")


def _reason(error: BaseException) -> str:
    """What the driver says, without the statement's parameters."""
    if isinstance(error, DBAPIError) and error.orig is not None:
        return str(error.orig)
    return str(error).splitlines()[0] if str(error) else type(error).__name__

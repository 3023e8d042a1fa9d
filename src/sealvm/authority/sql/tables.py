"""The tables, one a record of authority.records, with column types that carry Python values both ways."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Dialect,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.types import TypeDecorator

SCHEMA_VERSION = 2

metadata = MetaData()


class Moment(TypeDecorator[datetime]):
    """An aware UTC datetime of whole seconds, as RFC 3339 text, which sorts by time."""

    impl = String(20)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> str | None:
        return None if value is None else value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        return None if value is None else datetime.strptime(value, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)


class Listed(TypeDecorator[tuple[Any, ...]]):
    """A tuple of integers or strings, as a JSON list."""

    impl = JSON
    cache_ok = True

    def process_bind_param(self, value: tuple[Any, ...] | None, dialect: Dialect) -> list[Any] | None:
        return None if value is None else list(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> tuple[Any, ...] | None:
        return None if value is None else tuple(value)


class Blobs(TypeDecorator[tuple[bytes, ...]]):
    """A tuple of byte strings, as a JSON list of hex."""

    impl = JSON
    cache_ok = True

    def process_bind_param(self, value: tuple[bytes, ...] | None, dialect: Dialect) -> list[str] | None:
        return None if value is None else [item.hex() for item in value]

    def process_result_value(self, value: Any, dialect: Dialect) -> tuple[bytes, ...] | None:
        return None if value is None else tuple(bytes.fromhex(item) for item in value)


class PcrValues(TypeDecorator[dict[int, bytes]]):
    """PCR index to digest, as a JSON object of hex."""

    impl = JSON
    cache_ok = True

    def process_bind_param(self, value: dict[int, bytes] | None, dialect: Dialect) -> dict[str, str] | None:
        return None if value is None else {str(index): digest.hex() for index, digest in sorted(value.items())}

    def process_result_value(self, value: Any, dialect: Dialect) -> dict[int, bytes] | None:
        return None if value is None else {int(index): bytes.fromhex(digest) for index, digest in value.items()}


NAME = String(64)

schema = Table("schema", metadata, Column("version", Integer, primary_key=True))

operators = Table(
    "operators",
    metadata,
    Column("name", NAME, primary_key=True),
    Column("token_digest", LargeBinary(32), nullable=False, unique=True),
    Column("created", Moment, nullable=False),
)

roots = Table(
    "roots",
    metadata,
    Column("sha256", LargeBinary(32), primary_key=True),
    Column("certificate", LargeBinary, nullable=False),
    Column("subject", Text, nullable=False),
    Column("trust_class", String(16), nullable=False),
    Column("added", Moment, nullable=False),
)

hosts = Table(
    "hosts",
    metadata,
    Column("name", NAME, primary_key=True),
    Column("host_id", String(32), nullable=False, unique=True),
    Column("ek_digest", LargeBinary(32), unique=True),
    Column("registered", Moment, nullable=False),
    Column("trust_class", String(16)),
    Column("tpm", Text, nullable=False),
    Column("tpm_model", Listed, nullable=False),
    Column("ek_root", LargeBinary, nullable=False),
    Column("ek_public", LargeBinary, nullable=False),
    Column("ak_public", LargeBinary, nullable=False),
    Column("srk_public", LargeBinary, nullable=False),
    Column("import_parent_public", LargeBinary, nullable=False),
    Column("request_key_public", LargeBinary, nullable=False),
    Column("request_keyid", String(64), unique=True),
    Column("enrolled", Moment),
    Column("last_sync", Moment),
    Column("cell", NAME, nullable=False),
)

tickets = Table(
    "tickets",
    metadata,
    Column("host", NAME, primary_key=True),
    Column("token_digest", LargeBinary(32), nullable=False, unique=True),
    Column("ek_digest", LargeBinary(32)),
    Column("expires", Moment, nullable=False),
    Column("used", Moment),
)

pending = Table(
    "pending",
    metadata,
    Column("host", NAME, primary_key=True),
    Column("ek_digest", LargeBinary(32), nullable=False),
    Column("tpm", Text, nullable=False),
    Column("trust_class", String(16), nullable=False),
    Column("first_seen", Moment, nullable=False),
    Column("last_seen", Moment, nullable=False),
)

bars = Table(
    "bars",
    metadata,
    Column("bar_id", String(16), primary_key=True),
    Column("manufacturer", String(128), nullable=False),
    Column("model", String(128), nullable=False),
    Column("version", String(128), nullable=False),
    Column("before", String(128), nullable=False),
    Column("reason", Text, nullable=False),
    Column("added", Moment, nullable=False),
)

enrollments = Table(
    "enrollments",
    metadata,
    Column("host", NAME, primary_key=True),
    Column("session", String(32), nullable=False, unique=True),
    Column("token_digest", LargeBinary(32), nullable=False),
    Column("expires", Moment, nullable=False),
    Column("body", JSON, nullable=False),
)

challenges = Table(
    "challenges",
    metadata,
    Column("host", NAME, primary_key=True),
    Column("session", String(32), nullable=False, unique=True),
    Column("nonce", LargeBinary(32), nullable=False),
    Column("pcrs", Listed, nullable=False),
    Column("expires", Moment, nullable=False),
)

lease_challenges = Table(
    "lease_challenges",
    metadata,
    Column("host", NAME, primary_key=True),
    Column("session", String(32), nullable=False, unique=True),
    Column("nonce", LargeBinary(32), nullable=False),
    Column("pcrs", Listed, nullable=False),
    Column("expires", Moment, nullable=False),
)

leases = Table(
    "leases",
    metadata,
    Column("host", NAME, primary_key=True),
    Column("profile", NAME, primary_key=True),
    Column("epoch", Integer, primary_key=True),
    Column("cell", NAME, primary_key=True),
    Column("reset_count", BigInteger, nullable=False),
    Column("lease_point", LargeBinary(65), nullable=False),
    Column("srk_name", LargeBinary(34), nullable=False),
    Column("authorization", LargeBinary(80), nullable=False),
    Column("seconds", Integer, nullable=False),
    Column("granted", Moment, nullable=False),
    Column("ends", Moment, nullable=False),
    Column("renewals", Integer, nullable=False),
)

proofs = Table(
    "proofs",
    metadata,
    Column("proof_id", LargeBinary(32), primary_key=True),
    Column("expires", Moment, nullable=False),
    Index("proofs_by_expiry", "expires"),
)

states = Table(
    "states",
    metadata,
    Column("host", NAME, primary_key=True),
    Column("qualifying_data", LargeBinary, nullable=False),
    Column("quote", LargeBinary, nullable=False),
    Column("signature", LargeBinary, nullable=False),
    Column("event_log", LargeBinary, nullable=False),
    Column("preimages", Blobs, nullable=False),
    Column("pcr_values", PcrValues, nullable=False),
    Column("events", Integer, nullable=False),
    Column("verified", Moment, nullable=False),
)

profiles = Table(
    "profiles",
    metadata,
    Column("name", NAME, primary_key=True),
    Column("document", Text, nullable=False),
    Column("pcrs", Listed, nullable=False),
    Column("trust", Listed, nullable=False),
    Column("applied", Moment, nullable=False),
)

epochs = Table(
    "epochs",
    metadata,
    Column("profile", NAME, primary_key=True),
    Column("epoch", Integer, primary_key=True),
    Column("cell", NAME, primary_key=True),
    Column("mode", String(16), nullable=False),
    Column("selection", Listed, nullable=False),
    Column("point", LargeBinary(65), nullable=False),
    Column("public", LargeBinary, nullable=False),
    Column("approver_point", LargeBinary(65), nullable=False),
    Column("custody_name", String(128), nullable=False, unique=True),
    Column("created", Moment, nullable=False),
    Column("wraps", Boolean, nullable=False),
    Column("retired", Moment),
    Column("lease_point", LargeBinary(65), nullable=False),
)

approvals = Table(
    "approvals",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("profile", NAME, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("cell", NAME, nullable=False),
    Column("pcr_digest", LargeBinary(32), nullable=False),
    Column("host", NAME, nullable=False),
    Column("body", JSON, nullable=False),
    Column("created", Moment, nullable=False),
    UniqueConstraint("profile", "epoch", "cell", "pcr_digest"),
)

observed = Table(
    "observed",
    metadata,
    Column("state_id", LargeBinary(32), primary_key=True),
    Column("host", NAME, nullable=False),
    Column("trust_class", String(16), nullable=False),
    Column("ak_public", LargeBinary, nullable=False),
    Column("qualifying_data", LargeBinary, nullable=False),
    Column("quote", LargeBinary, nullable=False),
    Column("signature", LargeBinary, nullable=False),
    Column("event_log", LargeBinary, nullable=False),
    Column("preimages", Blobs, nullable=False),
    Column("pcr_values", PcrValues, nullable=False),
    Column("first_seen", Moment, nullable=False),
    Column("last_seen", Moment, nullable=False),
    Index("observed_by_host", "host"),
)

withdrawals = Table(
    "withdrawals",
    metadata,
    Column("profile", NAME, primary_key=True),
    Column("pcr_digest", LargeBinary(32), primary_key=True),
    Column("label", Text, nullable=False),
    Column("withdrawn", Moment, nullable=False),
)

rules = Table(
    "rules",
    metadata,
    Column("profile", NAME, primary_key=True),
    Column("epoch", Integer, primary_key=True),
    Column("cell", NAME, primary_key=True),
    Column("name", NAME, primary_key=True),
    Column("match", Listed, nullable=False),
    Column("rule_point", LargeBinary(65), nullable=False),
    Column("custody_name", String(128), nullable=False, unique=True),
    Column("delegation", JSON(none_as_null=True)),
    Column("until_epoch", Integer),
    Column("created", Moment, nullable=False),
)

signings = Table(
    "signings",
    metadata,
    Column("request_id", String(64), primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("profile", NAME, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("cell", NAME, nullable=False),
    Column("body", JSON, nullable=False),
    Column("created", Moment, nullable=False),
)

inventories = Table(
    "inventories",
    metadata,
    Column("host", NAME, primary_key=True),
    Column("body", JSON, nullable=False),
    Column("reported", Moment, nullable=False),
)

approvers = Table(
    "approvers",
    metadata,
    Column("point", LargeBinary(65), primary_key=True),
)

provisioners = Table(
    "provisioners",
    metadata,
    Column("name", NAME, primary_key=True),
    Column("point", LargeBinary(65), nullable=False, unique=True),
    Column("profiles", Listed, nullable=False),
    Column("trusted", Moment, nullable=False),
)

bundles = Table(
    "bundles",
    metadata,
    Column("version", Integer, primary_key=True),
    Column("envelope", LargeBinary, nullable=False),
    Column("issued", Moment, nullable=False),
    Column("expires", Moment, nullable=False),
)

audit = Table(
    "audit",
    metadata,
    Column("sequence", Integer, primary_key=True),
    Column("time", Moment, nullable=False),
    Column("actor", String(128), nullable=False),
    Column("action", String(64), nullable=False),
    Column("subject", String(128), nullable=False),
    Column("details", JSON, nullable=False),
    Column("previous", LargeBinary(32), nullable=False),
    Column("digest", LargeBinary(32), nullable=False, unique=True),
    Index("audit_by_action", "action", "subject"),
)

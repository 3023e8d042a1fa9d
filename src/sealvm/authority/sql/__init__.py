"""The authority's store in SQL (SQLAlchemy 2): SQLite in WAL mode. Implements authority.ports.Store.

Knows records and tables only: no use case, no HTTP, no key. Holds no private key: those lie in custody.
"""

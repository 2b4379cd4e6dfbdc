"""Migrations: forward-only numbered schemas, each run in one transaction that also moves `user_version`.

A database that is newer than this software is refused rather than guessed at. Nothing is ever migrated backwards.
A release that gives effect to what had none before (a new kind of entry or document) empties the view in its step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import apsw

from appliance.core.errors import X0tError, error

LOG: tuple[str, ...] = (
    """
    CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE batches (arrival INTEGER PRIMARY KEY, hash BLOB NOT NULL, blob BLOB, payload BLOB);
    """,
)

_EMPTIED_1 = """
    DELETE FROM branches;
    DELETE FROM batches;
    DELETE FROM late;
    DELETE FROM marks;
    DELETE FROM undo;
    DELETE FROM grants;
    DELETE FROM revocations;
    DELETE FROM thaws;
    DELETE FROM checkpoints;
    DELETE FROM nodes;
    DELETE FROM document_changes;
    DELETE FROM document_caches;
    DELETE FROM no_effect;
    DELETE FROM frozen;
    DELETE FROM document_values;
"""  # all that schema 1 of the view had

VIEW: tuple[str, ...] = (
    """
    CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE branches (number INTEGER PRIMARY KEY, author BLOB NOT NULL, parent INTEGER, from_seq INTEGER NOT NULL);
    CREATE INDEX branches_author ON branches (author);
    CREATE TABLE batches (
        arrival INTEGER PRIMARY KEY, hash BLOB NOT NULL, branch INTEGER NOT NULL, seq INTEGER NOT NULL,
        hlc INTEGER NOT NULL, reach BLOB NOT NULL, mark INTEGER NOT NULL);
    CREATE UNIQUE INDEX batches_hash ON batches (hash);
    CREATE INDEX batches_branch ON batches (branch, seq);
    CREATE INDEX batches_order ON batches (hlc, hash, branch, seq);
    CREATE TABLE late (hash BLOB, checkpoint BLOB, entry INTEGER, PRIMARY KEY (hash, checkpoint, entry)) WITHOUT ROWID;
    CREATE TABLE marks (
        arrival INTEGER, entry INTEGER, record BLOB NOT NULL, PRIMARY KEY (arrival, entry)) WITHOUT ROWID;
    CREATE TABLE undo (
        hlc INTEGER NOT NULL, hash BLOB NOT NULL, step INTEGER NOT NULL,
        tbl TEXT NOT NULL, key BLOB NOT NULL, old BLOB, PRIMARY KEY (hlc, hash, step)) WITHOUT ROWID;
    CREATE INDEX undo_nodes ON undo (key, hlc, hash) WHERE tbl = 'nodes';
    CREATE TABLE grants (
        batch BLOB, entry INTEGER, grant_id BLOB NOT NULL, subject BLOB NOT NULL, issuer BLOB NOT NULL,
        roles TEXT NOT NULL, scope TEXT NOT NULL, "delegate" INTEGER NOT NULL, depth INTEGER NOT NULL,
        not_before_ms INTEGER NOT NULL, not_after_ms INTEGER NOT NULL, reason TEXT NOT NULL,
        PRIMARY KEY (batch, entry)) WITHOUT ROWID;
    CREATE TABLE revocations (
        batch BLOB, entry INTEGER, target BLOB NOT NULL, author BLOB NOT NULL, roles TEXT NOT NULL,
        cut_seq INTEGER NOT NULL, note TEXT NOT NULL, reason TEXT NOT NULL, PRIMARY KEY (batch, entry)) WITHOUT ROWID;
    CREATE TABLE thaws (
        batch BLOB, entry INTEGER, author BLOB NOT NULL, owner BLOB NOT NULL, keep BLOB NOT NULL, note TEXT NOT NULL,
        reason TEXT NOT NULL, PRIMARY KEY (batch, entry)) WITHOUT ROWID;
    CREATE TABLE checkpoints (
        batch BLOB, entry INTEGER, epoch INTEGER NOT NULL, owner BLOB NOT NULL, horizon INTEGER NOT NULL,
        count INTEGER NOT NULL, digest BLOB NOT NULL, reason TEXT NOT NULL, PRIMARY KEY (batch, entry)) WITHOUT ROWID;
    CREATE TABLE nodes (
        node BLOB PRIMARY KEY, name TEXT NOT NULL, endpoints TEXT NOT NULL, software TEXT NOT NULL, batch BLOB NOT NULL
        ) WITHOUT ROWID;
    CREATE TABLE document_changes (
        document TEXT, epoch INTEGER, change BLOB, batch BLOB NOT NULL, entry INTEGER NOT NULL, hlc INTEGER NOT NULL,
        PRIMARY KEY (document, epoch, change)) WITHOUT ROWID;
    CREATE INDEX document_changes_order ON document_changes (hlc, batch, entry);
    CREATE TABLE document_caches (document TEXT, epoch INTEGER, saved BLOB NOT NULL, PRIMARY KEY (document, epoch));
    CREATE TABLE no_effect (
        batch BLOB, entry INTEGER, author BLOB NOT NULL, seq INTEGER NOT NULL, hlc INTEGER NOT NULL, kind TEXT NOT NULL,
        reason TEXT NOT NULL, PRIMARY KEY (batch, entry)) WITHOUT ROWID;
    CREATE TABLE frozen (
        author BLOB PRIMARY KEY, seq INTEGER NOT NULL, proof_a BLOB NOT NULL, proof_b BLOB NOT NULL,
        decided INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE document_values (
        document TEXT, epoch INTEGER, key TEXT, value TEXT NOT NULL, rivals TEXT NOT NULL,
        PRIMARY KEY (document, epoch, key)) WITHOUT ROWID;
    """,
    # Attachments, secrets and the policy document: before, such entries were unknown and without effect. Emptied, the
    # view is folded anew from the log at the next start, as after its loss.
    """
    CREATE TABLE attachments (
        node BLOB PRIMARY KEY, key BLOB NOT NULL, uris TEXT NOT NULL, relay INTEGER NOT NULL, hlc INTEGER NOT NULL,
        batch BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE secrets (
        epoch INTEGER, batch BLOB, entry INTEGER, author BLOB NOT NULL, secret BLOB NOT NULL,
        PRIMARY KEY (epoch, batch, entry)) WITHOUT ROWID;
    CREATE INDEX undo_attachments ON undo (key, hlc, hash) WHERE tbl = 'attachments';
    """
    + _EMPTIED_1,
    # Admission: tokens, enrolments, decisions and node certificates, and what follows from them.
    _EMPTIED_1
    + """
    DELETE FROM attachments;
    DELETE FROM secrets;
    CREATE TABLE tokens (
        batch BLOB, entry INTEGER, token BLOB NOT NULL, issuer BLOB NOT NULL, grant_id BLOB NOT NULL,
        tags TEXT NOT NULL, level TEXT NOT NULL, uses INTEGER NOT NULL, redeemer BLOB, not_before_ms INTEGER NOT NULL,
        not_after_ms INTEGER NOT NULL, note TEXT NOT NULL, hlc INTEGER NOT NULL, PRIMARY KEY (batch, entry)
        ) WITHOUT ROWID;
    CREATE INDEX tokens_token ON tokens (token);
    CREATE INDEX tokens_issuer ON tokens (issuer);
    CREATE TABLE retirements (
        batch BLOB, entry INTEGER, token BLOB NOT NULL, author BLOB NOT NULL, scope TEXT NOT NULL, note TEXT NOT NULL,
        hlc INTEGER NOT NULL, PRIMARY KEY (batch, entry)) WITHOUT ROWID;
    CREATE INDEX retirements_token ON retirements (token);
    CREATE TABLE enrolments (
        batch BLOB, entry INTEGER, token BLOB NOT NULL, node BLOB NOT NULL, gateway BLOB NOT NULL, issuer BLOB NOT NULL,
        grant_id BLOB NOT NULL, tags TEXT NOT NULL, level TEXT NOT NULL, uses INTEGER NOT NULL, name TEXT NOT NULL,
        hlc INTEGER NOT NULL, PRIMARY KEY (batch, entry)) WITHOUT ROWID;
    CREATE INDEX enrolments_token ON enrolments (token, node);
    CREATE INDEX enrolments_node ON enrolments (node);
    CREATE INDEX enrolments_issuer ON enrolments (issuer, token);
    CREATE TABLE decisions (
        batch BLOB, entry INTEGER, node BLOB NOT NULL, action TEXT NOT NULL, author BLOB NOT NULL, scope TEXT NOT NULL,
        note TEXT NOT NULL, rule TEXT NOT NULL, hlc INTEGER NOT NULL, PRIMARY KEY (batch, entry)) WITHOUT ROWID;
    CREATE INDEX decisions_node ON decisions (node);
    CREATE TABLE certificates (
        batch BLOB, entry INTEGER, certificate BLOB NOT NULL, subject BLOB NOT NULL, issuer BLOB NOT NULL,
        parent BLOB NOT NULL, enrolment BLOB, mesh_key BLOB NOT NULL, tunnel_key BLOB NOT NULL, name TEXT NOT NULL,
        tags TEXT NOT NULL, level TEXT NOT NULL, not_before_ms INTEGER NOT NULL, not_after_ms INTEGER NOT NULL,
        rule TEXT NOT NULL, hlc INTEGER NOT NULL, reason TEXT NOT NULL, PRIMARY KEY (batch, entry)) WITHOUT ROWID;
    CREATE TABLE admissions (
        node BLOB PRIMARY KEY, state TEXT NOT NULL, since_hlc INTEGER NOT NULL, reason TEXT NOT NULL,
        note TEXT NOT NULL, rule TEXT NOT NULL, actor BLOB NOT NULL, token BLOB, enrolment BLOB, tags TEXT NOT NULL,
        level TEXT NOT NULL, certificate_batch BLOB, certificate_entry INTEGER, winner BLOB) WITHOUT ROWID;
    CREATE TABLE surplus (
        token BLOB, node BLOB, reason TEXT NOT NULL, winner BLOB, PRIMARY KEY (token, node)) WITHOUT ROWID;
    CREATE TABLE idle (
        batch BLOB, entry INTEGER, node BLOB NOT NULL, author BLOB NOT NULL, seq INTEGER NOT NULL, hlc INTEGER NOT NULL,
        kind TEXT NOT NULL, reason TEXT NOT NULL, PRIMARY KEY (batch, entry)) WITHOUT ROWID;
    CREATE INDEX idle_node ON idle (node);
    """,
)


def open_database(path: str, steps: Sequence[str], *, full: bool, vfs: str | None = None) -> apsw.Connection:
    """Open in WAL mode with synchronous FULL or NORMAL and bring the schema up to date."""
    try:
        connection = apsw.Connection(path, vfs=vfs)
        connection.set_busy_timeout(5000)
        if full:  # one batch fills a 4 KiB page: larger ones make a durable group 1.6 times as fast, measured
            connection.execute("PRAGMA page_size=16384")
        # EXTRA while WAL mode is entered: it flushes the directory too. Else a power cut may bring the rollback journal
        # of that first step back, which then undoes everything since.
        connection.execute("PRAGMA synchronous=EXTRA")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"PRAGMA synchronous={'FULL' if full else 'NORMAL'}")
        if not full:  # the index and the rows change the same pages again and again: 32 MiB of WAL absorb that
            connection.execute("PRAGMA wal_autocheckpoint=8000")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute(f"PRAGMA cache_size={-512 if full else -2048}")  # KiB; more only grows resident memory
        _migrate(connection, steps, path)
    except apsw.Error as err:
        raise storage_error(err, path) from err
    return connection


@contextmanager
def transaction(connection: apsw.Connection) -> Iterator[None]:
    """All or nothing. Not apsw's own: SQLite rolls back itself when the disk is full; the cause must stay visible."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def storage_error(err: apsw.Error, path: str) -> X0tError:
    """The coded error for what SQLite reported."""
    if isinstance(err, apsw.FullError):
        return error("replica.disk_full", path=path)
    if isinstance(err, apsw.ReadOnlyError | apsw.CantOpenError | apsw.PermissionsError | apsw.BusyError):
        return error("replica.read_only", path=path, reason=str(err))
    return error("replica.corrupt", what=path, reason=str(err))


def _migrate(connection: apsw.Connection, steps: Sequence[str], path: str) -> None:
    version = connection.pragma("user_version")
    if not isinstance(version, int) or version > len(steps):
        raise error("replica.corrupt", what=path, reason=f"schema {version} is newer than this software")
    for number, step in enumerate(steps[version:], start=version + 1):
        with transaction(connection):
            connection.execute(step)
            connection.execute(f"PRAGMA user_version={number}")

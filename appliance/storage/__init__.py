"""Storage: SQLite through apsw; the only place with SQL. apsw, so that the crash tests run on this very code."""

"""What works without a daemon: checking an archive, and discarding a read model that cannot be opened.

Both are for a bad day, when the daemon does not start or the file is all that is left. They take the data directory's
lock where they touch it, so they never work beside a daemon.
"""

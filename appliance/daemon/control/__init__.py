"""The control API: version 1, over a unix socket, for `x0t` and for tests."""

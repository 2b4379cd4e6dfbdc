"""The command line x0t: a click tree that asks the daemon over its control socket and prints what it answers."""

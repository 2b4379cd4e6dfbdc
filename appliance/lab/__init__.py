"""Many real nodes on one machine: the demonstration that `./run` starts, and the bench of namespaces (site)."""

"""Many real nodes on one machine: the demonstration that `./run` starts."""

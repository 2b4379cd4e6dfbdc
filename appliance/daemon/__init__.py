"""The daemon x0td: settings, supervision, the control socket, links to peers, and the wiring that joins all parts."""

"""The nftables enforcer: one table of family inet for each mesh, which holds what `policy.filter` says.

`firewall` is the adapter that others use; `skeleton` the rules, `raw` and `elements` what they look up, `kernel` and
`channel` the way into the kernel and back, `enforcer` the order of the steps. What others do is seen by `watch`, what
was dropped by `droplog`, what runs by `conntrack`; `verdict` says in Python what the rules say.
"""

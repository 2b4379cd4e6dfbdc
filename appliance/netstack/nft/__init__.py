"""The nftables enforcer: one table of family inet for each mesh, which holds what `policy.filter` says.

`firewall` is the adapter that others use; `skeleton` the rules, `raw` and `elements` what they look up, `kernel` and
`channel` the way into the kernel and back. `enforcer` has the steps of a change, `endings` what a change leaves to be
ended, `looks` how the table is read meanwhile; each has a thread and an `access` of its own, and `turns` says who goes
first. What others do is seen by `watch`, what was dropped by `droplog`, what runs by `conntrack`; `verdict` says in
Python what the rules say.
"""

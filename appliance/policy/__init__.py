"""Who may talk to whom: the policy as a set of rules, and what follows from it. All of it is pure."""

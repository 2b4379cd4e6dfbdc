"""Admission: how a stranger becomes a member. Pure: messages and state machines; who holds the wire is elsewhere."""

"""Yggdrasil: the process that carries the mesh, closed to everybody but the members, and its reconciler."""

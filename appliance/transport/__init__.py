"""Transport: post-quantum TLS 1.3 between nodes, and the streams that run over it.

A peer is its ML-DSA-65 public key and nothing else. This package never reads the meaning of what it carries.
"""

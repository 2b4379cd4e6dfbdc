"""The x0tta6bl4 appliance: a full replica of a site's control plane, and what acts on it.

The sub-packages depend inwards only: see docs and the layer contract in pyproject.toml.
"""

"""The vocabulary of the appliance: identifiers, units, clocks, limits, errors and canonical encodings.

Everything here is pure. It imports nothing else of ours, opens nothing and knows only the time it is given.
"""

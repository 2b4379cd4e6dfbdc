"""Parts of the network that exist in memory alone, with the contracts of the real ones: for tests, and without root."""

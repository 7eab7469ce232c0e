"""The daemon process: composition root of core, store, peers and API."""

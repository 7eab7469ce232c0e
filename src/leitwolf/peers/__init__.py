"""TLS streams between the daemons, the cluster's own authority, and join.

Modules: ``identity`` (files and TLS contexts), ``authority`` (certificates; imports x509, so only
for init and join), ``token``, ``frames`` (what is said on a stream), ``marks`` (memory against
restored copies), ``streams`` (:class:`PeerNetwork`), ``join`` (the joining side).
"""

__all__ = ["DEFAULT_PORT"]

DEFAULT_PORT = 6474
"""The one port of Leitwolf: TCP for daemons, UDP for guards."""

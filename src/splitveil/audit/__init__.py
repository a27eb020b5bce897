"""Audits: suites of attacks, their controls, and the worst over all attackers.

The package can be called, as `splitveil.audit.api.audit`.
"""

from splitveil.rooms import make_callable

make_callable(__name__, "splitveil.audit.api:audit")

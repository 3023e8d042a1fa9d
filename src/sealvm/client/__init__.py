"""The authority's HTTP client, for hosts, provisioners and operators.

May import protocol and what is below. Pins the authority's CA; turns problems back into the errors they were made from,
and every other failure into AuthorityAwayFault. Holds a bearer token or a signer in memory, and writes neither down.
"""

"""Carry any TCP stream from one facility's memory to another's, through gateways, encrypted.

The package holds the control server (`scistream.control`), the user client (`scistream.client`), the
data servers (`scistream.dataserver`) and the rules that they follow (`scistream.core`).
"""

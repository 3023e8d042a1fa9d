"""What runs the guests: QEMU behind one Protocol, and the probe that finds out how it may run them.

May import the host's process and console modules, errors and secret. Never holds a key: a hypervisor gets the storage
daemon's socket and nothing else of the guest.
"""

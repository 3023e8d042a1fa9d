"""What a provisioner does: encrypt a disk image into a launch package, and keep the key that signs packages.

May import package, store, crypto and errors. Holds the provisioner's private key while it signs, and a package's K
while it builds; neither is ever written in the clear, and K is written nowhere but inside wraps.
"""

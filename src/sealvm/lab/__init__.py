"""A computing network on one machine, without hardware TPMs: what the demo and most tests run on.

Starts swtpm processes manufactured with EK certificates of a lab-only CA, replays recorded boots into their PCRs, and
holds the attack suite. May import everything below it (host, authority, provisioner and what they stand on), never the
CLI. Every TPM here is real software behind the real command interface; but root can read a swtpm's state files, so a
lab host's TPM is no defence against its own root, and the attacks stay behind the TPM's interface.
"""

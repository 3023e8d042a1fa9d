"""Where packages lie: OCI image layouts on disk, and the references that name them.

May import crypto, package and what lies below. Never holds a key: everything stored here is ciphertext, signed
statements, or public structure.
"""

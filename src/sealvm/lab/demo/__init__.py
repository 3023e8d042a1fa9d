"""The demo: one VM, three hosts, one of them tampered with, told in seven steps.

    stage.py     what the steps share: the lab, the voice, the program run as a user would run it
    trust.py     steps 1 to 3: hosts enroll, a profile's key is sealed into their TPMs, a state is approved
    vms.py       steps 4, 5 and 7: a disk is sealed and launched; and launched again with nobody there to ask
    attack.py    step 6: what root of the tampered host, a stranger and whoever stores the package can do
    story.py     the seven steps in order

Every figure and digest that it prints comes from the run itself. Nothing in it is a shortcut past a check: it speaks to
the authority over TLS, and launches through the program.
"""

"""Who may, how often, and which way: decisions without I/O.

Every table here is bounded, every time is an argument (`now`, monotonic seconds), every draw of chance is a number in
[0, 1) that the caller makes. None of it knows links, sessions or stores.
"""

"""Circuits: byte streams between two nodes through a third one that can read nothing of them.

Pure: messages, bytes and the time go in; messages and bytes come out. `leg` is one circuit on one link, `end` this
node's own end of a circuit, `switch` all of one node's circuits, and the rules of a relay, `neighbour` what one
neighbour may have of it.

Source: wire section 7.
"""
